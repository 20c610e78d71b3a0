"""An operation: `--steer VECTOR@layer=2,operation=flip`, `vector.at(2, operation="flip")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import steerkit as sk
from steerkit.interventions.operations import Constants, unit_of

if TYPE_CHECKING:
    from torch import Tensor


@sk.operation("flip")
class Flip(sk.Operation):
    """Flip the component along the vector: h - 2 · s · p · û."""

    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the gain along the vector, which says all of it."""
        del target
        return Constants(v.new_zeros(v.shape), unit_of(v), -2 * strength)
