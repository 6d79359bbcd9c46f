"""The targets of the fuzzer, tried on its corpus and on what hypothesis thinks of."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, packed
from hypothesis import given, settings
from hypothesis import strategies as st

import recipes

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus").glob("*/*"))
SHIPPED = sorted(Path(recipes.__file__).parent.glob("*.yaml"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_is_in_the_corpus_breaks_nothing(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_breaks_nothing(path: Path) -> None:
    TARGETS["recipe"](path.read_bytes())


@pytest.mark.parametrize("target", sorted(TARGETS))
@settings(max_examples=50)
@given(content=st.binary(max_size=400))
def test_any_bytes_break_nothing(target: str, content: bytes) -> None:
    TARGETS[target](content)


@pytest.mark.parametrize("target", sorted(TARGETS))
@settings(max_examples=60)
@given(data=st.data())
def test_a_corpus_with_a_piece_replaced_breaks_nothing(target: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in CORPUS if path.parent.name == target]))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))

    TARGETS[target](content[:start] + data.draw(st.binary(max_size=20)) + content[end:])


# ---- events that are JSON, and wrong ---------------------------------------------------------

EVENTS = [
    json.loads(path.read_bytes())
    for path in CORPUS
    if path.parent.name == "events" and path.read_bytes().count(b"\n") == 1
]
ODD = (
    st.integers(-(10**30), 10**30)
    | st.floats()
    | st.sampled_from([-1, 0, 2**63, 1e308, -1e308, "", "train", None, True, [], {}])
    | st.text(max_size=5)
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 20), ODD), max_size=6))
def test_events_with_odd_values_break_nothing(
    changed: list[tuple[dict[str, object], int, object]],
) -> None:
    lines = []
    for event, which, value in changed:
        field = sorted(event)[which % len(event)]
        lines.append(json.dumps(event | {field: value}).encode() + b"\n")

    TARGETS["events"](b"".join(lines))


# ---- run stores that are nearly right --------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("recipe.json", "limits.json", "plan.json", "scores.json", "done.json", "", "/", ".."),
        *("student/complete", "answers/complete", "student/../../x", "checkpoints/complete"),
        *("checkpoints", "checkpoints/", "checkpoints/step-00000001/complete"),
        *("checkpoints/step-99999999999999999/complete", "checkpoints/step-1/complete"),
        *("events/000000000000000.jsonl", "events/000000000000003.jsonl", "events/-1.jsonl"),
        *("events/../../x.jsonl", "traces/000000000000000.jsonl", "traces/999999999999999.jsonl"),
        *("attempts/00000001", "attempts/99999999", "attempts/-0000001", "attempts/x"),
        *("wishes/00000002", "wishes/", "a" * 900),
    ]
) | st.text(max_size=10)


def manifest(files: list[tuple[str, int]]) -> bytes:
    found = [{"path": path, "size_bytes": size, "sha256": "0" * 64} for path, size in files]
    return json.dumps({"version": 1, "files": found}).encode()


MANIFESTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "a/b", "../x", "b" * 300, "complete", "/x", "A"]),
        st.sampled_from([0, 1, -1, 2**70]),
    ),
    max_size=3,
).map(manifest)
LINES = st.lists(st.sampled_from(EVENTS).map(json.dumps), max_size=3).map(
    lambda lines: "".join(f"{line}\n" for line in lines).encode()
)
CONTENTS = MANIFESTS | LINES | st.binary(max_size=30) | st.sampled_from([b"{}", b"[", b"x\n"])


@settings(max_examples=200)
@given(st.dictionaries(NAMES, CONTENTS, max_size=8))
def test_a_run_store_with_odd_objects_breaks_nothing(objects: dict[str, bytes]) -> None:
    TARGETS["store"](packed({key: value for key, value in objects.items() if key.isprintable()}))


@settings(max_examples=60)
@given(st.data())
def test_a_whole_run_store_with_objects_cut_off_gone_or_swapped_breaks_nothing(
    data: st.DataObject,
) -> None:
    content = (HERE / "corpus/store/whole").read_bytes()
    objects = [record.split(b"\x1f") for record in content.split(b"\x1e")]
    for _ in range(data.draw(st.integers(1, 3))):
        one, other = (data.draw(st.sampled_from(objects)) for _ in range(2))
        match data.draw(st.sampled_from(["cut off", "gone", "swapped", "renamed"])):
            case "cut off":
                one[1] = one[1][: data.draw(st.integers(0, len(one[1])))]
            case "gone" if len(objects) > 1:
                objects.remove(one)
            case "swapped":
                one[1], other[1] = other[1], one[1]
            case "renamed":
                one[0] = data.draw(NAMES.filter(str.isprintable)).encode()

    TARGETS["store"](b"\x1e".join(b"\x1f".join(record) for record in objects))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_takes_no_fault_of_ours_for_one_of_the_stranger(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    broken: dict[str, tuple[str, Callable[..., None]]] = {
        "recipe": ("fuzz_targets.parse_recipe", fails),
        "events": ("fuzz_targets.read_events", fails),
        "store": ("fuzz_targets.restore", fails),
    }
    monkeypatch.setattr(*broken[target])

    with pytest.raises(ZeroDivisionError):
        TARGETS[target](b"")
