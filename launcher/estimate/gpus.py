"""Peaks, memory and links of GPUs: one row a model in gpus.csv, each with its source."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MIB = 2**20

_MAKERS = ("NVIDIA", "AMD", "TESLA", "GEFORCE", "INSTINCT")


@dataclass(frozen=True)
class Gpu:
    """One GPU. Everything is per GPU and for dense matrices (no sparsity)."""

    name: str
    half_flops: float
    """Peak in bfloat16, or in float16 where `bf16` is false [FLOP/s]."""
    half_flops_at_most: float
    """The highest peak that anybody states [FLOP/s]; above it a figure cannot be true."""
    best_matmul_flops: float | None
    """The fastest large matrix product that was measured [FLOP/s]."""
    fp8_flops: float | None
    """Peak in 8-bit floating point [FLOP/s]; `None` where there is none or it is not known."""
    memory_bytes: int
    """As the driver reports it, before anything runs [bytes]."""
    memory_bytes_per_s: float
    """Peak bandwidth of its own memory [bytes/s]."""
    bf16: bool
    """Computes in bfloat16; older GPUs know float16 only."""
    fast_links: bool
    """GPUs of one machine are joined by NVLink or the like, and not by PCIe alone."""
    source: str

    @property
    def balance(self) -> float:
        """FLOPs at peak for each byte of memory traffic [FLOP/byte].

        The higher, the more of its time a GPU waits for its memory.
        """
        return self.half_flops / self.memory_bytes_per_s


def find_gpu(name: str) -> Gpu | None:
    """The GPU that clouds, drivers and papers call so; `None` where it is not in the table.

    Upper and lower case, spaces, dashes and the maker's name do not matter. As in catalogs,
    `A100` is the one with 40 GB.

    >>> find_gpu("NVIDIA H100 80GB HBM3").name, find_gpu("a100-80gb").memory_bytes // 2**30
    ('H100', 80)
    >>> find_gpu("TPU-v5e") is None
    True
    """
    return _by_key().get(_key(name))


def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the table, in its order."""
    return tuple(dict.fromkeys(_by_key().values()))


def _key(name: str) -> str:
    words = name.upper().replace("-", " ").replace("_", " ").split()
    return "".join(word for word in words if word not in _MAKERS)


@cache
def _by_key() -> dict[str, Gpu]:
    table = (files("launcher.estimate") / "gpus.csv").read_text(encoding="utf-8")
    gpus: dict[str, Gpu] = {}
    for row in csv.DictReader(table.splitlines()):
        gpu = _read(row)
        for name in (gpu.name, *filter(None, row["also_called"].split("|"))):
            if gpus.setdefault(_key(name), gpu) is not gpu:
                raise ValueError(f"gpus.csv names two GPUs {name}")
    return gpus


def _read(row: dict[str, str]) -> Gpu:
    def tera(column: str) -> float | None:
        return float(row[column]) * 1e12 if row[column] else None

    half = float(row["half_tflops"]) * 1e12
    return Gpu(
        name=row["name"],
        half_flops=half,
        half_flops_at_most=tera("half_tflops_at_most") or half,
        best_matmul_flops=tera("best_matmul_tflops"),
        fp8_flops=tera("fp8_tflops"),
        memory_bytes=int(row["memory_mib"]) * MIB,
        memory_bytes_per_s=float(row["memory_tb_s"]) * 1e12,
        bf16=row["bf16"] == "yes",
        fast_links=row["fast_links"] == "yes",
        source=row["source"],
    )
