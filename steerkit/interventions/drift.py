"""What a bound was set on, kept beside a probe: so that questions of another kind raise an alarm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from steerkit.core.errors import InputError
from steerkit.core.two_sample import Projection, drift_p_value

MEAN, DIRECTIONS, REFERENCE = "gate_drift_mean", "gate_drift_directions", "gate_drift_reference"


@dataclass(frozen=True, eq=False)
class DriftReference:
    """Few features of the held-out questions of a bound, `reference` `[n, k]`, and how they come of states.

    `mean` `[width]` and `directions` `[k, width]` as in `core.two_sample.Projection`, of states at the probe's layer:
    its own direction and the first principal ones of the questions that fitted it. One question of each group.
    """

    mean: Tensor
    directions: Tensor
    reference: Tensor

    def __post_init__(self) -> None:
        width, k = self.mean.shape[-1], self.directions.shape[0]
        if self.directions.shape != (k, width) or self.reference.shape[1:] != (k,):
            raise InputError("the drift reference of a probe does not fit together: write the probe again")

    def p_value(self, states: ArrayLike) -> float:
        """P-value of the hypothesis that states `[n, width]`, one of each group, are of questions of the same kind.

        Alarm at or below `core.two_sample.DRIFT_LEVEL`. Raises MisuseError for fewer than two.
        """
        projection = Projection(self.mean.double().numpy(), self.directions.double().numpy())
        return drift_p_value(self.reference.double().numpy(), projection(states))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under the names that they have in a file."""
        return {MEAN: self.mean, DIRECTIONS: self.directions, REFERENCE: self.reference}


def drift_from(tensors: Mapping[str, Tensor]) -> DriftReference | None:
    """The reference among a file's tensors; None where it holds none. Raises InputError where it is half there."""
    found = [tensors[name] for name in (MEAN, DIRECTIONS, REFERENCE) if name in tensors]
    if not found:
        return None
    if len(found) < 3 or not all(torch.isfinite(each).all() for each in found):
        raise InputError("a probe's drift reference is damaged: write the probe again")
    return DriftReference(*found)
