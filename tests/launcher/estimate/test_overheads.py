"""What is paid for around the work."""

from launcher.estimate.overheads import (
    UPLOAD_BYTES_PER_S,
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
