"""What is paid for around the work."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.estimate.overheads import (
    UPLOAD_BYTES_PER_S,
    billed_seconds,
    boot_seconds,
    checkpoint_bytes,
    transfer_seconds,
)
from launcher.estimate.quantiles import Quantiles


def test_a_checkpoint_of_adapters_is_small_and_one_of_a_whole_model_is_not() -> None:
    assert checkpoint_bytes(7e9, "full") == 84e9
    assert checkpoint_bytes(7e9, "lora", trainable_params=4e7) == 0.48e9


def test_a_slow_network_is_the_high_end_of_a_transfer() -> None:
    seconds = transfer_seconds(30e9, Quantiles(0.1e9, 0.3e9, 1e9))

    assert (seconds.p10, seconds.p50, seconds.p90) == (30.0, 100.0, 300.0)


def test_nodes_upload_side_by_side() -> None:
    assert transfer_seconds(30e9, UPLOAD_BYTES_PER_S, nodes=2).p50 == 50.0


def test_the_shortest_bill_is_a_minute_and_nothing_costs_nothing() -> None:
    assert billed_seconds(0.4) == 60.0
    assert billed_seconds(61.2) == 62.0
    assert billed_seconds(0) == 0


@given(
    seconds=st.floats(0, 1e6),
    more=st.floats(0, 1e6),
    at_least=st.floats(0, 7200),
    step=st.sampled_from([1.0, 60.0, 3600.0]),
)
def test_a_bill_never_falls_and_is_never_less_than_the_use(seconds, more, at_least, step) -> None:
    bill = billed_seconds(seconds, at_least=at_least, step=step)

    assert bill >= seconds
    assert billed_seconds(seconds + more, at_least=at_least, step=step) >= bill


@given(size=st.floats(0, 1e12), more=st.floats(0, 1e12))
def test_boot_never_gets_faster_with_a_larger_model(size: float, more: float) -> None:
    small, large = boot_seconds(size), boot_seconds(size + more)

    assert small.p10 <= small.p50 <= small.p90
    assert (small.p10, small.p50, small.p90) <= (large.p10, large.p50, large.p90)
