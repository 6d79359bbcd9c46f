"""Answers of earlier runs, found again by who was asked what, and how.

    $STILLHOUSE_HOME/cache/traces/<teacher and sampling>/<content>.jsonl

Files are written whole, renamed into place and never changed, so that any number of processes can
use the cache at once, and a kill leaves nothing torn. A line that cannot be read is no answer; a
disk that cannot be written is a warning: the cache saves money, and must never cost a run.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from recipes.fingerprints import fingerprint
from recipes.recipe import ApiTeacher, ModelTeacher, Sampling
from recipes.rundir import Trace, read_lines, write_atomically


def teacher_identity(teacher: ModelTeacher | ApiTeacher) -> str | None:
    """What tells a teacher from every other; `None` where it may change under the same name.

    Weights in a folder count by their content, so that a retrained teacher is another one; weights
    on the hub by id and revision, and without a revision not at all; an endpoint by its address
    and the model's name there.
    """
    if isinstance(teacher, ApiTeacher):
        return _digest({"base_url": teacher.base_url.rstrip("/"), "model": teacher.model})
    folder = Path(teacher.model).expanduser()
    if folder.is_dir():
        return _digest({"folder": fingerprint(folder), "dtype": teacher.dtype})
    if teacher.revision is None:
        return None
    return _digest({"hub": teacher.model, "at": teacher.revision, "dtype": teacher.dtype})


def answer_key(
    identity: str, system: str | None, prompt: str, sampling: Sampling, sample: int
) -> str:
    """What an answer is found by. Only what can change the answer counts.

    Args:
        sample: which of several answers to the same prompt.
    """
    asked = {**_way(identity, sampling), "system": system, "prompt": prompt}
    return _digest(asked | {"sample": sample} if sampling.temperature > 0 else asked)


def _way(identity: str, sampling: Sampling) -> dict[str, object]:
    """Who answers, and how; without what changes no answer, such as how many are wanted at once."""
    chance = {"temperature", "top_p", "seed"} if sampling.temperature > 0 else set[str]()
    return {"teacher": identity, **sampling.model_dump(include={"max_new_tokens", *chance})}


class TraceCache:
    """The answers of one teacher with one way of sampling."""

    def __init__(self, home: Path, identity: str, sampling: Sampling) -> None:
        self._folder = home / "cache" / "traces" / _digest(_way(identity, sampling))[:32]

    def find(self, keys: Iterable[str]) -> dict[str, Trace]:
        """Those of the wanted answers that are there."""
        wanted, found = set(keys), {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line, _ in read_lines(path):
                try:
                    trace = Trace.model_validate_json(line)
                except ValidationError:
                    continue
                if trace.key in wanted:
                    found[trace.key] = trace
        return found

    def add(self, traces: Iterable[Trace]) -> None:
        """Keep answers for later runs.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        lines = b"".join(trace.model_dump_json().encode() + b"\n" for trace in traces)
        if lines:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._folder / f"{hashlib.sha256(lines).hexdigest()}.jsonl", lines)


def _digest(value: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
