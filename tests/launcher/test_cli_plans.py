"""Commands around plans, from their arguments to their exit codes."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import Result

Still = Callable[..., Result]

TINY = """\
name: tiny
teacher: {kind: none}
student:
  {kind: new, characters: "0123456789", layers: 1, hidden_size: 8, heads: 1, intermediate_size: 8}
data: {kind: generated, rows: 10, prompt: "{question}", completion: "{answer}"}
training: {steps: 100, batch_size: 2, learning_rate: 0.001}
hardware: {local: true, usd_per_hour: 3.60}
budget: {usd: 1.00}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


# ---- still diff ------------------------------------------------------------------------------


def test_diff_prices_two_local_recipes_and_names_what_differs(
    still: Still, recipe_file: Path, tmp_path: Path
) -> None:
    dearer = tmp_path / "dearer.yaml"
    dearer.write_text(TINY.replace("3.60", "7.20").replace("name: tiny", "name: dearer"))

    text = still("diff", recipe_file, dearer)
    said = json.loads(still("diff", recipe_file, dearer, "--json").stdout)

    assert text.exit_code == 0, text.stderr
    assert "dearer - tiny" in text.stdout
    assert "- hardware.usd_per_hour: 3.60 -> 7.20" in text.stdout
    assert said["difference"]["usd"]["p50"] == said["a"]["usd"]["p50"]
    assert Decimal(said["difference"]["hours"]["p50"]) == 0


def test_diff_names_the_file_that_is_wrong(still: Still, recipe_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TINY.replace("usd: 1.00", "usd: -1"))

    result = still("diff", recipe_file, wrong)

    assert result.exit_code == 2
    assert "wrong.yaml:8 budget.usd" in result.stderr
