"""The benchmark that puts the estimate beside published runs, and the one that fits it."""

import csv
import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "benchmarks"


def published_runs():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import published_runs
    finally:
        sys.path.remove(str(BENCHMARKS))
    return published_runs


# A run that nobody published: 8 H100, a packed 7B model, 25 % of the peak.
PLAIN = {
    "id": "plain-7b",
    "name": "a 7B model",
    "year": "2025",
    "category": "SFT",
    "base_model": "plain-7B",
    "params_B": "7.0",
    "method": "full SFT",
    "tokens_total_M": "300",
    "max_seq": "4096",
    "packed": "yes",
    "optimizer_precision_parallelism": "TRL, bf16, gradient checkpointing",
    "gpu_type": "H100",
    "n_gpus": "8",
    "n_nodes": "1",
    "wall_h": "1.775",
    "gpu_hours": "14.2",
    "flops_rule": "6*N*tokens (no attention term)",
    "tier": "A",
    "source": "nobody/nothing@0",
}
S1 = PLAIN | {
    "id": "s1-32b",
    "params_B": "32.76",
    "arch_layers_hidden_vocab": "64/5120/152064",
    "tokens_total_M": "23.5",
    "avg_tok_per_sample": "4700",
    "max_seq": "32768",
    "packed": "no",
    "global_batch_seqs": "16",
    "optimizer_precision_parallelism": "PyTorch FSDP, gradient checkpointing",
    "n_gpus": "16",
    "n_nodes": "2",
    "wall_h": "0.4333",
    "gpu_hours": "6.933",
    "source": "simplescaling/s1@77272c6",
}


def table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, published_runs().NEEDED, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def accuracy(path: Path) -> dict[str, Any]:
    done = run("planner_accuracy.py", "--runs", path, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_that_was_fitted_on_is_predicted_without_its_project_and_others_with_all(
    tmp_path: Path,
) -> None:
    report = accuracy(table(tmp_path / "runs.csv", S1, PLAIN))

    by_id = {row["id"]: row for row in report["rows"]}
    assert by_id["s1-32b"]["kept_apart"] is True
    assert by_id["plain-7b"]["kept_apart"] is False
    assert report["n"] == 2
    assert report["coverage_p10_p90"] in (0.5, 1.0)
    assert by_id["plain-7b"]["p10"] < 14.2 < by_id["plain-7b"]["p90"]
    assert report["leaving_out_one_row_alone"]["n"] == 2


def test_a_fitted_run_under_another_id_is_kept_apart_all_the_same(tmp_path: Path) -> None:
    report = accuracy(table(tmp_path / "runs.csv", S1 | {"id": "renamed"}))

    assert report["rows"][0]["kept_apart"] is True


def test_rows_are_grouped_by_who_published_them() -> None:
    assert doctest.testmod(published_runs()).failed == 0


def test_what_a_row_says_of_its_own_speed_does_not_change_its_prediction(tmp_path: Path) -> None:
    told = PLAIN | {
        "wall_h": "2.95",
        "gpu_hours": "23.6",
        "implied_mfu_pct_of_bf16_peak": "15",
        "tok_per_s_per_gpu": "3531",
    }

    plain = accuracy(table(tmp_path / "a.csv", PLAIN))["rows"][0]
    slower = accuracy(table(tmp_path / "b.csv", told))["rows"][0]

    assert [plain[name] for name in ("p10", "p50", "p90")] == [
        slower[name] for name in ("p10", "p50", "p90")
    ]
    assert (plain["stated"], slower["stated"]) == (14.2, 23.6)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"wall_h": "0.25", "gpu_hours": "2"}, "TFLOP/s on each GPU would be needed"),
        ({"gpu_type": "A100"}, "A100-80GB sustains 244 at most"),
        ({"wall_h": "3"}, "gpu_hours is not n_gpus times wall_h"),
        ({"cost_usd": "20", "usd_per_gpu_h": "4"}, "cost_usd is not gpu_hours times"),
        ({"tok_per_s_per_gpu": "1000"}, "tok_per_s_per_gpu is not tokens_total_M over"),
        ({"n_samples": "1000", "epochs": "2"}, "more than n_samples of max_seq tokens"),
        ({"n_nodes": "9"}, "n_nodes is more than n_gpus"),
    ],
)
def test_figures_that_cannot_be_true_are_flagged_and_not_counted(
    tmp_path: Path, change: dict[str, str], why: str
) -> None:
    if "gpu_type" in change:
        change |= {"wall_h": "0.9", "gpu_hours": "7.2"}
    read = published_runs().read_runs(table(tmp_path / "runs.csv", PLAIN | change))

    assert any(why in fault for fault in read[0].faults)


def test_flagged_rows_are_listed_and_left_out_of_the_figures(tmp_path: Path) -> None:
    impossible = PLAIN | {"id": "too-fast", "wall_h": "0.25", "gpu_hours": "2"}

    report = accuracy(table(tmp_path / "runs.csv", PLAIN, impossible))

    assert report["n"] == 1
    assert report["impossible_flagged"] == 1
    assert report["flagged"][0]["id"] == "too-fast"


def test_an_unknown_gpu_or_size_is_said_and_not_guessed(tmp_path: Path) -> None:
    rows = [
        PLAIN | {"id": "tpu", "gpu_type": "TPU v5p"},
        PLAIN | {"id": "sizeless", "params_B": "", "base_model": "in-house"},
    ]

    report = accuracy(table(tmp_path / "runs.csv", *rows))

    assert report["n"] == 0
    assert report["median_abs_error"] is None
    assert [row["why"] for row in report["left_out"]] == [
        "the GPU TPU v5p is not in the table",
        "the number of parameters is not stated",
    ]


def test_a_row_without_tokens_gets_a_rate(tmp_path: Path) -> None:
    row = accuracy(table(tmp_path / "runs.csv", PLAIN | {"tokens_total_M": ""}))["rows"][0]

    assert row["unit"] == "tokens_per_gpu_s"
    assert row["counted"] is False
    assert 2000 < row["p50"] < 20_000


def test_people_get_a_table_with_the_same_figures(tmp_path: Path) -> None:
    path = table(tmp_path / "runs.csv", PLAIN, PLAIN | {"id": "tpu", "gpu_type": "TPU v5p"})

    said = run("planner_accuracy.py", "--runs", path).stdout

    assert "plain-7b" in said
    assert "the figures:                       n 1  median_abs_error" in said
    assert "tpu: the GPU TPU v5p is not in the table" in said
    assert "impossible_flagged 0" in said


@pytest.mark.parametrize("script", ["planner_accuracy.py", "fit_efficiency.py"])
def test_a_file_that_is_no_table_of_runs_is_one_line_and_exit_2(
    tmp_path: Path, script: str
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,name\nx,y\n")

    for path, why in [(wrong, "has no column year"), (tmp_path / "gone.csv", "No such file")]:
        done = run(script, "--runs", path)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: ")
        assert why in done.stderr
        assert "Traceback" not in done.stderr


def test_fitting_writes_what_the_estimate_reads_and_leaves_impossible_rows_out(
    tmp_path: Path,
) -> None:
    from launcher.estimate.evidence import read_evidence

    impossible = PLAIN | {"id": "too-fast", "wall_h": "0.25", "gpu_hours": "2"}
    path = table(tmp_path / "runs.csv", PLAIN, S1, impossible)
    out = tmp_path / "evidence.csv"

    done = run("fit_efficiency.py", "--runs", path, "--out", out)

    assert done.returncode == 0, done.stderr
    with out.open() as file:
        evidence = list(read_evidence(csv.DictReader(file)))
    assert [row.id for row in evidence] == ["plain-7b", "s1-32b"]
    assert evidence[0].tokens_per_gpu_s == pytest.approx(300e6 / 14.2 / 3600, rel=1e-5)
    assert evidence[1].machine.nodes == 2
    assert evidence[1].work.recompute is True
    assert "2 of 3 rows are evidence" in done.stdout


@pytest.mark.parametrize(
    ("words", "kernels", "fusion", "recompute"),
    [
        ({"optimizer_precision_parallelism": "NVIDIA NeMo FP8"}, "native", "attention", False),
        (
            {"name": "llm.c", "method": "pretrain", "optimizer_precision_parallelism": "bf16"},
            "native",
            "attention",
            False,
        ),
        ({"optimizer_precision_parallelism": "torchtune"}, "compiled", "attention", True),
        ({"optimizer_precision_parallelism": "Megatron-LM"}, "compiled", "attention", False),
        (
            {"optimizer_precision_parallelism": "TRL, flash-attn, gradient checkpointing"},
            "eager",
            "attention_and_loss",
            True,
        ),
        (
            {"year": "2023", "optimizer_precision_parallelism": "DeepSpeed"},
            "eager",
            "nothing",
            False,
        ),
        # 7B in full on one GPU: without recomputation not even one sample has room.
        (
            {"n_gpus": "1", "wall_h": "14.2", "optimizer_precision_parallelism": ""},
            "eager",
            "attention",
            True,
        ),
    ],
)
def test_the_software_is_read_from_the_words_of_the_recipe(
    tmp_path: Path, words: dict[str, str], kernels: str, fusion: str, recompute: bool
) -> None:
    work = published_runs().read_runs(table(tmp_path / "runs.csv", PLAIN | words))[0].work

    assert (work.kernels, work.fusion, work.recompute) == (kernels, fusion, recompute)
