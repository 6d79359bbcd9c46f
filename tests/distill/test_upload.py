"""The worker's files leave its machine while it works, and the work goes on whatever happens."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_s3 import Fault, LoopbackS3
from shaky_store import Fate, Killed, ShakyStore

from distill import outbox
from distill.upload import OvertakenError, Uploader, bring_back, mirrored
from recipes.rundir import (
    CheckpointStored,
    EventLog,
    Limits,
    Progress,
    RunDir,
    Warned,
    WorkerEnded,
    read_events,
)
from recipes.store import FolderStore, Store, StoreError, StoreUnreachableError
from recipes.store_checkpoints import newest_checkpoint, pull_checkpoint, push_checkpoint
from recipes.store_s3 import Patience, S3Store
from recipes.store_trees import read_tree
from recipes.stored_run import EventMirror, claim, restore

SOON = 60.0
"""Longer than anything here takes, on a busy machine [s]."""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path / "run")


@pytest.fixture
def log(run: RunDir) -> Iterator[EventLog]:
    log = EventLog(run.events, attempt=1)
    yield log
    log.close()


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, folder: FolderStore) -> Store:
    if request.param == "folder":
        return folder
    s3: LoopbackS3 = request.getfixturevalue("s3")
    return S3Store(s3.bucket(), "runs/one", s3.client(), Patience(limit_s=0))


def new_run(path: Path) -> RunDir:
    path.mkdir()
    return RunDir(path)


def limits(store: str | None, attempt: int = 1) -> Limits:
    return Limits(
        attempt=attempt,
        started_at=0.0,
        usd_per_hour=Decimal(1),
        machine_usd=Decimal(1),
        store=store,
    )


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def checkpoint(run: RunDir, step: int) -> Path:
    """As distill.checkpoint leaves it, the last two kept."""
    content = {"state.pt": b"state of %d" % step, "complete": b"%d" % step}
    folder = write(run.checkpoints / f"step-{step:08d}", content)
    for old in sorted(run.checkpoints.iterdir())[:-2]:
        shutil.rmtree(old)
    return folder


def progress(done: int, attempt: int = 1) -> Progress:
    return Progress(t=1.0, attempt=attempt, stage="train", done=done, total=100, unit="steps")


def events(run: RunDir, kind: type) -> list:
    return [event for event, _ in read_events(run.events) if isinstance(event, kind)]


def warnings(run: RunDir) -> list[str]:
    return [event.message for event in events(run, Warned)]


def home_of(store: Store, tmp_path: Path) -> RunDir:
    home = RunDir(tmp_path / f"home-{time.monotonic_ns()}")
    restore(store, home, pytest.fail)
    return home


# ---- what goes -------------------------------------------------------------------------------


def test_everything_of_a_finished_run_comes_home_as_it_was(
    store: Store, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    write(run.path, {"recipe.json": b"{}", "plan.json": b"{}", "limits.json": b"{}"})
    write(run.path, {"traces.jsonl": b'{"trace":1}\n'})
    checkpoint(run, 100)
    write(run.student, {"model.safetensors": b"weights", "config.json": b"{}"})
    write(run.answers, {"sums.jsonl": b'{"answer":1}\n'})
    write(run.path, {"scores.json": b"{}", "done.json": b'{"done":1}'})
    log.write(progress(1))
    uploader = Uploader(store, run, log, attempt=1, every_s=0.01)

    uploader.start()
    assert uploader.close(within_s=SOON)

    home = home_of(store, tmp_path)
    assert contents(home) == contents(run)


def contents(run: RunDir) -> dict[str, bytes]:
    return {
        path.relative_to(run.path).as_posix(): path.read_bytes()
        for path in run.path.rglob("*")
        if path.is_file()
    }


def test_done_is_stored_after_everything_else(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    stored = []

    def seen(operation: str, key: str) -> Fate:
        if operation in ("put_bytes", "put_file"):
            stored.append(key)
        return "well"

    write(run.student, {"model.safetensors": b"weights"})
    write(run.path, {"scores.json": b"{}", "done.json": b"{}"})
    log.write(progress(1))
    uploader = Uploader(ShakyStore(folder, seen), run, log, attempt=1, every_s=0.001)

    uploader.start()
    assert uploader.flush(within_s=SOON)
    assert "done.json" not in stored, "more may follow, until the uploader is closed"
    assert uploader.close(within_s=SOON)

    assert stored[-1] == "done.json"
    assert {"scores.json", "student/complete", "events/000000000000000.jsonl"} < set(stored)


def test_an_answer_is_stored_before_the_event_that_tells_of_it(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    write(run.path, {"traces.jsonl": b'{"trace":1}\n'})
    log.write(progress(1))
    no_traces = ShakyStore(folder, lambda _, key: "fails" if key.startswith("traces") else "well")

    with pytest.raises(StoreUnreachableError):
        Uploader(no_traces, run, log, attempt=1).send_lines(False)

    assert folder.entries("events") == []


def test_done_is_not_stored_where_something_else_could_not_be(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    write(run.student, {"model.safetensors": b"weights"})
    write(run.path, {"done.json": b"{}"})
    shaky = ShakyStore(folder, lambda operation, key: "fails" if "student" in key else "well")
    uploader = Uploader(shaky, run, log, attempt=1, every_s=0.001)

    uploader.start()
    assert not uploader.close(within_s=0.2)

    assert not folder.exists("done.json")
    assert "student" in str(uploader.failure())
    assert f"still on this machine, in {run.path}" in str(uploader.failure())


def test_a_checkpoint_that_is_stored_is_said(store: Store, run: RunDir, log: EventLog) -> None:
    uploader = Uploader(store, run, log, attempt=1)
    checkpoint(run, 100)
    uploader.send_checkpoint(False)
    checkpoint(run, 200)
    uploader.send_checkpoint(False)
    uploader.send_checkpoint(False)

    assert [event.step for event in events(run, CheckpointStored)] == [100, 200]
    assert events(run, CheckpointStored)[0].size_bytes == len(b"state of 100") + len(b"100")


def test_a_checkpoint_without_its_marker_stays(store: Store, run: RunDir, log: EventLog) -> None:
    write(run.checkpoints / "step-00000100", {"state.pt": b"not whole yet"})
    write(run.checkpoints / ".step-00000200.tmp", {"state.pt": b"", "complete": b""})

    Uploader(store, run, log, attempt=1).send_checkpoint(False)

    assert store.entries("checkpoints") == []


def test_a_checkpoint_that_is_dropped_while_it_is_sent_arrives_all_the_same(
    folder: FolderStore, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    dropped = checkpoint(run, 100)

    def drop(operation: str, key: str) -> Fate:
        if operation == "put_file" and dropped.exists():
            shutil.rmtree(dropped)
        return "well"

    Uploader(ShakyStore(folder, drop), run, log, attempt=1).send_checkpoint(False)

    home = pull_checkpoint(folder, tmp_path / "home", pytest.fail)
    assert home is not None
    assert (home / "state.pt").read_bytes() == b"state of 100"
    assert list(run.path.glob(".outbox*")) == []


def test_a_checkpoint_dropped_while_it_is_compared_with_what_is_stored_is_no_trouble(
    folder: FolderStore, run: RunDir, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = outbox.holds

    def drop_and_compare(store: Store, path: Path, name: str) -> bool:
        shutil.rmtree(path)
        return compare(store, path, name)

    uploader = Uploader(folder, run, log, attempt=1)
    push_checkpoint(folder, checkpoint(run, 100))  # stored already, so the two are compared
    monkeypatch.setattr(outbox, "holds", drop_and_compare)
    uploader.send_checkpoint(False)

    assert warnings(run) == []


def test_a_checkpoint_half_dropped_before_it_could_be_linked_is_left_for_the_next(
    folder: FolderStore, run: RunDir, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop_and_link(source: str, target: str) -> None:
        (Path(source).parent / "complete").unlink(missing_ok=True)
        os.link(source, target)

    monkeypatch.setattr(outbox, "_link", drop_and_link)
    uploader = Uploader(folder, run, log, attempt=1)
    checkpoint(run, 100)
    uploader.send_checkpoint(False)
    assert folder.entries("checkpoints") == []

    monkeypatch.undo()
    checkpoint(run, 200)
    uploader.send_checkpoint(False)
    newest = newest_checkpoint(folder)
    assert newest is not None
    assert newest.step == 200


def test_without_hard_links_files_are_copied(
    folder: FolderStore, run: RunDir, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.copytree", copytree_without_links)
    checkpoint(run, 100)

    Uploader(folder, run, log, attempt=1).send_checkpoint(False)

    assert newest_checkpoint(folder) is not None


def copytree_without_links(
    source: Path, target: Path, copy_function: Callable[[str, str], object]
) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.link", refused)
        target.mkdir(parents=True)
        for path in source.iterdir():
            copy_function(str(path), str(target / path.name))


def test_a_student_that_learns_on_replaces_the_one_before(
    store: Store, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    uploader = Uploader(store, run, log, attempt=1)
    write(run.student, {"model.safetensors": b"weights"})
    uploader.send_files(False)
    shutil.rmtree(run.student)
    write(run.student, {"model.safetensors": b"better"})
    uploader.send_files(False)

    home = home_of(store, tmp_path)

    assert (home.student / "model.safetensors").read_bytes() == b"better"
    assert len(store.entries("student")) == 2


def test_answers_go_when_they_are_scored_or_somebody_waits_or_from_time_to_time(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    uploader = Uploader(folder, run, log, attempt=1)
    write(run.answers, {"sums.jsonl": b"1\n"})
    uploader.send_files(False)
    assert read_tree(folder, "answers") is None

    uploader.send_files(True)
    assert size_of(folder, "answers") == 2

    write(run.answers, {"sums.jsonl": b"1\n2\n"})
    write(run.path, {"scores.json": b"{}"})
    uploader.send_files(False)
    assert size_of(folder, "answers") == 4


def size_of(store: Store, name: str) -> int:
    tree = read_tree(store, name)
    assert tree is not None
    return tree.size_bytes


def test_scores_of_a_student_that_has_learnt_on_since_are_withdrawn(
    store: Store, run: RunDir, log: EventLog
) -> None:
    store.put_bytes("scores.json", b"of an attempt before")
    write(run.path, {"done.json": b"{}"})
    uploader = Uploader(store, run, log, attempt=2, every_s=0.01)

    uploader.start()
    assert uploader.close(within_s=SOON)

    assert store.exists("done.json")
    assert not store.exists("scores.json")


def test_nothing_is_sent_twice(folder: FolderStore, run: RunDir, log: EventLog) -> None:
    checkpoint(run, 100)
    write(run.student, {"model.safetensors": b"weights"})
    write(run.path, {"recipe.json": b"{}"})
    log.write(progress(1))
    first = Uploader(folder, run, log, attempt=1)
    for send in (first.send_lines, first.send_files, first.send_checkpoint) * 2:
        send(False)
    sent: list[str] = []

    def seen(operation: str, key: str) -> Fate:
        if operation == "put_file":
            sent.append(key)
        return "well"

    # Nor by the worker that goes on here, which does not know what has gone before.
    second = Uploader(ShakyStore(folder, seen), run, log, attempt=2)
    for send in (second.send_lines, second.send_files, second.send_checkpoint) * 2:
        send(False)

    assert sent == []
    assert [event.step for event in events(run, CheckpointStored)] == [100]


def test_a_checkpoint_that_is_damaged_in_the_store_is_mended_when_it_is_made_again(
    folder: FolderStore, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    uploader = Uploader(folder, run, log, attempt=1)
    checkpoint(run, 100)
    uploader.send_checkpoint(False)
    (state,) = [entry.key for entry in folder.entries("checkpoints") if "state" in entry.key]
    folder.put_bytes(state, b"state of 1OO")
    second = new_run(tmp_path / "second")
    again = Uploader(folder, second, log, attempt=2)
    again.send_checkpoint(False)

    checkpoint(second, 100)
    again.send_checkpoint(False)

    assert pull_checkpoint(folder, tmp_path / "home", pytest.fail) is not None


# ---- what fails ------------------------------------------------------------------------------


def test_a_failing_store_is_a_warning_and_then_another_that_it_works_again(
    folder: FolderStore, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    fails = True
    shaky = ShakyStore(folder, lambda operation, key: "fails" if fails else "well")
    uploader = Uploader(shaky, run, log, attempt=1, every_s=0.001)
    log.write(progress(1))
    checkpoint(run, 100)
    uploader.start()
    assert not uploader.flush(within_s=0.2)
    fails = False

    assert uploader.flush(within_s=SOON)
    assert uploader.close(within_s=SOON)

    said = warnings(run)
    assert "Try again. The work goes on meanwhile." in said[0]
    assert "the run store takes what it is sent again" in said
    assert len(said) <= 6, "each thread says it once, however often it tries"
    home = home_of(folder, tmp_path)
    assert [event.done for event in events(home, Progress)] == [1]
    assert warnings(home) == said


def test_a_fault_of_ours_is_a_warning_too(folder: FolderStore, run: RunDir, log: EventLog) -> None:
    def fault(operation: str, key: str) -> Fate:
        raise ZeroDivisionError("a fault")

    uploader = Uploader(ShakyStore(folder, fault), run, log, attempt=1, every_s=0.001)
    uploader.start()
    assert not uploader.flush(within_s=0.1)
    uploader.close(within_s=0.1)

    assert warnings(run)[0] == "ZeroDivisionError: a fault The work goes on meanwhile."


def stuck_in_a_checkpoint(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> tuple[Fault, S3Store, Uploader]:
    """What holds up a checkpoint on its way, where to, and who sends it."""
    stuck = s3.add("PUT", "step-00000100", kind="hang")
    store = S3Store(s3.bucket(), "", s3.client())
    uploader = Uploader(store, run, log, attempt=1, every_s=0.01)
    checkpoint(run, 100)
    uploader.start()
    assert stuck.met.wait(SOON)
    return stuck, store, uploader


def test_lines_do_not_wait_for_a_checkpoint_that_hangs(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> None:
    stuck, store, uploader = stuck_in_a_checkpoint(s3, run, log)

    log.write(progress(7))
    until = time.monotonic() + SOON
    while not store.entries("events") and time.monotonic() < until:
        time.sleep(0.01)

    assert b'"done":7' in store.get_bytes(store.entries("events")[0].key)
    assert not uploader.flush(within_s=0.05), "the checkpoint is still under way"
    s3.take_away(stuck)
    assert uploader.close(within_s=SOON)


def test_a_student_does_not_wait_for_a_checkpoint_that_hangs(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> None:
    stuck, store, uploader = stuck_in_a_checkpoint(s3, run, log)

    staged = write(run.path / "staged", {"model.safetensors": b"weights"})
    staged.rename(run.student)

    wait_until(lambda: read_tree(store, "student") is not None)
    assert newest_checkpoint(store) is None
    s3.take_away(stuck)
    assert uploader.close(within_s=SOON)


def test_a_run_whose_checkpoint_is_not_stored_in_time_ends_with_all_the_rest_stored(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> None:
    stuck, store, uploader = stuck_in_a_checkpoint(s3, run, log)
    write(run.student, {"model.safetensors": b"weights"})
    write(run.path, {"scores.json": b"{}", "done.json": b"{}"})

    uploader.wait_for_checkpoint(0.1)
    assert uploader.close(within_s=SOON)

    assert store.exists("done.json")
    assert read_tree(store, "student") is not None
    assert newest_checkpoint(store) is None
    s3.take_away(stuck)


def test_what_was_sent_of_a_checkpoint_that_is_let_go_is_not_left_to_be_paid_for(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> None:
    store = S3Store(s3.bucket(), "", s3.client())
    stuck = s3.add("PUT", "partNumber=2", kind="hang")
    uploader = Uploader(store, run, log, attempt=1, every_s=0.01)
    write(run.checkpoints / "step-00000100", {"state.pt": b"stillhouse" * 2**21, "complete": b""})
    uploader.start()
    assert stuck.met.wait(SOON)
    assert store.unfinished() != []

    uploader.wait_for_checkpoint(0.0)
    assert uploader.close(within_s=SOON)

    assert store.unfinished() == []
    s3.take_away(stuck)


def test_a_checkpoint_lets_a_student_go_first_that_is_on_its_way(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    sent: list[str] = []

    def seen(operation: str, key: str) -> Fate:
        if operation == "put_file":
            if not sent:
                behind.start()
                behind.join(0.2)  # long enough for it to pass, were there no queue
            sent.append(key.split("/")[0])
        return "well"

    uploader = Uploader(ShakyStore(folder, seen), run, log, attempt=1)
    behind = threading.Thread(target=uploader.send_checkpoint, args=(False,))
    write(run.student, {"model.safetensors": b"weights", "config.json": b"{}"})
    checkpoint(run, 100)

    uploader.send_files(False)
    behind.join(SOON)

    assert sent == ["student", "student", "checkpoints", "checkpoints"]


def test_closing_does_not_wait_longer_than_it_is_told(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> None:
    store = S3Store(s3.bucket(), "", s3.client())
    stuck = s3.add("PUT", kind="hang")
    uploader = Uploader(store, run, log, attempt=1, every_s=0.01)
    uploader.start()
    assert stuck.met.wait(SOON)

    began = time.monotonic()
    assert not uploader.close(within_s=0.2)

    assert time.monotonic() - began < 10
    s3.take_away(stuck)


def test_the_last_word_stays_the_last_even_if_it_cannot_be_stored(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    fails = False
    shaky = ShakyStore(folder, lambda operation, key: "fails" if fails else "well")
    uploader = Uploader(shaky, run, log, attempt=1, every_s=3600)
    uploader.start()
    assert uploader.flush(within_s=SOON)
    fails = True
    log.write(WorkerEnded(t=1.0, attempt=1, status="done"))

    assert not uploader.close(within_s=0.2)

    assert [event.kind for event, _ in read_events(run.events)] == ["worker_ended"]
    assert "put_bytes events/000000000000000.jsonl failed" in str(uploader.failure())


# ---- attempts --------------------------------------------------------------------------------


def test_a_machine_given_up_for_lost_stops_sending_when_it_finds_another_at_work(
    store: Store, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    log.write(progress(1))
    old = Uploader(store, run, log, attempt=1)
    old.send_lines(False)
    second = RunDir(tmp_path / "second")
    restore(store, second, pytest.fail)
    second_log = EventLog(second.events, attempt=2)
    new = Uploader(store, second, second_log, attempt=2)
    second_log.write(progress(2, attempt=2))
    new.send_lines(False)

    log.write(progress(3))
    checkpoint(run, 100)
    write(run.path, {"recipe.json": b"{}"})
    for send in (old.send_lines, old.send_files, old.send_checkpoint):
        with pytest.raises(OvertakenError, match="attempt 2 of this run has begun"):
            send(False)
    second_log.write(progress(4, attempt=2))
    new.send_lines(False)
    second_log.close()

    home = home_of(store, tmp_path)
    assert [event.done for event in events(home, Progress)] == [1, 2, 4]
    assert store.entries("checkpoints") == []


def test_what_slipped_in_from_a_machine_given_up_for_lost_does_no_harm(
    store: Store, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    log.write(progress(1))
    old = Uploader(store, run, log, attempt=1)
    old.send_lines(False)
    second = RunDir(tmp_path / "second")
    restore(store, second, pytest.fail)
    second_log = EventLog(second.events, attempt=2)
    new = Uploader(store, second, second_log, attempt=2)
    log.write(progress(2))
    old.send_lines(False)  # after the new machine has read, before it has written

    second_log.write(progress(3, attempt=2))
    new.send_lines(False)
    second_log.write(progress(4, attempt=2))
    Uploader(store, second, second_log, attempt=3).send_lines(False)
    second_log.close()

    home = home_of(store, tmp_path)
    assert [event.done for event in events(home, Progress)] == [1, 2, 3, 4]


def test_an_overtaken_uploader_says_so_and_has_the_worker_end(
    folder: FolderStore, run: RunDir, log: EventLog
) -> None:
    claim(folder, 2)
    asked: list[float | None] = []
    uploader = Uploader(folder, run, log, attempt=1, on_stop=asked.append, every_s=0.001)
    uploader.start()

    assert not uploader.flush(within_s=SOON), "at once, and not after a minute"
    assert uploader.overtaken
    assert set(asked) == {None}, "the worker is to end now"
    assert "attempt 2 of this run has begun" in warnings(run)[0]
    assert warnings(run)[0].endswith("The work ends.")
    assert folder.entries("events") == []
    assert not uploader.close(within_s=SOON)


def test_uploads_of_machines_that_are_gone_are_aborted(
    s3: LoopbackS3, run: RunDir, log: EventLog
) -> None:
    bucket = s3.bucket()
    store = S3Store(bucket, "runs/one", s3.client())
    s3.client().create_multipart_upload(Bucket=bucket, Key="runs/one/checkpoints/x")

    Uploader(store, run, log, attempt=2).send_files(False)

    assert store.unfinished() == []


# ---- for the worker --------------------------------------------------------------------------


def test_a_run_without_a_store_works_as_ever(run: RunDir, log: EventLog) -> None:
    assert bring_back(run, limits(None)) == []
    with mirrored(run, limits(None), log) as uploader:
        assert uploader is None


def test_a_worker_goes_on_on_another_machine(folder: FolderStore, tmp_path: Path) -> None:
    first, second = new_run(tmp_path / "first"), new_run(tmp_path / "second")
    log = EventLog(first.events, attempt=1)
    with mirrored(first, limits(folder.url), log) as uploader:
        assert uploader is not None
        log.write(progress(1))
        checkpoint(first, 100)
    log.close()

    assert bring_back(second, limits(folder.url, attempt=2)) == []
    assert (second.checkpoints / "step-00000100" / "state.pt").exists()
    log = EventLog(second.events, attempt=2)
    with mirrored(second, limits(folder.url, attempt=2), log):
        log.write(progress(2, attempt=2))
        write(second.path, {"done.json": b"{}"})
    log.close()

    home = new_run(tmp_path / "home")
    EventMirror(folder, home).fetch()
    assert [event.done for event in events(home, Progress)] == [1, 2]
    assert home.done.exists()


def test_what_is_passed_over_on_the_way_back_is_there_to_be_written_down(
    folder: FolderStore, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    uploader = Uploader(folder, run, log, attempt=1)
    checkpoint(run, 100)
    uploader.send_checkpoint(False)
    (state,) = [entry.key for entry in folder.entries("checkpoints") if "state" in entry.key]
    folder.put_bytes(state, b"state of 1OO")

    (warning,) = bring_back(new_run(tmp_path / "second"), limits(folder.url, attempt=2))

    assert (warning.code, warning.attempt) == ("restored", 2)
    assert "step-00000100 is damaged" in warning.message


def test_a_worker_whose_results_could_not_be_stored_ends_with_an_error(
    run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    unusable = str(tmp_path / "file" / "store")

    with (
        pytest.raises(StoreError, match=r"not everything could be stored in .*file/store"),
        mirrored(run, limits(unusable), log, closing_s=0.1),
    ):
        log.write(progress(1))


def test_an_error_of_the_worker_is_not_hidden_by_one_of_the_store(
    run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    unusable = str(tmp_path / "file" / "store")

    with (
        pytest.raises(ZeroDivisionError),
        mirrored(run, limits(unusable), log, closing_s=0.1),
    ):
        raise ZeroDivisionError


def test_what_a_failing_worker_said_is_stored(
    folder: FolderStore, run: RunDir, log: EventLog, tmp_path: Path
) -> None:
    def work() -> None:
        with mirrored(run, limits(folder.url), log):
            log.write(progress(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [event.done for event in events(home_of(folder, tmp_path), Progress)] == [1]


# ---- kill -9 ---------------------------------------------------------------------------------

WORKER = """
import sys
from pathlib import Path
from distill.upload import mirrored
from recipes.rundir import EventLog, Limits, Progress, RunDir, read_model
run = RunDir(Path(sys.argv[1]))
limits = read_model(run.limits, Limits)
log = EventLog(run.events, limits.attempt)
with mirrored(run, limits, log):
    for done in range(10**9):
        fields = dict(stage="train", done=done, total=10**9, unit="steps")
        log.write(Progress(t=1.0, attempt=limits.attempt, **fields))
        sys.stdin.readline()
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_checkpoint_and_another_machine_goes_on(
    s3: LoopbackS3, run: RunDir, tmp_path: Path
) -> None:
    store = S3Store(s3.bucket(), "runs/one", s3.client())
    large = b"stillhouse" * 2**21
    write(checkpoint(run, 100), {"state.pt": large})
    run.limits.write_text(limits(store.url).model_dump_json())
    with worker(run, s3) as process:
        wait_until(lambda: newest_checkpoint(store) is not None)
        stuck = s3.add("PUT", "step-00000200", "partNumber=2", kind="hang")
        staged = write(tmp_path / "staged", {"state.pt": large[::-1], "complete": b"200"})
        staged.rename(run.checkpoints / "step-00000200")
        assert stuck.met.wait(SOON)
        process.kill()
    s3.take_away(stuck)

    second = new_run(tmp_path / "second")
    restore(store, second, pytest.fail)
    assert [path.name for path in second.checkpoints.iterdir()] == ["step-00000100"]
    second.limits.unlink()
    second.limits.write_text(limits(store.url, attempt=2).model_dump_json())
    with worker(second, s3) as process:
        wait_until(lambda: store.unfinished() == [])
        shutil.copytree(run.checkpoints / "step-00000200", tmp_path / "again")
        (tmp_path / "again").rename(second.checkpoints / "step-00000200")
        wait_until(lambda: (newest_checkpoint(store) or (0,))[0] == 200)
        process.kill()

    home = pull_checkpoint(store, tmp_path / "home", pytest.fail)
    assert home is not None
    assert (home / "state.pt").read_bytes() == large[::-1]
    attempts = [event.attempt for event in events(home_of(store, tmp_path), Progress)]
    assert attempts == sorted(attempts)
    assert {1, 2} == set(attempts)


def worker(run: RunDir, s3: LoopbackS3) -> "subprocess.Popen[bytes]":
    environ = {**os.environ, **s3.environ()}
    command = [sys.executable, "-c", WORKER, str(run.path)]
    return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.05)


# ---- any sequence ----------------------------------------------------------------------------

FATES: tuple[Fate, ...] = ("well", "fails", "answer lost", "killed before", "killed after")


@dataclass
class World:
    """A worker on machines that come and go, its store, and a launcher that looks on."""

    root: Path
    attempt: int = 0
    step: int = 0
    said: int = 0
    durable_step: int = 0
    """Of the last checkpoint whose storing was confirmed."""
    confirmed: set[int] = field(default_factory=set)
    """Events whose storing was confirmed."""
    machines: int = 0
    run: RunDir = field(init=False)
    log: EventLog = field(init=False)
    uploader: Uploader = field(init=False)
    mirror: EventMirror = field(init=False)

    def __post_init__(self) -> None:
        self.store = FolderStore(self.root / "store")
        self.shaky = ShakyStore(self.store)
        self.home = new_run(self.root / "home")
        self.mirror = EventMirror(self.shaky, self.home)
        self.new_machine()

    def new_machine(self) -> None:
        self.machines += 1
        self.run = RunDir(self.root / f"machine-{self.machines}")
        self.start()

    def start(self) -> None:
        """A worker starts; whatever befell the store before is over."""
        if self.attempt:
            self.log.close()
        self.shaky.fate = lambda operation, key: "well"
        self.attempt += 1
        restore(self.store, self.run, lambda warning: None)
        here = [int(path.name[-8:]) for path in self.run.checkpoints.glob("step-*")]
        self.step = max(here, default=0)
        self.log = EventLog(self.run.events, self.attempt)
        self.uploader = Uploader(self.shaky, self.run, self.log, self.attempt)

    def say(self) -> None:
        self.said += 1
        self.log.write(progress(self.said, self.attempt))

    def train(self) -> None:
        self.step += 1
        checkpoint(self.run, self.step)

    def send_lines(self) -> None:
        self.uploader.send_lines(False)
        self.confirmed |= {event.done for event in events(self.run, Progress)}

    def send_files(self) -> None:
        step = self.step
        self.uploader.send_files(False)
        self.uploader.send_checkpoint(False)
        self.durable_step = max(self.durable_step, step)

    def look(self) -> None:
        self.mirror.fetch()

    def do(self, what: str, at: int, fate: Fate) -> None:
        fates = iter(["well"] * at + [fate])
        self.shaky.fate = lambda operation, key: next(fates, "well")  # type: ignore[return-value]
        try:
            getattr(self, what)()
        except StoreUnreachableError:
            pass
        except Killed:
            self.mirror = EventMirror(self.shaky, self.home)
            self.start()

    def check(self) -> None:
        newest = newest_checkpoint(self.store)
        assert (newest.step if newest else 0) >= self.durable_step


ACTS = ["say", "train", "send_lines", "send_files", "look", "start", "new_machine"]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(ACTS), st.integers(0, 12), st.sampled_from(FATES)), max_size=30
    )
)
def test_after_any_sequence_of_crashes_no_checkpoint_is_lost_and_every_event_came_once(
    acts: list[tuple[str, int, Fate]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))
        for what, at, fate in acts:
            world.do(what, at, fate)
            world.check()
        world.start()
        world.send_files()
        world.send_lines()
        world.look()
        world.log.close()

        come = [event.done for event in events(world.home, Progress)]
        assert come == sorted(set(come)), "each once, and in order"
        assert set(come) == world.confirmed
        assert world.home.events.read_bytes() == world.run.events.read_bytes()
        folder = pull_checkpoint(world.store, Path(name, "last"), pytest.fail)
        if world.durable_step:
            assert folder is not None
            step = int(folder.name[-8:])
            assert step >= world.durable_step
            assert (folder / "state.pt").read_bytes() == b"state of %d" % step
