"""With a real MLflow and its database: slow by its import and its first migration alone."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import InvalidInputError
from tracking.entries import Billed, StateChanged
from tracking.mlflow_store import TrackerError, sync_run, unsynced

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(workshop: Any, empty_mlflow: Path) -> Any:
    """MLflow's own view of the home."""
    from mlflow import MlflowClient

    shutil.copy(empty_mlflow, workshop.home.mlflow_db)
    return MlflowClient(tracking_uri=f"sqlite:///{workshop.home.mlflow_db}")


def history(store: Any, mlflow_id: str) -> dict[str, list[tuple[int, int, float]]]:
    """Every value there is, by metric: (step, milliseconds, value)."""
    keys = store.get_run(mlflow_id).data.metrics
    return {
        key: [(m.step, m.timestamp, m.value) for m in store.get_metric_history(mlflow_id, key)]
        for key in keys
    }


def test_a_whole_run_becomes_a_whole_mlflow_run(workshop: Any, store: Any) -> None:
    run = workshop.whole_run("demo-1")

    mlflow_id = sync_run(workshop.home, "demo-1")

    found = store.get_run(mlflow_id)
    books = workshop.ledger.books("demo-1")
    assert found.info.run_name == "demo-1"
    assert found.info.status == "FINISHED"
    assert found.info.start_time == round(books.opened_at * 1000)
    assert found.info.end_time == round(books.states[-1].at * 1000)
    assert store.get_experiment(found.info.experiment_id).name == "demo"
    assert found.data.params["training.learning_rate"] == "0.001"
    assert found.data.metrics["cost/total_usd"] == pytest.approx(0.001667)
    assert found.data.metrics["score/additions"] == 0.99
    assert found.data.tags["mlflow.source.git.commit"] == "c0ffee"
    steps = history(store, mlflow_id)["train/loss"]
    assert [(step, value) for step, _, value in steps] == [
        (1, 2.0),
        (2, 1.0),
        (3, pytest.approx(2 / 3)),
        (4, 0.5),
    ]
    assert steps[0][1] == round((books.attempts[0].started_at + 20) * 1000)
    assert {item.path for item in store.list_artifacts(mlflow_id)} == {
        "done.json",
        "events.jsonl",
        "plan.json",
        "receipt.json",
        "recipe.json",
        "scores.json",
        "student",
        "worker.log",
    }
    assert books.mlflow_run_id == mlflow_id
    assert run.path.is_dir()


def test_syncing_twice_changes_nothing(workshop: Any, store: Any) -> None:
    workshop.whole_run("demo-1")
    first = sync_run(workshop.home, "demo-1")
    before, entries = history(store, first), workshop.ledger.books("demo-1").last_seq

    assert sync_run(workshop.home, "demo-1") == first
    assert history(store, first) == before
    assert workshop.ledger.books("demo-1").last_seq == entries
    assert unsynced(workshop.home) == []


def test_writing_all_over_again_adds_nothing(workshop: Any, store: Any) -> None:
    """As after a crash between writing the values and noting that they are written."""
    workshop.whole_run("demo-1")
    mlflow_id = sync_run(workshop.home, "demo-1")
    before = history(store, mlflow_id)
    for tag in ("synced_bytes", "synced_seq"):
        store.delete_tag(mlflow_id, f"stillhouse.{tag}")

    sync_run(workshop.home, "demo-1")

    assert history(store, mlflow_id) == before


def test_a_run_is_followed_through_a_loss_and_a_resume_as_one(workshop: Any, store: Any) -> None:
    run = workshop.open("demo-1")
    start = workshop.clock.now
    cut_off = [e for e in workshop.worker_events(start, 0.99) if e.t <= start + 32]
    workshop.say(run, *cut_off[:8])
    first = sync_run(workshop.home, "demo-1")
    live = store.get_run(first)

    workshop.say(run, *cut_off[8:])
    workshop.end_attempt(run, cut_off, "lost")
    workshop.ledger.append("demo-1", StateChanged(state="interrupted", reason="taken away"))
    sync_run(workshop.home, "demo-1")
    resting = store.get_run(first)

    workshop.clock.now += 60
    workshop.start("demo-1", attempt=2, usd_per_hour="0.12")
    sync_run(workshop.home, "demo-1")
    going_on = store.get_run(first)

    again = workshop.worker_events(workshop.clock.now, 0.99, attempt=2)[8:]
    workshop.say(run, *again)
    workshop.end_attempt(run, again, "done")
    workshop.finish(run)
    last = sync_run(workshop.home, "demo-1")
    done = store.get_run(last)

    assert first == last
    statuses = [one.info.status for one in (live, resting, going_on, done)]
    assert statuses == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    assert "cost/total_usd" not in live.data.metrics  # nothing is settled yet
    costs = [value for _, _, value in history(store, last)["cost/so_far_usd"]]
    assert costs == sorted(costs)  # money is never unspent, over both machines
    assert len(costs) == 3 + 2  # steps 1, 2, 3, and after the checkpoint 3 and 4
    assert done.data.metrics["cost/lost_usd"] > 0
    assert done.data.tags["stillhouse.reason"] == ""
    assert len(store.search_runs([done.info.experiment_id])) == 1


def test_a_lost_mlflow_is_rebuilt(workshop: Any, store: Any, empty_mlflow: Path) -> None:
    workshop.whole_run("demo-1")
    before = history(store, sync_run(workshop.home, "demo-1"))
    other = f"sqlite:///{workshop.home.path}/other.db"
    shutil.copy(empty_mlflow, workshop.home.path / "other.db")

    assert unsynced(workshop.home, other) == ["demo-1"]
    rebuilt = sync_run(workshop.home, "demo-1", other)

    from mlflow import MlflowClient

    assert history(MlflowClient(tracking_uri=other), rebuilt) == before
    assert unsynced(workshop.home, other) == []


def test_a_run_deleted_by_a_person_is_written_anew_when_asked(workshop: Any, store: Any) -> None:
    workshop.whole_run("demo-1")
    first = sync_run(workshop.home, "demo-1")
    store.delete_run(first)

    second = sync_run(workshop.home, "demo-1")

    assert second != first
    assert store.get_run(second).info.status == "FINISHED"


def test_a_deleted_experiment_says_how_to_have_it_back(workshop: Any, store: Any) -> None:
    workshop.whole_run("demo-1")
    found = store.get_run(sync_run(workshop.home, "demo-1"))
    store.delete_experiment(found.info.experiment_id)
    workshop.whole_run("demo-2")

    with pytest.raises(TrackerError, match="mlflow experiments restore --experiment-id"):
        sync_run(workshop.home, "demo-2")


def test_what_is_missing_is_listed_oldest_first(workshop: Any, store: Any) -> None:
    for run_id in ("demo-1", "demo-2", "demo-3"):
        workshop.whole_run(run_id)
    sync_run(workshop.home, "demo-2")
    missing = unsynced(workshop.home)
    sync_run(workshop.home, "demo-1")
    workshop.ledger.append("demo-1", Billed(micro_usd=5, final=True, source="aws"))

    assert missing == ["demo-1", "demo-3"]
    assert unsynced(workshop.home) == ["demo-1", "demo-3"]


def test_a_bill_that_comes_later_is_added_and_the_student_is_not_copied_again(
    workshop: Any, store: Any
) -> None:
    run = workshop.whole_run("demo-1")
    mlflow_id = sync_run(workshop.home, "demo-1")
    (run.student / "late.txt").write_text("written later")
    stamp = store.get_run(mlflow_id).data.tags["stillhouse.student_of"]
    os.utime(run.student, ns=(int(stamp), int(stamp)))
    workshop.ledger.append("demo-1", Billed(micro_usd=2_000, final=True, source="aws"))

    sync_run(workshop.home, "demo-1")

    assert store.get_run(mlflow_id).data.metrics["cost/billed_usd"] == 0.002
    assert [f.path for f in store.list_artifacts(mlflow_id, "student")] == ["student/config.json"]


def test_a_large_student_stays_where_it_is_and_the_tag_says_where(
    workshop: Any, store: Any
) -> None:
    run = workshop.whole_run("demo-1")

    mlflow_id = sync_run(workshop.home, "demo-1", student_limit_bytes=1)

    assert store.get_run(mlflow_id).data.tags["stillhouse.student"] == (
        f"not copied: 2 bytes are above 1. It is in {run.student}"
    )
    assert store.list_artifacts(mlflow_id, "student") == []


def test_many_steps_go_in_batches_and_none_is_missing(workshop: Any, store: Any) -> None:
    run = workshop.open("demo-1")
    step = next(
        e for e in workshop.worker_events(workshop.clock.now, 0.9) if e.kind == "train_step"
    )
    workshop.say(run, *(step.model_copy(update={"step": n, "t": step.t + n}) for n in range(700)))

    mlflow_id = sync_run(workshop.home, "demo-1")

    assert [s for s, _, _ in history(store, mlflow_id)["train/loss"]] == list(range(700))


def test_a_torn_last_line_waits_for_its_end(workshop: Any, store: Any) -> None:
    run = workshop.open("demo-1")
    events = workshop.worker_events(workshop.clock.now, 0.9)
    workshop.say(run, *events[:7])
    with run.events.open("ab") as file:
        file.write(b'{"v":1,"t":1795')
    mlflow_id = sync_run(workshop.home, "demo-1")
    assert unsynced(workshop.home) == []

    workshop.say(run, *events[7:])
    assert unsynced(workshop.home) == ["demo-1"]
    sync_run(workshop.home, "demo-1")

    assert len(history(store, mlflow_id)["train/loss"]) == 4


def test_nothing_lands_in_the_current_folder(
    workshop: Any, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    workshop.whole_run("demo-1")

    sync_run(workshop.home, "demo-1")

    assert list(here.iterdir()) == []
    assert (workshop.home.mlflow_artifacts).is_dir()


def test_a_server_that_is_gone_is_an_error_within_seconds(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    began = time.monotonic()

    with pytest.raises(TrackerError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9 cannot be"):
        sync_run(workshop.home, "demo-1", "http://me:secret@127.0.0.1:9")
    with pytest.raises(TrackerError):
        unsynced(workshop.home, "http://127.0.0.1:9")

    assert time.monotonic() - began < 20
    assert workshop.ledger.books("demo-1").mlflow_run_id is None


class Broken(http.server.BaseHTTPRequestHandler):
    """A server that answers everything with 503."""

    def do_GET(self) -> None:
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, *_words: Any) -> None:
        return


def test_a_server_that_answers_503_is_an_error_within_seconds(workshop: Any) -> None:
    workshop.whole_run("demo-1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    began = time.monotonic()

    with pytest.raises(TrackerError, match="503"):
        sync_run(workshop.home, "demo-1", f"http://127.0.0.1:{server.server_port}")

    server.shutdown()
    server.server_close()
    thread.join()
    assert time.monotonic() - began < 30


def test_an_unknown_run_is_an_input_error(workshop: Any) -> None:
    with pytest.raises(InvalidInputError, match="no run 'nobody'"):
        sync_run(workshop.home, "nobody")


def test_a_home_without_runs_has_nothing_to_sync(workshop: Any) -> None:
    assert unsynced(workshop.home) == []
    assert not workshop.home.mlflow_db.exists()


def test_two_that_sync_at_once_make_one_mlflow_run(workshop: Any, store: Any) -> None:
    workshop.whole_run("demo-1")
    code = (
        "import sys; from pathlib import Path\n"
        "from tracking.home import Home; from tracking.mlflow_store import sync_run\n"
        "print(sync_run(Home(Path(sys.argv[1])), 'demo-1'))"
    )
    command = [sys.executable, "-c", code, str(workshop.home.path)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]

    said = {one.communicate(timeout=120)[0].strip() for one in both}

    assert len(said) == 1
    assert workshop.ledger.books("demo-1").mlflow_run_id in said


def test_the_follower_writes_a_run_in_a_process_of_its_own(workshop: Any, store: Any) -> None:
    workshop.whole_run("demo-1")
    command = [sys.executable, "-m", "tracking.follow", str(workshop.home.path), "demo-1"]

    done = subprocess.run(command, cwd=ROOT, check=False, timeout=120, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert unsynced(workshop.home) == []
    assert not (workshop.home.run("demo-1").path / "tracker.log").exists()
