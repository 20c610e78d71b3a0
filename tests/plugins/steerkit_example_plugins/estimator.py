"""An estimator: `steerkit extract --method median-difference`, `sk.extract(lm, pairs, "median-difference")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import steerkit as sk

if TYPE_CHECKING:
    from torch import Tensor


@sk.estimator("median-difference")
def median_difference(positive: Tensor, negative: Tensor) -> Tensor:
    """Median of the positive states minus median of the negative ones, coordinate by coordinate."""
    return positive.median(dim=0).values - negative.median(dim=0).values
