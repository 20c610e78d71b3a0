"""What a consumer that can only add a constant is able to express: a constant shift at every position, no gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from steerkit.core.errors import MisuseError
from steerkit.core.sites import RESID_POST

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.interventions.base import Intervention
    from steerkit.interventions.steering import Steering

# What the exports know how to write or to refuse; any other field of a steering is refused by its name.
EXPRESSED = {"vector", "layers", "strength", "operation", "scope", "target", "gate"}


def refusal_of_condition(intervention: Intervention, consumer: str) -> str | None:
    """Why a consumer that does the same at every position of every text cannot express this; None where it can."""
    from steerkit.interventions.steering import Steering

    if not isinstance(intervention, Steering):
        return f"{consumer} holds steerings alone, and this is of kind {intervention.kind}"
    if intervention.site != RESID_POST:
        return f"site={intervention.site}: {consumer} acts on the blocks' outputs; export a vector of {RESID_POST}"
    for field in fields(intervention):  # first: under scope=all some of them could not be asked for
        if field.name not in EXPRESSED and getattr(intervention, field.name) != field.default:
            return f"{field.name}: {consumer} has nothing like it; leave it out"
    if intervention.scope != "all":
        return (
            f"scope={intervention.scope}: {consumer} acts at every position; write scope=all, which is another "
            "steering: measure it"
        )
    if intervention.gate is not None:
        return f"gate: {consumer} has no condition; export it without a gate"
    return None


def refusal_of_shift(intervention: Intervention, consumer: str) -> str | None:
    """Why a consumer that adds a constant at every position cannot express this; None where it can."""
    from steerkit.interventions.steering import Steering

    if reason := refusal_of_condition(intervention, consumer):
        return reason
    if isinstance(intervention, Steering) and not intervention.acts_by.is_constant_shift:
        return f"operation={intervention.operation}: {consumer} can only add a constant; export operation=add"
    return None


def constant_shifts(steerings: Sequence[Steering], consumer: str) -> Tensor:
    """The sum of what `steerings`, constant shifts all, add at each layer, `[n_layers, d_model]` float32.

    Raises MisuseError where they are for models of different sizes, or where nothing, or no finite number, is added.
    """
    import torch

    shifts = torch.zeros_like(steerings[0].vector.direction)
    for steering in steerings:
        direction = steering.vector.direction
        if direction.shape != shifts.shape:
            raise MisuseError(
                f"{steerings[0].vector.name!r} and {steering.vector.name!r} are for models of different sizes: export "
                "vectors of one model"
            )
        for layer in steering.layers:
            shifts[layer] += steering.acts_by.constants(direction[layer], steering.strength, None).shift
    if not shifts.isfinite().all():
        raise MisuseError(f"a strength is too large for {consumer}: it overflows float32")
    if not shifts.any():
        raise MisuseError("the steerings add up to zero: there is nothing to export")
    return shifts


def steered_layers(shifts: Tensor) -> list[int]:
    """The layers of `[n_layers, d_model]` at which something is added."""
    layers: list[int] = shifts.any(dim=1).nonzero().flatten().tolist()
    return layers
