"""A small valid recipe, and faults as text."""

from collections.abc import Callable

import pytest

from recipes.errors import InvalidRecipeError
from recipes.loading import parse_recipe

VALID = """\
name: small
teacher:
  kind: model
  model: owner/teacher
student:
  kind: pretrained
  model: owner/student
data:
  kind: generated
  prompt: "{question}="
  rows: 100
training:
  epochs: 2
  batch_size: 8
  learning_rate: 3e-4
evaluation:
  - kind: exact_match
    task: sums
    data:
      kind: generated
      prompt: "{question}="
      completion: "{answer}"
      rows: 10
hardware:
  local: true
  usd_per_hour: 0.12
budget:
  usd: 0.1
"""


@pytest.fixture
def valid() -> str:
    return VALID


@pytest.fixture
def faults() -> Callable[[str | bytes], list[str]]:
    """Every fault of a text, as a person reads them; none where it is a recipe."""

    def read(text: str | bytes) -> list[str]:
        try:
            parse_recipe(text.encode() if isinstance(text, str) else text, "small.yaml")
        except InvalidRecipeError as error:
            return list(error.faults)
        return []

    return read


@pytest.fixture
def changed(valid: str) -> Callable[[str, str], str]:
    """The valid recipe with one piece of text replaced by another."""

    def change(old: str, new: str) -> str:
        assert valid.count(old) >= 1
        return valid.replace(old, new, 1)

    return change
