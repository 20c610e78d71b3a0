"""What a consumer that can only add a constant is able to express: operation `add`, scope `all`, no gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.interventions.steering import Steering

# What the exports know how to write or to refuse; any other field of a steering is refused by its name.
EXPRESSED = {"vector", "layers", "strength", "operation", "scope", "target", "gate"}


def constant_shifts(steerings: Sequence[Steering], consumer: str) -> Tensor:
    """The sum of what `steerings` add at each layer, `[n_layers, d_model]` float32.

    Raises MisuseError that names the field which `consumer` cannot express, or says that nothing is added.
    """
    for steering in steerings:
        require_every_position(steering, consumer)
        if steering.operation != "add":
            raise MisuseError(
                f"operation={steering.operation} in {str(steering)!r}: {consumer} can only add a constant; "
                "export operation=add"
            )
    return added(steerings, consumer)


def require_every_position(steering: Steering, consumer: str) -> None:
    """Raise MisuseError unless `steering` acts at every position of every text, as `consumer` does."""
    for field in fields(steering):  # first: under scope=all some of them could not be asked for
        if field.name not in EXPRESSED and getattr(steering, field.name) != field.default:
            raise MisuseError(
                f"{field.name} in {str(steering)!r}: {consumer} has nothing like it; leave it out"
            )
    if steering.scope != "all":
        raise MisuseError(
            f"scope={steering.scope} in {str(steering)!r}: {consumer} acts at every position; write scope=all, which "
            "is another steering: measure it"
        )
    if steering.gate is not None:
        raise MisuseError(f"gate in {str(steering)!r}: {consumer} has no condition; export it without a gate")


def added(steerings: Sequence[Steering], consumer: str) -> Tensor:
    """The summed shifts `[n_layers, d_model]` of steerings that add."""
    if not steerings:
        raise MisuseError("there is nothing to export: give at least one VECTOR@layer=…,strength=…,scope=all")
    shifts = torch.zeros_like(steerings[0].vector.direction)
    for steering in steerings:
        if steering.vector.direction.shape != shifts.shape:
            raise MisuseError(
                f"{steerings[0].vector.name!r} and {steering.vector.name!r} are for models of different sizes: export "
                "vectors of one model"
            )
        for layer in steering.layers:
            shifts[layer] += steering.strength * steering.vector.direction[layer]
    if not shifts.isfinite().all():
        raise MisuseError(f"a strength is too large for {consumer}: it overflows float32")
    if not shifts.any():
        raise MisuseError("strength=0 or a zero direction: there is nothing to export")
    return shifts


def steered_layers(shifts: Tensor) -> list[int]:
    """The layers of `[n_layers, d_model]` at which something is added."""
    return shifts.any(dim=1).nonzero().flatten().tolist()
