"""Shapes of models and the parameters that follow from them, read from a `config.json`.

Common models stand in models.csv with the fields of their published configs, so that a plan needs
no download. Anything else is read from its own config. What cannot be read is an error that says
so: a guessed size would be a guessed price.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from recipes.errors import InvalidInputError

_DENSE = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_MIXTURES = ("mixtral", "qwen3_moe")
_HEAD_NORMS = ("qwen3", "qwen3_moe")
"""Normalise each query and key head: two vectors of `head_dim` more in each layer."""


@dataclass(frozen=True)
class Shape:
    """The widths and depths of a decoder with gated feed-forward layers."""

    name: str
    layers: int
    hidden: int
    """Width of the residual stream."""
    heads: int
    kv_heads: int
    """Heads of keys and values; fewer than `heads` where groups of queries share them."""
    head_dim: int
    intermediate: int
    """Width of a feed-forward layer, or of one expert."""
    vocab: int
    context_tokens: int | None
    """Longest text it was made for [tokens]."""
    experts: int
    """1 where it is no mixture."""
    experts_per_token: int

    @property
    def attention_width(self) -> int:
        """Width of queries, all heads together."""
        return self.heads * self.head_dim

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that a token leaves in the KV cache, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class ModelFacts(Shape):
    """A shape and the parameters that follow from it."""

    params: int
    """All parameters, a shared embedding counted once."""
    active_params: int
    """Parameters that a token passes through; fewer than `params` in a mixture of experts."""


def find_model(name: str) -> ModelFacts | None:
    """A common model by its hub id; `None` where it is not in the table.

    >>> find_model("Qwen/Qwen2.5-32B-Instruct").params
    32763876352
    >>> find_model("someone/something") is None
    True
    """
    return _table().get(name.lower())


def all_models() -> tuple[ModelFacts, ...]:
    """Every model of the table, in its order."""
    return tuple(_table().values())


def read_config(config: Mapping[str, Any], name: str) -> ModelFacts:
    """The facts of a model from its `config.json`.

    Args:
        config: the parsed file. Families that are understood: llama, mistral, mixtral, qwen2,
            qwen3, qwen3_moe, smollm3.
        name: what to call it in the result and in errors.

    Raises:
        InvalidInputError: another family, a missing field, or one that is no positive number.
    """
    family = config.get("model_type")
    if family not in _DENSE + _MIXTURES:
        known = ", ".join(sorted(_DENSE + _MIXTURES))
        raise InvalidInputError(
            f"the size of {name} is unknown: its config.json is of the family {family!r}, "
            f"and only {known} can be read"
        )
    shape = _shape(config, name, mixture=family in _MIXTURES)
    tied = bool(config.get("tie_word_embeddings", family == "smollm3"))
    outside = shape.vocab * shape.hidden * (1 if tied else 2) + shape.hidden
    attention = _attention_params(shape, config, family)
    expert = 3 * shape.hidden * shape.intermediate + _mlp_biases(shape, config)
    router = shape.hidden * shape.experts if family in _MIXTURES else 0
    layer = attention + router + 2 * shape.hidden
    return ModelFacts(
        **vars(shape),
        params=outside + shape.layers * (layer + shape.experts * expert),
        active_params=outside + shape.layers * (layer + shape.experts_per_token * expert),
    )


def _shape(config: Mapping[str, Any], name: str, *, mixture: bool) -> Shape:
    def number(*keys: str) -> int:
        for key in keys:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            if value is not None:
                raise InvalidInputError(
                    f"the size of {name} is unknown: {key} in its config.json must be a whole "
                    f"number above 0, is {value!r}"
                )
        raise InvalidInputError(
            f"the size of {name} is unknown: its config.json has no {' or '.join(keys)}"
        )

    if mixture and (config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1):
        raise InvalidInputError(
            f"the size of {name} is unknown: not all of its layers have experts "
            "(mlp_only_layers, decoder_sparse_step), and such mixtures cannot be read"
        )
    hidden, heads = number("hidden_size"), number("num_attention_heads")
    has_own_head_dim = config.get("head_dim") is not None
    return Shape(
        name=name,
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", "num_attention_heads"),
        head_dim=number("head_dim") if has_own_head_dim else hidden // heads,
        intermediate=number(*(["moe_intermediate_size"] if mixture else []), "intermediate_size"),
        vocab=number("vocab_size"),
        context_tokens=number("max_position_embeddings")
        if config.get("max_position_embeddings") is not None
        else None,
        experts=number("num_experts", "num_local_experts") if mixture else 1,
        experts_per_token=number("num_experts_per_tok") if mixture else 1,
    )


def _attention_params(shape: Shape, config: Mapping[str, Any], family: str) -> int:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    weights = 2 * shape.hidden * (queries + keys)
    if family == "qwen2":
        weights += queries + 2 * keys
    elif config.get("attention_bias"):
        weights += queries + 2 * keys + shape.hidden
    return weights + (2 * shape.head_dim if family in _HEAD_NORMS else 0)


def _mlp_biases(shape: Shape, config: Mapping[str, Any]) -> int:
    return 2 * shape.intermediate + shape.hidden if config.get("mlp_bias") else 0


@cache
def _table() -> dict[str, ModelFacts]:
    text = (files("launcher.estimate") / "models.csv").read_text(encoding="utf-8")
    return {
        row["id"].lower(): read_config(_config(row), row["id"])
        for row in csv.DictReader(text.splitlines())
    }


def _config(row: dict[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = {key: int(value) for key, value in row.items() if value.isdigit()}
    config["model_type"] = row["model_type"]
    config["tie_word_embeddings"] = row["tie_word_embeddings"] == "yes"
    return config
