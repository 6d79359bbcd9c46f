"""A run comes home from its store: to a launcher that looks on, and to a machine that goes on."""

import shutil
from pathlib import Path

import pytest
from loopback_s3 import LoopbackS3
from shaky_store import Fate, Killed, ShakyStore

from recipes.rundir import RunDir, Warned, read_events
from recipes.store import FolderStore, Store, StoreError, StoreUnreachableError
from recipes.store_checkpoints import push_checkpoint
from recipes.store_lines import LineSender
from recipes.store_s3 import S3Store
from recipes.store_trees import put_tree
from recipes.stored_run import (
    EventMirror,
    Wish,
    ask_to_save,
    asked_to_save,
    claim,
    claimed_by,
    restore,
    student_bytes,
    withdraw_results,
)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    s3: LoopbackS3 = request.getfixturevalue("s3")
    return S3Store(s3.bucket(), "runs/one", s3.client())


@pytest.fixture
def node(tmp_path: Path) -> RunDir:
    return run_dir(tmp_path / "node")


@pytest.fixture
def home(tmp_path: Path) -> RunDir:
    return run_dir(tmp_path / "home")


def run_dir(path: Path) -> RunDir:
    path.mkdir()
    return RunDir(path)


def say(run: RunDir, *messages: str) -> None:
    with run.events.open("ab") as file:
        for message in messages:
            event = Warned(t=1.0, attempt=1, code="test", message=message)
            file.write(event.model_dump_json().encode() + b"\n")


def said(run: RunDir) -> list[str]:
    return [event.message for event, _ in read_events(run.events) if isinstance(event, Warned)]


def send_events(store: Store, run: RunDir) -> None:
    LineSender(store, "events", run.events).send()


def checkpoint(run: RunDir, step: int) -> Path:
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"state of %d" % step)
    (folder / "complete").write_bytes(b"%d" % step)
    return folder


def finish(store: Store, run: RunDir) -> None:
    """Store what a finished run has, `done.json` last."""
    for folder, name in ((run.answers, "sums.jsonl"), (run.student, "model.safetensors")):
        folder.mkdir()
        (folder / name).write_bytes(b"content of " + name.encode())
        put_tree(store, folder, folder.name)
    store.put_bytes("scores.json", b'{"version":1,"scores":{}}')
    store.put_bytes("done.json", b'{"version":1}')


# ---- the launcher's side ---------------------------------------------------------------------


def test_events_come_home_as_they_are_said(store: Store, node: RunDir, home: RunDir) -> None:
    mirror = EventMirror(store, home)
    assert mirror.fetch() == 0

    say(node, "one", "two")
    send_events(store, node)
    assert mirror.fetch() == node.events.stat().st_size
    assert said(home) == ["one", "two"]

    say(node, "three")
    send_events(store, node)
    EventMirror(store, home).fetch()  # of another process, after a kill
    assert mirror.fetch() == 0
    assert said(home) == ["one", "two", "three"]


def test_results_come_home_when_the_run_is_done_and_not_before(
    store: Store, node: RunDir, home: RunDir
) -> None:
    mirror = EventMirror(store, home)
    store.put_bytes("scores.json", b"{}")
    mirror.fetch()
    assert not home.scores.exists()

    finish(store, node)
    mirror.fetch()

    assert (home.answers / "sums.jsonl").read_bytes() == b"content of sums.jsonl"
    assert (home.student / "model.safetensors").read_bytes() == b"content of model.safetensors"
    assert home.scores.read_bytes() == b'{"version":1,"scores":{}}'
    assert home.done.read_bytes() == b'{"version":1}'


def test_a_large_student_may_stay_where_it_is(store: Store, node: RunDir, home: RunDir) -> None:
    assert student_bytes(store) is None
    finish(store, node)

    EventMirror(store, home, with_student=False).fetch()

    assert home.done.exists()
    assert not home.student.exists()
    assert student_bytes(store) == len(b"content of model.safetensors")


def test_events_said_at_the_very_end_are_here_before_the_run_is_done(
    node: RunDir, home: RunDir, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")

    def ends_meanwhile(operation: str, key: str) -> Fate:
        if (operation, key) == ("exists", "done.json") and not node.done.exists():
            node.done.write_bytes(b"{}")
            say(node, "the last word")
            send_events(store, node)
            finish(store, node)
        return "well"

    EventMirror(ShakyStore(store, ends_meanwhile), home).fetch()

    assert home.done.exists()
    assert said(home) == ["the last word"]


@pytest.mark.parametrize("fate", ["killed before", "killed after", "fails", "answer lost"])
def test_a_fetch_can_be_cut_off_anywhere_and_taken_up_again(
    node: RunDir, tmp_path: Path, fate: Fate
) -> None:
    store = FolderStore(tmp_path / "store")
    say(node, "one", "two")
    send_events(store, node)
    finish(store, node)
    for number in range(40):
        home = run_dir(tmp_path / f"home-{number}")
        count = 0

        def interrupted(operation: str, key: str, number: int = number) -> Fate:
            nonlocal count
            count += 1
            return fate if count == number + 1 else "well"

        try:
            EventMirror(ShakyStore(store, interrupted), home).fetch()
        except (Killed, StoreUnreachableError):
            assert not home.done.exists(), "done.json says that everything else is here"
            EventMirror(store, home).fetch()
        assert home.done.exists()
        assert said(home) == ["one", "two"]
        assert sorted(path.name for path in home.path.iterdir()) == [
            "answers",
            "done.json",
            "events.jsonl",
            "scores.json",
            "student",
        ]
        if count <= number:
            return
    pytest.fail("a fetch has no end")


def test_a_run_that_goes_on_is_not_done_any_more(store: Store, node: RunDir, home: RunDir) -> None:
    say(node, "one")
    send_events(store, node)
    push_checkpoint(store, checkpoint(node, 100))
    finish(store, node)

    withdraw_results(store)
    EventMirror(store, home).fetch()

    assert not home.done.exists()
    assert said(home) == ["one"]
    assert {entry.key.split("/")[0] for entry in store.entries()} == {"events", "checkpoints"}


def test_results_of_a_run_that_failed_can_be_had_too(
    store: Store, node: RunDir, home: RunDir
) -> None:
    finish(store, node)
    store.delete("done.json")

    EventMirror(store, home).fetch_results()

    assert (home.student / "model.safetensors").exists()
    assert home.scores.exists()
    assert not home.done.exists()


# ---- a machine that goes on ------------------------------------------------------------------


def test_a_new_machine_gets_everything(store: Store, node: RunDir, home: RunDir) -> None:
    say(node, "one", "two")
    send_events(store, node)
    node.traces.write_bytes(b'{"trace":1}\n')
    LineSender(store, "traces", node.traces).send()
    for step in (100, 200):
        push_checkpoint(store, checkpoint(node, step))
    for name in ("recipe.json", "plan.json", "limits.json"):
        store.put_bytes(name, name.encode())
    finish(store, node)

    restore(store, home, pytest.fail)

    assert said(home) == ["one", "two"]
    assert home.traces.read_bytes() == b'{"trace":1}\n'
    assert [path.name for path in home.checkpoints.iterdir()] == ["step-00000200"]
    assert home.recipe.read_bytes() == b"recipe.json"
    assert home.limits.read_bytes() == b"limits.json"
    assert (home.student / "model.safetensors").exists()
    assert home.done.exists()


def test_an_empty_store_brings_nothing(store: Store, home: RunDir) -> None:
    restore(store, home, pytest.fail)

    assert {path.name for path in home.path.iterdir()} <= {"events.jsonl", "traces.jsonl"}
    assert said(home) == []


def test_the_bundle_of_a_new_attempt_is_kept(store: Store, home: RunDir) -> None:
    store.put_bytes("limits.json", b"of attempt 1")
    home.limits.write_bytes(b"of attempt 2")

    restore(store, home, pytest.fail)

    assert home.limits.read_bytes() == b"of attempt 2"


def test_a_machine_that_is_ahead_of_the_store_keeps_what_it_has(store: Store, node: RunDir) -> None:
    say(node, "one")
    send_events(store, node)
    push_checkpoint(store, checkpoint(node, 100))
    say(node, "two")
    shutil.rmtree(node.checkpoints)
    checkpoint(node, 200)

    restore(store, node, pytest.fail)
    send_events(store, node)

    assert said(node) == ["one", "two"]
    assert [path.name for path in node.checkpoints.iterdir()] == ["step-00000200"]


def test_a_machine_the_run_comes_back_to_takes_over_what_happened_elsewhere(
    store: Store, node: RunDir, home: RunDir
) -> None:
    say(node, "one")
    send_events(store, node)
    restore(store, home, pytest.fail)
    say(node, "never sent")
    say(home, "elsewhere")
    send_events(store, home)
    warnings: list[str] = []

    restore(store, node, warnings.append)

    assert said(node) == ["one", "elsewhere"]
    assert "events.jsonl went on elsewhere; what was here is now events.jsonl.other" in warnings[0]
    assert b"never sent" in node.events.with_name("events.jsonl.other").read_bytes()


def test_what_cannot_be_had_is_an_error_and_not_a_new_beginning(
    node: RunDir, home: RunDir, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    push_checkpoint(store, checkpoint(node, 100))
    denied = ShakyStore(
        store, lambda operation, key: "fails" if operation == "get_file" else "well"
    )

    with pytest.raises(StoreError):
        restore(denied, home, pytest.fail)


# ---- attempts --------------------------------------------------------------------------------


def test_a_later_attempt_is_seen_and_an_earlier_one_is_not(store: Store) -> None:
    assert claimed_by(store, 1) is None

    claim(store, 1)
    claim(store, 1)
    assert claimed_by(store, 1) is None

    claim(store, 11)
    claim(store, 2)
    assert claimed_by(store, 1) == 11
    assert claimed_by(store, 11) is None


def test_the_last_wish_counts_and_only_for_the_worker_it_was_meant_for(store: Store) -> None:
    assert asked_to_save(store, 1) is None

    ask_to_save(store, 1, by=1_800_000_000.5)
    assert asked_to_save(store, 1) == Wish(by=1_800_000_000.5)

    ask_to_save(store, 1)
    assert asked_to_save(store, 1) == Wish()
    assert asked_to_save(store, 2) is None


def test_who_was_asked_to_end_now_is_asked_for_no_later_moment(store: Store) -> None:
    ask_to_save(store, 1, by=200.0)
    ask_to_save(store, 1, by=100.0)
    wish = asked_to_save(store, 1)
    assert wish is not None
    assert wish.by == 100.0

    ask_to_save(store, 1)
    ask_to_save(store, 1, by=50.0)

    wish = asked_to_save(store, 1)
    assert wish is not None
    assert wish.by is None
