"""What is paid for around the work: checkpoints, downloads, boot.

The bandwidths and boot times are assumptions, named so that a plan can print them and a person can
argue with them; finished runs measure all of them. docs/estimates.md says where each comes from.
"""

from launcher.estimate.flops import Method
from launcher.estimate.quantiles import Quantiles

DISK_BYTES_PER_S = Quantiles(0.3e9, 1.0e9, 2.5e9)
"""Writing a checkpoint to the disk of a rented node, one node [bytes/s]."""

DOWNLOAD_BYTES_PER_S = Quantiles(0.1e9, 0.4e9, 1.2e9)
"""Weights from the hub or an object store, one node [bytes/s]."""

UPLOAD_BYTES_PER_S = Quantiles(0.1e9, 0.3e9, 1.0e9)
"""A checkpoint or a student to an object store, one node [bytes/s]."""

PROVISION_SECONDS = Quantiles(60.0, 150.0, 480.0)
"""From the request until a node answers, where there is capacity [s]."""

SETUP_SECONDS = Quantiles(45.0, 120.0, 300.0)
"""Installing what the worker needs on a bare image [s]: about 2.5 GB of wheels."""

LOAD_SECONDS_PER_GB = 0.5
"""From the disk to the GPUs, for each 1e9 bytes of weights on a node [s/GB]."""


def weight_bytes(params: float, bytes_per_param: float = 2.0) -> float:
    """Size of a model's weights, as they are stored [bytes]. bfloat16 takes 2 a parameter.

    >>> weight_bytes(32.76e9) / 1e9
    65.52
    """
    return params * bytes_per_param


def checkpoint_bytes(params: float, method: Method, trainable_params: float = 0.0) -> float:
    """Size of a checkpoint that training can go on from [bytes].

    Learnt weights in float32 and AdamW's two moments: 12 for each learnt parameter. With LoRA and
    QLoRA only the adapters are saved, because the base does not change.

    >>> checkpoint_bytes(32.76e9, "full") / 1e9
    393.12
    """
    return 12.0 * (params if method == "full" else trainable_params)


def transfer_seconds(size_bytes: float, bytes_per_s: Quantiles, nodes: int = 1) -> Quantiles:
    """Seconds to move `size_bytes`, shared evenly by `nodes` that each reach `bytes_per_s`.

    >>> transfer_seconds(65.52e9, DOWNLOAD_BYTES_PER_S).p50
    163.8
    """
    whole = size_bytes / nodes
    return Quantiles(whole / bytes_per_s.p90, whole / bytes_per_s.p50, whole / bytes_per_s.p10)
