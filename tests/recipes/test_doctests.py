"""The examples in the docstrings of `recipes` give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import recipes

MODULES = [f"recipes.{found.name}" for found in pkgutil.iter_modules(recipes.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
