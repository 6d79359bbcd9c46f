"""The figures in docstrings are what the functions return."""

import doctest
import importlib

import pytest

MODULES = (
    "flops",
    "generation",
    "gpus",
    "interruptions",
    "memory",
    "models",
    "overheads",
    "plausible",
    "quantiles",
    "training",
)


@pytest.mark.parametrize("name", MODULES)
def test_every_example_holds(name: str) -> None:
    module = importlib.import_module(f"launcher.estimate.{name}")

    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0


def test_quantiles_that_fall_are_refused() -> None:
    from launcher.estimate.quantiles import Quantiles

    with pytest.raises(ValueError, match="must not fall: 2, 1, 3"):
        Quantiles(2, 1, 3)
