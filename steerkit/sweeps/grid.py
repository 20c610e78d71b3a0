"""The cells of a sweep: what is done to the model, as content-addressed data.

A cell's id is the digest of what its steerings do, so the same cell has the same id in every run, a grid can
be extended without renaming anything, and strength 0, which is the identity, is the unsteered cell itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerkit.errors import MisuseError
from steerkit.steering import Operation, Scope, Steering
from steerkit.vector import SteeringVector

Role = Literal["unsteered", "steered", "random"]

ID_LENGTH = 12


@dataclass(frozen=True, eq=False)
class Cell:
    """One composition of steerings, applied in order; without any, the unsteered model.

    Steerings of strength 0 are dropped: they do nothing. `controls` names the vector that a random direction
    of the same norm stands beside; None for every cell that is no control.
    """

    steerings: tuple[Steering, ...] = ()
    controls: str | None = None

    def __post_init__(self) -> None:
        active = tuple(steering for steering in self.steerings if steering.strength != 0)
        object.__setattr__(self, "steerings", active)

    @property
    def role(self) -> Role:
        """What the cell is in the experiment."""
        if not self.steerings:
            return "unsteered"
        return "steered" if self.controls is None else "random"

    @functools.cached_property
    def id(self) -> str:
        """The first 12 hex digits of the SHA-256 over the steerings' digests, in order."""
        content = json.dumps([steering.digest for steering in self.steerings])
        return hashlib.sha256(content.encode()).hexdigest()[:ID_LENGTH]

    def fields(self) -> dict[str, Any]:
        """The cell as a record shows it.

        `vector`, `strength`, `scope` and `operation` are null for a composition, `layer` also where one
        steering acts on several layers. The unsteered cell has strength 0 and the others null.
        """
        fields: dict[str, Any] = {
            "cell": self.id,
            "role": self.role,
            "controls": self.controls if self.steerings else None,
            "steering": " ; ".join(steering.spec() for steering in self.steerings),
            "decoration": None,  # no cell changes the prompt or the logits
            "vector": None,
            "layer": None,
            "strength": None if self.steerings else 0.0,
            "scope": None,
            "operation": None,
        }
        if len(self.steerings) == 1:
            (only,) = self.steerings
            fields |= {"vector": only.vector.name, "strength": float(only.strength)}
            fields |= {"scope": only.scope, "operation": only.operation}
            if len(only.layers) == 1:
                fields["layer"] = only.layers[0]
        return fields


def build_grid(
    vectors: Sequence[SteeringVector],
    layers: Sequence[int],
    strengths: Sequence[float],
    scopes: Sequence[Scope] = ("completion",),
    operation: Operation = "add",
    target: float | None = None,
    *,
    control_strengths: Sequence[float] | None = None,
    random_seed: int = 0,
) -> list[Cell]:
    """Every vector at every layer, strength and scope, led by the unsteered cell.

    Beside each cell stands a random direction with the vector's norm, at the same layer, strength and scope,
    so that whichever cell is chosen later has its control; `control_strengths` keeps the controls to some of
    the strengths. `target` is for the operation `clamp`. Raises MisuseError where an axis is empty, two
    vectors share a name, a layer does not exist, or a control's strength is not in the grid.
    """
    for axis, values in {
        "vectors": vectors,
        "layers": layers,
        "strengths": strengths,
        "scopes": scopes,
    }.items():
        if not values:
            raise MisuseError(f"a sweep needs at least one of its {axis}, got none")
    names = [vector.name for vector in vectors]
    if len(set(names)) < len(names):
        raise MisuseError(f"vectors in one sweep need different names, got {', '.join(names)}: rename one")
    controlled = set(strengths if control_strengths is None else control_strengths)
    if stray := sorted(controlled - set(strengths)):
        raise MisuseError(f"control strengths must be strengths of the grid, and {stray} are not")

    cells = [Cell()]
    for vector in vectors:
        control = vector.random_control(random_seed)
        for scope in scopes:
            for layer in layers:
                for strength in strengths:
                    cells.append(Cell((vector.at(layer, strength, scope, operation, target),)))
                    if strength in controlled:
                        steering = control.at(layer, strength, scope, operation, target)
                        cells.append(Cell((steering,), controls=vector.name))
    return distinct(cells)


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """The cells in order, each content once."""
    return list({cell.id: cell for cell in cells}.values())


def vector_digests(cells: Iterable[Cell]) -> dict[str, str]:
    """Name -> digest of every vector in the cells, controls included."""
    return {steering.vector.name: steering.vector.digest for cell in cells for steering in cell.steerings}
