"""Tables of published training runs: one row a run, in words and figures that people published.

Read here into the terms of launcher/estimate. Only what was known before a run started becomes its
description: model, data, machine, and the software that name, method and recipe columns state.
Hours, rates, efficiencies and remarks are what an estimate is compared with, and nothing else.

What a row does not say is filled in by the rules below, the same for every row.
"""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.estimate.gpus import Gpu, find_gpu
from launcher.estimate.memory import HALF
from launcher.estimate.plausible import above_attainable
from launcher.estimate.work import Fusion, Kernels, Machine, TrainingWork

Row = Mapping[str, str]

NEEDED = (
    "id", "name", "year", "category", "base_model", "params_B", "params_B_moe_active",
    "arch_layers_hidden_vocab", "method", "n_samples", "tokens_total_M", "avg_tok_per_sample",
    "max_seq", "packed", "epochs", "global_batch_seqs", "optimizer_precision_parallelism",
    "gpu_type", "n_gpus", "n_nodes", "wall_h", "gpu_hours", "cost_usd", "usd_per_gpu_h",
    "flops_rule", "implied_mfu_pct_of_bf16_peak", "tok_per_s_per_gpu", "tier", "source",
)  # fmt: skip

PRETRAINING_GPUS = 512
OTHER_GPUS = 8
GPUS_PER_NODE = 8
PRETRAINING_STEP_TOKENS = 16_384
OTHER_STEP_TOKENS = 4_096
"""Taken where a row does not say how many; a step's tokens are for each GPU."""

USUAL_TOKENS = 2_048
"""Length of a sample where nothing at all is said of it."""

FRAMEWORKS = (
    "nemo", "llm.c", "neox", "megatron", "torchtune", "llm-foundry", "nanochat", "modded-nanogpt",
    "torchtitan", "axolotl", "unsloth", "llama-factory", "open-instruct", "lit-gpt", "litgpt",
    "trl", "deepspeed", "peft", "fsdp",
)  # fmt: skip

_TRANSFORMERS = re.compile(r"\bhf\b|\bpeft\b|\btrl\b|llama-factory|deepspeed")
_NATIVE = re.compile(r"\bnemo\b|transformer engine|/te\b|llm\.c|\bmlperf\b")
_COMPILED = re.compile(
    r"torchtune|torchtitan|llm-foundry|mosaic|nanochat|modded|compile|megatron|neox|nanotron"
)
_SPLITS_MATRICES = re.compile(r"megatron|neox|\bnemo\b|nanotron")
_FUSED_MORE = re.compile(r"flash|liger|unsloth|\bfa2?\b")
_RECOMPUTES = re.compile(r"checkpointing|gradient ckpt|torchtune|qlora")


class UnreadableRuns(Exception):
    """The file is no table of published runs."""


@dataclass(frozen=True)
class Run:
    """A published run, as far as its row can be read."""

    id: str
    tier: str
    project: str
    """Who published it: an owner of repositories, a paper, or the first words of the source."""
    work: TrainingWork | None
    """For a single token where `tokens` are not known."""
    machine: Machine | None
    tokens: float | None
    """Trained on, over all epochs [tokens]."""
    gpu_hours: float | None
    """Stated [GPU-hours]."""
    tokens_per_gpu_s: float | None
    """Stated, or from stated figures [tokens/s]."""
    faults: tuple[str, ...]
    """Why its figures cannot be true."""
    unknown: str | None
    """What is missing for an estimate."""


def read_runs(path: Path) -> list[Run]:
    """Every row of a table.

    Raises:
        UnreadableRuns: no such file, not a table in UTF-8, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise UnreadableRuns(f"{path} has no column {', '.join(missing)}")
            return [_read({name: row[name] or "" for name in NEEDED}, path) for row in reader]
    except OSError as error:
        raise UnreadableRuns(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableRuns(f"{path} is not a table in UTF-8: {error}") from error


def _read(row: Row, path: Path) -> Run:
    machine = _machine(row)
    work = _work(row, machine) if machine else None
    gpu_hours, rate = _gpu_hours(row), None
    if work and machine:
        rate = _rate(row, work, machine, gpu_hours)
    unknown = None
    if machine is None:
        unknown = f"the GPU {row['gpu_type'] or '(not stated)'} is not in the table"
    elif work is None:
        unknown = "the number of parameters is not stated"
    if row["id"] == "":
        raise UnreadableRuns(f"{path} has a row without an id")
    return Run(
        id=row["id"],
        tier=row["tier"][:1].upper(),
        project=project(row["source"]),
        work=work,
        machine=machine,
        tokens=_tokens(row),
        gpu_hours=gpu_hours,
        tokens_per_gpu_s=rate,
        faults=tuple(_faults(row, work, machine, rate)),
        unknown=unknown,
    )


# ---- what was known before the run -------------------------------------------------------------


def _machine(row: Row) -> Machine | None:
    gpu = _gpu(row["gpu_type"], row["name"])
    if gpu is None:
        return None
    many = PRETRAINING_GPUS if _is_pretraining(row) else OTHER_GPUS
    gpus = math.ceil(_number(row, "n_gpus") or many)
    nodes = math.ceil(_number(row, "n_nodes") or gpus / GPUS_PER_NODE)
    return Machine(gpu, max(1, round(gpus / nodes)), nodes)


def _gpu(stated: str, name: str) -> Gpu | None:
    # Papers that say A100 mostly mean the one with 80 GB; catalogs that say so mean 40 GB.
    if stated.strip().upper() == "A100":
        return find_gpu("A100-40GB" if re.search(r"A100[- ]?40", name) else "A100-80GB")
    without_size = re.sub(r"[\s(-]*\d+\s?GB\)?$", "", stated.strip(), flags=re.IGNORECASE)
    return find_gpu(stated) or find_gpu(without_size)


def _work(row: Row, machine: Machine) -> TrainingWork | None:
    params = _number(row, "params_B") or _size_in_words(row["base_model"])
    if params is None:
        return None
    active = min(params, _number(row, "params_B_moe_active") or params)
    text, method = _text(row), row["method"].lower()
    packed = _packed(row)
    sample = _sample_tokens(row, packed)
    layers, hidden = _shape(row["arch_layers_hidden_vocab"], params * 1e9)
    kernels = _kernels(text, method)
    work = TrainingWork(
        train_tokens=_tokens(row) or 1.0,
        params=params * 1e9,
        active_params=active * 1e9,
        layers=layers,
        attention_width=hidden,
        sample_tokens=sample,
        packed=packed,
        step_tokens=_step_tokens(row, sample, machine),
        method="qlora" if "qlora" in method else "lora" if "lora" in method else "full",
        precision="fp8" if "fp8" in text else "half",
        kernels=kernels,
        fusion=_fusion(text, row["year"]),
        offloaded="offload" in text,
        learns_logits="logit" in method,
        teacher_params=_teacher_params(method),
        steady_state="throughput" in row["category"].lower() or "bench" in method,
        framework=_framework(text, row),
    )
    return replace(work, recompute=_recomputes(row, work, machine))


def _tokens(row: Row) -> float | None:
    millions = _number(row, "tokens_total_M")
    return millions * 1e6 if millions else None


def _text(row: Row) -> str:
    columns = ("name", "category", "method", "packed", "optimizer_precision_parallelism")
    return " ; ".join(row[column] for column in columns).lower()


def _is_pretraining(row: Row) -> bool:
    method = row["method"].lower()
    return "pretrain" in method and "bench" not in method


def _size_in_words(model: str) -> float | None:
    """Billions of parameters in a name such as `MPT-7b` or `124m`."""
    match = re.search(r"(\d+(?:\.\d+)?)\s?([bm])\b", model.lower())
    return float(match[1]) / (1 if match[2] == "b" else 1000) if match else None


def _packed(row: Row) -> bool:
    """Where nothing is said, pretraining packs and fine-tuning does not."""
    stated = row["packed"].strip().lower()
    return stated.startswith("yes") or (not stated and _is_pretraining(row))


def _sample_tokens(row: Row, packed: bool) -> float:
    stated = _number(row, "avg_tok_per_sample")
    longest = _number(row, "max_seq")
    if stated or packed:
        return stated or longest or USUAL_TOKENS
    tokens, samples = _number(row, "tokens_total_M"), _number(row, "n_samples")
    if tokens and samples:
        mean = tokens * 1e6 / samples / max(1.0, _number(row, "epochs") or 1.0)
        return min(mean, longest or mean)
    return (longest or USUAL_TOKENS) / 2


def _shape(stated: str, params: float) -> tuple[int, int]:
    """Layers and width; where not stated, those of a usual model: 128 times as wide as deep."""
    match = re.match(r"([1-9]\d*)/([1-9]\d*)/", stated)
    if match:
        return int(match[1]), int(match[2])
    hidden = (128 * params / 12) ** (1 / 3)
    return max(1, round(params / 12 / hidden**2)), round(hidden)


def _step_tokens(row: Row, sample: float, machine: Machine) -> float:
    stated = row["global_batch_seqs"].strip()
    millions = re.match(r"([\d.]+)\s?M tok", stated, re.IGNORECASE)
    if millions:
        return float(millions[1]) * 1e6
    samples = _number(row, "global_batch_seqs")
    if samples:
        return samples * sample
    each = PRETRAINING_STEP_TOKENS if "pretrain" in row["method"].lower() else OTHER_STEP_TOKENS
    return float(each * machine.gpus)


def _kernels(text: str, method: str) -> Kernels:
    if _NATIVE.search(text) and not _TRANSFORMERS.search(text):
        return "native"
    return "compiled" if _COMPILED.search(text) or "pretrain" in method else "eager"


def _fusion(text: str, year: str) -> Fusion:
    if _FUSED_MORE.search(text):
        return "attention_and_loss"
    return "nothing" if year.isdigit() and int(year) <= 2023 else "attention"


def _teacher_params(method: str) -> float:
    """`with 8B/70B logits`: which of several read along is not said; the smallest surely did."""
    match = re.search(r"((?:\d+(?:\.\d+)?b[/ ])+)logits", method)
    return min(float(size) for size in re.findall(r"[\d.]+", match[1])) * 1e9 if match else 0.0


def _framework(text: str, row: Row) -> str:
    return next((name for name in FRAMEWORKS if name in text), f"of {project(row['source'])}")


def _recomputes(row: Row, work: TrainingWork, machine: Machine) -> bool:
    """Stated, the default of the trainer, or without it not one sample would fit into memory.

    Trainers that split matrices over GPUs make room in another way.
    """
    text = _text(row)
    if _RECOMPUTES.search(text):
        return True
    if _SPLITS_MATRICES.search(text) or work.kernels == "native" or _is_pretraining(row):
        return False
    state = 16.0 if work.method == "full" else HALF
    values_per_token = 17 * work.attention_width * work.layers  # Korthikanti et al. 2022, sec. 4.1
    longest = _number(row, "max_seq") or work.sample_tokens
    needed = state * work.params / machine.gpus + HALF * values_per_token * longest
    return needed > 0.9 * machine.gpu.memory_bytes


# ---- what the run came to ----------------------------------------------------------------------


def _gpu_hours(row: Row) -> float | None:
    wall, gpus = _number(row, "wall_h"), _number(row, "n_gpus")
    return _number(row, "gpu_hours") or (wall * gpus if wall and gpus else None)


def _rate(row: Row, work: TrainingWork, machine: Machine, gpu_hours: float | None) -> float | None:
    tokens = _tokens(row)
    if tokens and gpu_hours:
        return tokens / gpu_hours / 3600
    share = _number(row, "implied_mfu_pct_of_bf16_peak")
    if share is None:
        return _number(row, "tok_per_s_per_gpu")
    # Tables that say so count all of the attention matrix, the half that is never used too.
    attention = 12 * work.sample_tokens * work.attention_width * work.layers
    flops = 6 * work.active_params + attention * ("+ attention" in row["flops_rule"])
    return share / 100 * machine.gpu.half_flops / flops


def _faults(
    row: Row, work: TrainingWork | None, machine: Machine | None, rate: float | None
) -> list[str]:
    faults = _contradictions(row)
    if work and machine and rate:
        above = above_attainable(replace(work, train_tokens=rate * 3600), machine, gpu_hours=1)
        faults += [above] if above else []
    return faults


def _contradictions(row: Row) -> list[str]:
    """Figures of one row that exclude each other, with room for rounding and for prices said
    roughly."""

    def product(*columns: str) -> float | None:
        figures = [_number(row, column) for column in columns]
        return math.prod(map(float, filter(None, figures))) if all(figures) else None

    def differ(one: float | None, other: float | None, tolerance: float) -> bool:
        return bool(one and other and abs(one / other - 1) > tolerance)

    found = []
    if differ(product("gpu_hours"), product("n_gpus", "wall_h"), 0.1):
        found.append("gpu_hours is not n_gpus times wall_h")
    if differ(product("cost_usd"), product("gpu_hours", "usd_per_gpu_h"), 0.2):
        found.append("cost_usd is not gpu_hours times usd_per_gpu_h")
    tokens = _tokens(row) or 0.0
    seconds = (product("gpu_hours", "tok_per_s_per_gpu") or 0.0) * 3600
    if differ(tokens, seconds, 0.1):
        found.append("tok_per_s_per_gpu is not tokens_total_M over gpu_hours")
    most = (product("n_samples", "max_seq") or math.inf) * max(1.0, product("epochs") or 1.0)
    if tokens > 1.1 * most:
        found.append("tokens_total_M is more than n_samples of max_seq tokens over all epochs")
    if (product("n_nodes") or 0.0) > (product("n_gpus") or math.inf):
        found.append("n_nodes is more than n_gpus")
    return found


# ---- reading -----------------------------------------------------------------------------------


def project(source: str) -> str:
    """Who stands behind a row: rows of one project share a team, and mostly a stack.

    >>> project("mlcommons/training_results_v4.1 NVIDIA/results/x"), project("someone@1a2b x.ipynb")
    ('mlcommons', 'someone')
    >>> project("arXiv 2501.1 sec 2; owner/name@77272c6 sft.sh"), project("Llama 2 paper table 2")
    ('owner', 'llama 2 paper')
    """
    for pattern in (r"^([\w.-]+)/[\w.-]", r"([\w.-]+)/[\w.-]+@", r"^([\w.-]+)@"):
        match = re.search(pattern, source.strip())
        if match:
            return match[1].lower()
    return " ".join(source.lower().split()[:3])


def _number(row: Row, column: str) -> float | None:
    """A figure above 0, and not beyond all measure; anything else is not stated."""
    try:
        value = float(row[column] or "")
    except ValueError:
        return None
    return value if 1e-9 <= value <= 1e12 else None
