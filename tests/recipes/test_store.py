"""A folder and a bucket keep the same promises."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback_s3 import CREDENTIALS, LoopbackS3

from recipes.errors import InvalidInputError
from recipes.store import FolderStore, NotStoredError, Store, StoreError, Unfinished, open_store
from recipes.store_s3 import PART_BYTES, S3Store

LARGE = PART_BYTES + 4321


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    s3: LoopbackS3 = request.getfixturevalue("s3")
    return S3Store(s3.bucket(), "runs/one", s3.client())


def test_what_is_put_is_there_until_it_is_deleted(store: Store) -> None:
    store.put_bytes("a/b.json", b"one")
    store.put_bytes("a/b.json", b"another")

    assert store.exists("a/b.json")
    assert store.get_bytes("a/b.json") == b"another"

    store.delete("a/b.json")

    assert not store.exists("a/b.json")
    store.delete("a/b.json")  # nothing there is nothing to do


@pytest.mark.parametrize("size", [0, 1, LARGE])
def test_a_file_comes_back_as_it_was(store: Store, tmp_path: Path, size: int) -> None:
    file, back = tmp_path / "file", tmp_path / "back"
    file.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    back.write_bytes(b"something older")

    store.put_file(file, "weights.bin")
    store.get_file("weights.bin", back)

    assert back.read_bytes() == file.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["back", "file"]


def test_a_bucket_tells_its_time_and_a_folder_does_not(store: Store) -> None:
    there, now = store.clock(), time.time()

    if isinstance(store, FolderStore):
        assert there is None
    else:
        assert there is not None
        assert now - 60 < there <= now


def test_what_has_to_be_new_is_put_once(store: Store) -> None:
    assert store.put_bytes("attempts/1", b"first", only_if_new=True)
    assert not store.put_bytes("attempts/1", b"second", only_if_new=True)

    assert store.get_bytes("attempts/1") == b"first"


def test_what_is_not_there_is_an_error_that_names_it(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotStoredError, match=f"{store.url}/no/such is not there"):
        store.get_bytes("no/such")
    with pytest.raises(NotStoredError, match="no/such is not there"):
        store.get_file("no/such", tmp_path / "back")

    assert list(tmp_path.glob("*back*")) == []


def test_a_local_file_that_is_missing_is_not_blamed_on_the_store(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "missing", "key")

    assert store.entries() == []


def test_entries_are_sorted_and_keep_to_their_folder(store: Store) -> None:
    for key in ("b/2", "b/10", "b/deep/er", "bc/1", "a", "b-/1"):
        store.put_bytes(key, key.encode())

    assert store.entries("b") == [("b/10", 4), ("b/2", 3), ("b/deep/er", 9)]
    assert store.entries("b", start_after="b/10") == [("b/2", 3), ("b/deep/er", 9)]
    assert [entry.key for entry in store.entries()] == sorted(
        ["b/2", "b/10", "b/deep/er", "bc/1", "a", "b-/1"]
    )
    assert store.folders() == ["b", "b-", "bc"]


def test_deleting_a_folder_leaves_its_neighbours(store: Store) -> None:
    for key in ("b/1", "b/deep/2", "bc/1", "b.json"):
        store.put_bytes(key, b"")

    store.delete("b")

    assert [entry.key for entry in store.entries()] == ["b.json", "bc/1"]


def test_a_store_in_which_nothing_was_put_is_empty(store: Store) -> None:
    assert store.entries() == []
    assert store.entries("events") == []
    assert store.folders() == []
    assert store.unfinished() == []
    assert not store.exists("done.json")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b", "a//b", "./a", "a\0b", "a" * 901])
def test_a_key_cannot_lead_out_of_the_store(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        store.put_bytes(key, b"")


@pytest.mark.slow
def test_more_than_a_page_is_listed_and_deleted_whole(s3: LoopbackS3) -> None:
    bucket = s3.bucket()
    store = S3Store(bucket, "", s3.client())
    s3.fill(bucket, [f"events/{number:04d}" for number in range(1001)])

    assert len(store.entries("events")) == 1001
    assert len(store.entries("events", start_after="events/0000")) == 1000

    store.delete("events")

    assert store.entries() == []


def test_an_upload_that_never_ended_is_found_and_aborted(s3: LoopbackS3) -> None:
    bucket, client = s3.bucket(), s3.client()
    store = S3Store(bucket, "runs/one", client)
    for key in ("runs/one/checkpoints/a", "runs/two/b"):
        client.create_multipart_upload(Bucket=bucket, Key=key)

    (found,) = store.unfinished()
    assert found.key == "checkpoints/a"
    assert store.unfinished("checkpoints") == [found]
    assert store.unfinished("student") == []

    store.abort(found)
    store.abort(found)  # somebody was faster

    assert store.unfinished() == []
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1


def test_what_a_kill_left_in_a_folder_is_no_entry_and_can_be_removed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put_bytes("a/b", b"whole")
    torn = tmp_path / "a" / ".b.0123456789abcdef.tmp"
    torn.write_bytes(b"tor")

    assert store.entries() == [("a/b", 5)]
    assert store.unfinished("a") == [Unfinished("a/b", "0123456789abcdef")]

    store.abort(store.unfinished()[0])

    assert not torn.exists()
    assert store.get_bytes("a/b") == b"whole"


def test_files_in_a_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "deep" / "store")
    store.put_bytes("a/b", b"")

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "deep").rglob("*")}
    assert modes == {"store": 0o700, "a": 0o700, "b": 0o600}


def test_an_object_too_large_for_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**28 + 1)

    with pytest.raises(StoreError, match="268,435,457 bytes"):
        FolderStore(tmp_path).get_bytes("huge")


# ---- opening ---------------------------------------------------------------------------------


def test_a_path_is_a_folder_and_an_s3_url_a_bucket(tmp_path: Path) -> None:
    folder = open_store(str(tmp_path / "store"), {})
    bucket = open_store("s3://some-bucket/runs/one/", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    assert folder.url == str(tmp_path / "store")
    assert bucket.url == "s3://some-bucket/runs/one"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("gs://bucket/prefix", "is no run store"),
        ("https://bucket.example/prefix", "AWS_ENDPOINT_URL"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://b/prefix", "s3://bucket/prefix"),
        ("s3://bucket/a/../b", "plain names"),
        ("", "an empty text"),
        (__file__, "it is no folder"),
    ],
)
def test_what_is_neither_is_refused_with_what_would_be_right(url: str, what: str) -> None:
    with pytest.raises(InvalidInputError, match=what):
        open_store(url, {})


def test_a_key_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInputError) as refused:
        open_store("s3://AKIDEXAMPLE:wJalrXUtnFEMI@bucket/prefix", {})

    assert "AKID" not in str(refused.value)
    assert "wJal" not in str(refused.value)


def test_a_wrong_endpoint_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="begins with http"):
        open_store("s3://bucket/prefix", {"AWS_ENDPOINT_URL": "minio.local:9000"})


def test_the_endpoint_and_boto3s_own_credentials_are_used(
    s3: LoopbackS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{s3.bucket()}/runs/one", {"AWS_ENDPOINT_URL": s3.url})

    store.put_bytes("done.json", b"{}")

    assert store.get_bytes("done.json") == b"{}"
    assert any(request.endswith("/runs/one/done.json") for request in s3.requests)


# ---- what goes wrong in a folder -------------------------------------------------------------


def test_a_store_error_survives_pickling() -> None:
    error = NotStoredError("nothing is there", "Look elsewhere.")

    assert str(pickle.loads(pickle.dumps(error))) == "nothing is there. Look elsewhere."


def test_a_folder_below_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreError, match="Name a folder of its own"):
        FolderStore(tmp_path / "file" / "store").put_bytes("a", b"")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fill() -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fsync)

    return fill


def test_a_full_disk_is_explained_and_leaves_what_was_there(
    tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    store = FolderStore(tmp_path)
    store.put_bytes("a", b"before")
    full_disk()

    with pytest.raises(StoreError, match=r"No space left on device\. Make room there\."):
        store.put_bytes("a", b"after")

    assert store.entries() == [("a", 6)]
    assert store.unfinished() == []
