"""P10, P50 and P90 of a figure."""

import pytest

from launcher.estimate.quantiles import Quantiles


def test_quantiles_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="must not fall: 2, 1, 3"):
        Quantiles(2, 1, 3)
