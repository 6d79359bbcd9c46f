"""A model answers a batch of prompts: one way for teacher and student.

transformers' `generate`, with everything that a model's folder says about sampling left aside, so
that only the recipe decides. Where the teacher samples, each prompt has a random stream of its own:
its answer does not depend on which other prompts share its batch, but for the rounding of sums.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from distill.context import WorkerError


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    """Tokens written, the end of text included."""
    finish: Literal["stop", "length"]
    """`length`: cut off at `max_new_tokens` or at the end of the model's context."""


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] = (),
    on_token: Callable[[int], None] = lambda _tokens: None,
) -> list[Answer]:
    """Answer `prompts` (token ids, each at least one) together.

    Args:
        temperature: 0 takes the likeliest token each time.
        seeds: one for each prompt; needed with a temperature above 0.
        on_token: called after each further token of the whole batch, with how many tokens each
            answer has by now at most. What it raises ends the generation.

    Raises:
        WorkerError: a prompt leaves no room in the model's context; there is no end of text.
    """
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    longest = max(map(len, prompts))
    ends = end_token_ids(model, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    padded = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    processors = [_Sampler(temperature, top_p, seeds)] if temperature > 0 else []
    with _nothing_but(model, ends, pad), torch.inference_mode():
        written = model.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=min(max_new_tokens, _room(model, longest)),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList([_Watcher(longest, on_token)]),
        )[:, longest:].tolist()
    return [_answer(tokenizer, tokens, ends) for tokens in written]


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's folder names.

    Raises:
        WorkerError: there is none.
    """
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    ends = [end for end in (tokenizer.eos_token_id, *several) if end is not None]
    if not ends:
        raise WorkerError(
            "no_eos",
            "neither the tokenizer nor the model names an end-of-text token",
            "Choose a model that does; without it no answer would ever end.",
        )
    return list(dict.fromkeys(ends))


def _room(model: Any, prompt_tokens: int) -> int:
    """How many tokens fit behind a prompt."""
    from distill.models import context_tokens

    context = context_tokens(model)
    if context is None:
        return sys.maxsize
    if prompt_tokens >= context:
        raise WorkerError(
            "too_long",
            f"a prompt has {prompt_tokens} tokens and the model's context is {context}",
            "Take a model with a longer context, or shorter prompts.",
        )
    return context - prompt_tokens


def _answer(tokenizer: Any, tokens: list[int], ends: list[int]) -> Answer:
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    # Some tokenizers would else take blanks out before full stops and the like.
    text = tokenizer.decode(
        tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    if end is None:
        return Answer(text, len(tokens), "length")
    return Answer(text, end + 1, "stop")


@contextmanager
def _nothing_but(model: Any, ends: list[int], pad: int) -> Iterator[None]:
    """Greedy and nothing else: `generate` would fill what we leave out from the model's folder."""
    from transformers import GenerationConfig

    theirs = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=pad
    )
    try:
        yield
    finally:
        model.generation_config = theirs


class _Watcher:
    """A stopping criterion that never stops: `generate` has no other place to look in from."""

    def __init__(self, prompt_tokens: int, on_token: Callable[[int], None]) -> None:
        self._prompt_tokens = prompt_tokens
        self._on_token = on_token

    def __call__(self, input_ids: Any, _scores: Any, **_: Any) -> Any:
        self._on_token(input_ids.shape[1] - self._prompt_tokens)
        return input_ids.new_zeros(input_ids.shape[0], dtype=bool)


class _Sampler:
    """Draws each prompt's next token with that prompt's own random numbers.

    A logits processor that leaves only the drawn token, so that the greedy choice takes it: one
    uniform number a token, looked up in the cumulated probabilities, likeliest token first.
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._streams = [random.Random(seed) for seed in seeds]  # noqa: S311  # not for secrets

    def __call__(self, _input_ids: Any, scores: Any) -> Any:
        import torch

        ordered, tokens = (
            (scores.double() / self._temperature).softmax(-1).sort(-1, descending=True)
        )
        cumulated = ordered.cumsum(-1)
        # The smallest set that reaches top_p: its last member is the first to reach it.
        kept = (cumulated - ordered < self._top_p) * ordered
        cumulated = kept.cumsum(-1)
        draws = [[stream.random()] for stream in self._streams]
        points = torch.tensor(draws, dtype=torch.float64, device=scores.device) * cumulated[:, -1:]
        places = torch.searchsorted(cumulated, points, right=True)
        last_kept = (kept > 0).sum(-1, keepdim=True) - 1
        drawn = tokens.gather(-1, places.minimum(last_kept))
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)
