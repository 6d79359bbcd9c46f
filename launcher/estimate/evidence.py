"""Runs that were measured, as rows of a table: the published ones ship in evidence.csv."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, get_type_hints

from launcher.estimate.gpus import find_gpu
from launcher.estimate.work import Machine, TrainingWork

OWN = "own runs"
"""The project of runs that were measured here and not published by others."""


@dataclass(frozen=True)
class Evidence:
    """A run that was measured."""

    id: str
    project: str
    """Rows of one project are not independent: cross-validation leaves them out together."""
    work: TrainingWork
    machine: Machine
    tokens_per_gpu_s: float
    """[tokens/s] of one GPU."""

    @property
    def share(self) -> float:
        """Of the peak of its GPU, hardware FLOPs counted."""
        return self.work.flops.hardware * self.tokens_per_gpu_s / self.machine.gpu.half_flops


@cache
def published() -> tuple[Evidence, ...]:
    """The published runs that ship with us, from evidence.csv."""
    text = (files("launcher.estimate") / "evidence.csv").read_text(encoding="utf-8")
    return tuple(read_evidence(csv.DictReader(text.splitlines())))


_WORK_FIELDS: dict[str, Any] = {
    name: kind
    for name, kind in get_type_hints(TrainingWork).items()
    if name not in ("train_tokens", "setup")
}
_OWN_COLUMNS = ("id", "project", "gpu", "gpus_per_node", "nodes", "tokens_per_gpu_s")
EVIDENCE_COLUMNS = (*_OWN_COLUMNS, *_WORK_FIELDS)


def read_evidence(rows: Iterable[dict[str, str]]) -> Iterable[Evidence]:
    """Evidence from the rows of a table with EVIDENCE_COLUMNS.

    Raises:
        ValueError: a GPU that is not in the table of GPUs, or a value that is none of its kind.
    """
    for row in rows:
        gpu = find_gpu(row["gpu"])
        if gpu is None:
            raise ValueError(f"{row['id']}: the GPU {row['gpu']} is not known")
        fields = {name: _parse(kind, row[name]) for name, kind in _WORK_FIELDS.items()}
        yield Evidence(
            id=row["id"],
            project=row["project"],
            work=TrainingWork(train_tokens=1.0, **fields),
            machine=Machine(gpu, int(row["gpus_per_node"]), int(row["nodes"])),
            tokens_per_gpu_s=float(row["tokens_per_gpu_s"]),
        )


def write_evidence(evidence: Evidence) -> dict[str, str]:
    """A row with EVIDENCE_COLUMNS; numbers to six digits."""
    machine = evidence.machine
    row = {
        "id": evidence.id,
        "project": evidence.project,
        "gpu": machine.gpu.name,
        "gpus_per_node": str(machine.gpus_per_node),
        "nodes": str(machine.nodes),
        "tokens_per_gpu_s": f"{evidence.tokens_per_gpu_s:.6g}",
    }
    return row | {name: _show(getattr(evidence.work, name)) for name in _WORK_FIELDS}


def _parse(kind: Any, text: str) -> Any:
    if kind is bool:
        return {"yes": True, "no": False}[text]
    return kind(text) if kind in (int, float) else text


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
