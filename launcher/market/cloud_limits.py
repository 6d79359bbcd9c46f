"""What SkyPilot cannot do on some clouds, as far as it changes which offers make sense.

As of SkyPilot 0.14.1; a test asks SkyPilot itself whether it is still so.
"""

ONE_NODE_ONLY = frozenset(
    {
        "hyperbolic",
        "primeintellect",
        "runpod",
        "seeweb",
        "shadeform",
        "vast",
        "verda",
        "vsphere",
        "yotta",
    }
)
"""Machines there cannot work together."""

NO_AUTODOWN = frozenset({"hyperbolic", "primeintellect", "verda", "yotta"})
"""SkyPilot's timer on the node cannot give the machine back: one safety net fewer."""

NO_PRICES = frozenset({"kubernetes", "ssh", "slurm"})
"""Clusters of one's own: no catalog says what an hour of theirs costs."""
