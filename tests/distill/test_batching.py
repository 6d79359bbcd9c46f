"""Batches: every sample once an epoch, in an order that only depends on what is given."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.batching import Batches, share

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=200)
sizes = st.integers(1, 40)


@given(lengths, sizes, st.integers(0, 2**31 - 1))
def test_every_sample_comes_exactly_once_in_every_epoch(
    lengths: list[int], size: int, seed: int
) -> None:
    batches = Batches(lengths, size, seed)
    per_epoch = batches.steps_per_epoch

    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = [sample for step in steps for sample in batches.at(step)]
        assert sorted(seen) == list(range(len(lengths)))


@given(lengths, sizes, st.integers(0, 500))
def test_a_step_is_the_same_whichever_steps_were_asked_for_before(
    lengths: list[int], size: int, step: int
) -> None:
    replayed = Batches(lengths, size, seed=7)
    for earlier in range(step % 50):
        replayed.at(earlier)

    assert replayed.at(step) == Batches(lengths, size, seed=7).at(step)


@given(lengths, sizes)
def test_all_batches_are_full_but_one_of_an_epoch(lengths: list[int], size: int) -> None:
    batches = Batches(lengths, size, seed=1)

    counts = [len(batches.at(step)) for step in range(batches.steps_per_epoch)]

    odd = len(lengths) % size
    assert sorted(counts) == sorted([odd] * bool(odd) + [size] * (len(lengths) // size))


def test_another_seed_and_another_epoch_are_another_order() -> None:
    first = Batches([10] * 100, 10, seed=0)
    second = Batches([10] * 100, 10, seed=1)

    assert first.at(0) != second.at(0)
    assert [first.at(step) for step in range(10)] != [first.at(step) for step in range(10, 20)]


def test_samples_of_like_length_share_a_batch_so_little_is_padding() -> None:
    mixed = [1 + number * 37 % 500 for number in range(2000)]
    batches = Batches(mixed, 16, seed=0)

    padded = real = 0
    for step in range(batches.steps_per_epoch):
        taken = [mixed[sample] for sample in batches.at(step)]
        padded += max(taken) * len(taken)
        real += sum(taken)

    # In an order by chance almost half of it would be padding.
    assert real / padded > 0.9


def test_samples_of_nearly_one_length_are_mixed_and_not_sorted_into_kinds() -> None:
    kinds = [33, 34] * 500
    batches = Batches(kinds, 50, seed=0)

    for step in range(batches.steps_per_epoch):
        longer = sum(kinds[sample] == 34 for sample in batches.at(step))
        assert 5 < longer < 45


def test_the_order_of_an_epoch_shows_no_trend_in_length() -> None:
    rising = list(range(1, 2001))
    batches = Batches(rising, 10, seed=3)

    means = [sum(rising[sample] for sample in batches.at(step)) / 10 for step in range(200)]

    assert abs(sum(means[:100]) - sum(means[100:])) / sum(means) < 0.1


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, 7), (0.5, 4), (3, 21), (0.001, 1)], ids=["1", "half", "3", "least"]
)
def test_epochs_become_steps_and_never_none(epochs: float, steps: int) -> None:
    assert Batches([5] * 100, 16, seed=0).steps(epochs) == steps


def test_no_samples_make_no_batches() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Batches([], 4, seed=0)


@given(
    st.lists(st.integers(), min_size=1, max_size=60, unique=True),
    st.none() | st.integers(1, 60),
    st.integers(1, 9),
)
def test_processes_share_a_batch_without_loss_and_in_equally_many_rounds(
    batch: list[int], micro: int | None, world: int
) -> None:
    shares = [share(batch, micro, rank, world) for rank in range(world)]

    assert len({len(pieces) for pieces in shares}) == 1
    assert Counter(item for pieces in shares for piece in pieces for item in piece) == Counter(
        batch
    )
    assert all(len(piece) <= (micro or len(batch)) for pieces in shares for piece in pieces)
