"""The candidates of a tune: layer, strength, scope, half-life and gate, each with a stated default.

| field | default |
|---|---|
| layers | five, evenly from a quarter to two thirds of the depth |
| strengths | `MULTIPLES` of the strength whose KL is `UNIT_KL` nats a token at that layer |
| scope | `completion`, `all` |
| half-life | none, 32 tokens |
| gate | none, and each threshold of the probe that the vector carries |

For small pushes KL grows with the square of the strength, so the multiples ask for about 0.025, 0.1, 0.4 and 0.9 nats:
from hardly anything to where most models fall apart. Whatever is given takes the place of a default, in the grammar of
`steerkit.sweeps.axes`; strengths that are given hold at every layer, and nothing is calibrated.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steerkit.calibration.calibrate import calibrate, default_prompts
from steerkit.calibration.meter import Progress
from steerkit.core.errors import MisuseError
from steerkit.interventions.gate import Gate, ProbeGate
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.suites.suite import Suite
from steerkit.sweeps.axes import GATE, LAYER, STRENGTH, axis_of, axis_values
from steerkit.sweeps.grid import Grid, distinct

UNIT_KL = 0.1  # nats a token
MULTIPLES = (0.5, 1.0, 2.0, 3.0)
LAYERS, FIRST_DEPTH, LAST_DEPTH = 5, 0.25, 2 / 3
DEFAULTS: Mapping[str, tuple[Any, ...]] = {"scope": ("completion", "all"), "half_life": (None, 32)}
DIGITS = 3  # of a strength that was calibrated


@dataclass(frozen=True)
class Space:
    """Where to look: the layers, the further axes, and the strengths where they are given (None: from KL).

    Made by `space_of`, which fills in the defaults.
    """

    layers: tuple[Any, ...]
    strengths: tuple[float, ...] | None
    axes: Mapping[str, tuple[Any, ...]]
    given: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_calibrated(self) -> bool:
        """Whether strengths come from KL, which takes a model of one's own and single layers."""
        return self.strengths is None

    def unit_of(
        self, lm: LanguageModel, vector: SteeringVector, suite: Suite, progress: Progress | None = None
    ) -> SteeringVector:
        """Return the vector with the strengths of `UNIT_KL` on record at the layers, measured where they are missing.

        The prompts are of the suite's split `fit`. Raises MisuseError where no layer meets the KL.
        """
        missing = [layer for layer in self.layers if _unit(vector, layer) is None]
        if not missing:
            return vector
        found = calibrate(
            lm,
            vector.at(missing, 1.0),
            kl=UNIT_KL,
            prompts=default_prompts(suite),
            progress=progress,
        )
        return found.vector

    def cells(self, vector: SteeringVector) -> list[Cell]:
        """Return the candidates, each content once. Raises MisuseError where there is none, or a value cannot be."""
        found: list[Cell] = []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for layer in self.layers:
                strengths = self.strengths or self._from_kl(vector, layer)
                if strengths:
                    grid = Grid(vector, [layer], strengths, self.axes, control_strengths=())
                    found += [cell for cell in grid.cells() if cell.role == "steered"]
        for text in dict.fromkeys(str(each.message) for each in said):
            if self.given.intersection(self.axes):
                warnings.warn(text, stacklevel=2)
        if not found:
            raise MisuseError(
                f"no layer of {vector.name!r} has a strength for a KL of {UNIT_KL:g}: give strengths"
            )
        return distinct(found)

    def _from_kl(self, vector: SteeringVector, layer: Any) -> tuple[float, ...]:
        unit = _unit(vector, layer)
        return () if unit is None else tuple(float(f"{unit * each:.{DIGITS}g}") for each in MULTIPLES)


def space_of(
    vector: SteeringVector,
    layers: Any = None,
    strengths: Any = None,
    axes: Mapping[str, Any] | None = None,
) -> Space:
    """Return the space that is asked for, defaults filled in.

    Raises MisuseError for an unknown field, an empty axis, and where strengths are not given for layers together or for
    another operation than `add`.
    """
    asked: dict[str, tuple[Any, ...]] = {}
    for name, values in {LAYER: layers, STRENGTH: strengths, **(axes or {})}.items():
        if values is None:
            continue
        axis = axis_of(name)
        if axis in asked:
            raise MisuseError(f"the axis {axis} is given twice")
        asked[axis] = axis_values(axis, values)
    given = frozenset(asked)
    places = asked.pop(LAYER, None) or default_layers(vector.n_layers)
    fixed = asked.pop(STRENGTH, None)
    crossed = {**DEFAULTS, GATE: gates_of(vector), **asked}
    several = any(isinstance(place, tuple) and len(place) > 1 for place in places)
    if fixed is None and (several or set(crossed.get("operation", ())) - {"add"}):
        raise MisuseError(
            "strengths come from KL for vectors that are added, one layer at a time: give strengths"
        )
    return Space(tuple(places), None if fixed is None else tuple(map(float, fixed)), crossed, given)


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Return five layers from a quarter to two thirds of the depth, fewer where the model has fewer there."""
    step = (LAST_DEPTH - FIRST_DEPTH) / (LAYERS - 1)
    return tuple(dict.fromkeys(round((FIRST_DEPTH + place * step) * n_layers) for place in range(LAYERS)))


def gates_of(vector: SteeringVector) -> tuple[Gate | None, ...]:
    """Return no gate, and the vector's own probe at each of its thresholds."""
    if vector.probe is None:
        return (None,)
    probe, recorded = vector.probe, vector.probe.metadata.thresholds
    gates = [ProbeGate(probe, each.layer, each.threshold) for each in recorded] or [ProbeGate(probe)]
    return (None, *gates)


def with_edits(cells: Iterable[Cell], edits: Iterable[Cell]) -> list[Cell]:
    """Return the unsteered cell, the edits and the cells, each content once."""
    return distinct([Cell(), *edits, *cells])


def _unit(vector: SteeringVector, layer: Any) -> float | None:
    """The strength on record whose mean KL is `UNIT_KL` at the layer, towards the positive side."""
    place = layer[0] if isinstance(layer, tuple) else layer
    for record in vector.metadata.calibration or ():
        how = (record.layer, record.operation, record.scope, record.half_life, record.positions)
        if (
            how == (place, "add", "completion", None, "every")
            and record.statistic == "mean"
            and record.target_kl == UNIT_KL
            and record.strength > 0
        ):
            return record.strength
    return None
