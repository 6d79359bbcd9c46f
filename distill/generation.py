"""A model answers a batch of prompts: one way for teacher and student.

transformers' `generate`, with everything that a model's folder says about sampling left aside, so
that only the recipe decides. An answer does not depend on which other prompts share its batch, but
for the rounding of sums: each prompt has a random stream of its own where the teacher samples, and
its own room in the model's context.
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
    """`length`: cut off at `max_new_tokens` or at the end of the model's context; a prompt that
    fills it is answered with no token."""


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
        WorkerError: there is no end of text.
    """
    ends = end_token_ids(model, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    limits = [min(max_new_tokens, _room(model, prompt)) for prompt in prompts]
    sampler = _Sampler(temperature, top_p, seeds) if temperature > 0 else None
    written: list[list[int]] = [[] for _ in prompts]
    numbers = [number for number, limit in enumerate(limits) if limit > 0]
    # No further at once than the one with the least room may go: beyond its context a model may not
    # even have a place for a token. Those that have more room then go on without it.
    while numbers:
        begun = len(written[numbers[0]])
        further = _write(
            model,
            [prompts[number] + written[number] for number in numbers],
            min(limits[number] for number in numbers) - begun,
            ends,
            pad,
            sampler and sampler.of(numbers),
            lambda tokens, begun=begun: on_token(begun + tokens),  # type: ignore[misc]
        )
        for number, tokens in zip(numbers, further, strict=True):
            written[number] += tokens
        numbers = [
            number
            for number in numbers
            if len(written[number]) < limits[number] and not set(ends) & set(written[number])
        ]
    return [_answer(tokenizer, tokens, ends) for tokens in written]


def _write(
    model: Any,
    texts: Sequence[list[int]],
    max_new_tokens: int,
    ends: list[int],
    pad: int,
    sampler: "_Sampler | None",
    on_token: Callable[[int], None],
) -> list[list[int]]:
    """What comes after each text: equally many tokens, with padding where one has ended."""
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    longest = max(map(len, texts))
    padded = [[pad] * (longest - len(text)) + text for text in texts]
    mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
    with _nothing_but(model, ends, pad), torch.inference_mode():
        written: list[list[int]] = model.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([sampler] if sampler else []),
            stopping_criteria=StoppingCriteriaList([_Watcher(longest, on_token)]),
        )[:, longest:].tolist()
    return written


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


def _room(model: Any, prompt: list[int]) -> int:
    """How many tokens fit behind a prompt."""
    from distill.models import context_tokens

    context = context_tokens(model)
    return sys.maxsize if context is None else max(0, context - len(prompt))


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

    def of(self, numbers: Sequence[int]) -> "_Sampler":
        """The same for these prompts alone; their random numbers go on."""
        sampler = _Sampler(self._temperature, self._top_p, ())
        sampler._streams = [self._streams[number] for number in numbers]
        return sampler

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
