"""The cells of a sweep: what is done to the model, as content-addressed data.

A cell's id is the digest of what its steerings do, so the same cell has the same id in every run, a grid can
be extended without renaming anything, and strength 0, which is the identity, is the unsteered cell itself.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from steerkit.core.errors import MisuseError
from steerkit.interventions.decoration import Decoration
from steerkit.interventions.steering import Operation, ProbeGate, Scope, Steering
from steerkit.interventions.vector import SteeringVector

Role = Literal["unsteered", "steered", "random", "decorated"]

ID_LENGTH = 12


@dataclass(frozen=True, eq=False)
class Cell:
    """One composition of steerings, applied in order, and perhaps a decoration; without any, the unsteered model.

    Steerings of strength 0 are dropped: they do nothing. `controls` names the vector that a random direction
    of the same norm stands beside; None for every cell that is no control.
    """

    steerings: tuple[Steering, ...] = ()
    controls: str | None = None
    decoration: Decoration | None = None

    def __post_init__(self) -> None:
        active = tuple(steering for steering in self.steerings if steering.strength != 0)
        object.__setattr__(self, "steerings", active)

    @property
    def role(self) -> Role:
        """What the cell is in the experiment."""
        if not self.steerings:
            return "unsteered" if self.decoration is None else "decorated"
        return "steered" if self.controls is None else "random"

    @functools.cached_property
    def id(self) -> str:
        """The first 12 hex digits of the SHA-256 over the steerings' digests, in order, and the decoration's."""
        content: list[object] = [steering.digest for steering in self.steerings]
        if self.decoration is not None:
            content.append({"decoration": self.decoration.digest})
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:ID_LENGTH]

    def fields(self) -> dict[str, Any]:
        """The cell as a record shows it.

        `vector`, `strength`, `scope`, `operation`, `half_life` and `positions` are null for a composition, `layer`
        also where one steering acts on several layers, `half_life` also where a steering does not fade. The
        unsteered cell has strength 0 and the others null.
        """
        fields: dict[str, Any] = {
            "cell": self.id,
            "role": self.role,
            "controls": self.controls if self.steerings else None,
            "steering": " ; ".join(str(steering) for steering in self.steerings),
            "decoration": self.decoration and str(self.decoration),
            "vector": None,
            "layer": None,
            "strength": None if self.steerings or self.decoration else 0.0,
            "scope": None,
            "operation": None,
            "half_life": None,
            "positions": None,
        }
        if len(self.steerings) == 1:
            (only,) = self.steerings
            fields |= {"vector": only.vector.name, "strength": float(only.strength)}
            fields |= {"scope": only.scope, "operation": only.operation, "positions": only.positions}
            fields["half_life"] = None if only.half_life is None else float(only.half_life)
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
    gates: Sequence[ProbeGate | None] = (None,),
    decorations: Sequence[Decoration] = (),
) -> list[Cell]:
    """Every vector at every layer, strength and scope, led by the unsteered cell.

    Beside each cell stands a random direction with the vector's norm, at the same layer, strength and scope,
    so that whichever cell is chosen later has its control; `control_strengths` keeps the controls to some of
    the strengths. `target` is for the operation `clamp`. `gates` are what the vectors and the decorations are
    gated by, None for not at all; a decoration that has a gate already keeps it.

    Raises MisuseError where an axis is empty, two vectors share a name, a layer does not exist, or a control's
    strength is not in the grid.
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
        for gate, scope, layer, strength in itertools.product(gates, scopes, layers, strengths):
            cells.append(
                Cell(
                    (vector.at(layer, strength, scope=scope, operation=operation, target=target, gate=gate),)
                )
            )
            if strength in controlled:
                steering = control.at(
                    layer, strength, scope=scope, operation=operation, target=target, gate=gate
                )
                cells.append(Cell((steering,), controls=vector.name))
    for decoration, gate in itertools.product(decorations, gates):
        cells.append(Cell(decoration=decoration if decoration.gate else replace(decoration, gate=gate)))
    return distinct(cells)


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """The cells in order, each content once."""
    return list({cell.id: cell for cell in cells}.values())


def vector_digests(cells: Iterable[Cell]) -> dict[str, str]:
    """Name -> digest of every vector and probe in the cells, controls included."""
    cells = list(cells)
    steerings = [steering for cell in cells for steering in cell.steerings]
    gates = [steering.gate for steering in steerings if isinstance(steering.gate, ProbeGate)]
    gates += [cell.decoration.gate for cell in cells if cell.decoration and cell.decoration.gate]
    vectors = {vector.name: vector.digest for steering in steerings for vector in steering.vectors}
    return vectors | {gate.probe.name: gate.probe.digest for gate in gates}


def decoration_digests(cells: Iterable[Cell]) -> dict[str, dict[str, object]]:
    """Name -> content of every decoration in the cells."""
    decorations = [cell.decoration for cell in cells if cell.decoration]
    return {decoration.name: decoration.fields() for decoration in decorations}
