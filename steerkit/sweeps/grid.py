"""Grid: vectors, and every field of a steering as an axis, crossed; its cells are content-addressed data.

    Grid("abstain.safetensors", "8:16:4", "0.5:1.5:0.5", {"half_life": [None, 64], "edit": "none,concise-system"})

1. Every vector meets every combination of axis values. In front stands the unsteered cell, then each edit alone: the
   baseline of the cells that carry it.
2. A control copies the whole cell, gate and edits included, and changes the direction alone.
3. What cannot be is said before anything runs. A value that no cell can have is an error; a combination that cannot
   be (a half-life on the prompt, a target for `add`) is left out where all its values occur in others, with a warning.
"""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.interventions.base import Intervention
from steerkit.interventions.steering import Steering
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import SteeringVector, load_vector
from steerkit.runs.cells import Cell
from steerkit.sweeps.axes import EDIT, LAYER, STRENGTH, axis_of, axis_values, interventions_of

VectorLike = SteeringVector | str | os.PathLike[str]
CellLike = Intervention | str | Sequence[Intervention]


@dataclass(frozen=True, repr=False)
class Grid:
    """The cells of a sweep: vectors × layers × strengths × further axes, and cells beside them.

    `vectors` is one vector, file or published name, or several. `layers` and `strengths` are numbers or ranges as the
    command line writes them (`"8:16:4"`, the stop included); a tuple among the layers is several layers at once. The
    strength is 1 by default. Without layers a vector's recommended use is taken, and the axes change its fields.

    `axes` maps further fields of a steering (`scope`, `operation`, `target`, `half_life`, `positions`, `gate`) to
    their values, None for without. The axis `edit` adds interventions to the vector's: each value is None, an
    intervention, a spec string, or a tuple of interventions, and stands alone too. Values may be a text in the grammar
    of `axes`. `cells_beside` are cells of their own: an intervention, a spec string, or a composition of several.

    Vectors of one name are told apart by their digests. Beside each cell stands a random direction of the same norm,
    drawn from `seed`; `control_strengths` keeps these to some of the strengths, `()` to none. Raises MisuseError for an
    empty axis, an unknown field, a layer that does not exist, and any value that no cell can have.
    """

    vectors: VectorLike | Iterable[VectorLike] = ()
    layers: str | int | Iterable[int | tuple[int, ...]] | None = None
    strengths: str | float | Iterable[float] | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    cells_beside: CellLike | Iterable[CellLike] = ()
    control_strengths: str | float | Iterable[float] | None = None
    seed: int = 0
    _cells: tuple[Cell, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("vectors", "layers", "strengths", "control_strengths"):
            if isinstance(given := getattr(self, name), Iterator):
                object.__setattr__(self, name, tuple(given))  # else nothing is left of it for a repr
        vectors, axes = _loaded(self.vectors), self._axes()
        edits = axes.pop(EDIT, ((),))
        given = self.cells_beside
        lone = isinstance(given, str | Intervention | SteeringVector)
        several: Iterable[CellLike] = [given] if lone else given  # type: ignore[list-item, assignment]
        beside = [Cell(interventions_of(each)) for each in several]
        if axes and not vectors:
            raise MisuseError(f"{' and '.join(axes)} say how a vector is applied: give one")
        if not (vectors or beside or any(edits)):
            raise MisuseError("a grid needs a vector, an edit, or a cell beside it: give one")
        crossed: list[Cell] = []
        controls = {vector: vector.random_control(self.seed) for vector in vectors}
        controlled = self._controlled(axes)
        for (vector, strength, steered), edit in itertools.product(_applied(vectors, axes), edits):
            crossed.append(Cell((*edit, *steered)))
            if controlled is None or strength in controlled:
                control = functools.partial(replace, vector=controls[vector])
                crossed.append(Cell((*edit, *with_steerings(steered, control)), controls=vector.name))
        cells = distinct([Cell(), *map(Cell, edits), *crossed, *beside])
        object.__setattr__(self, "_cells", tuple(cells))

    def cells(self) -> list[Cell]:
        """Return the cells, the unsteered one first, each content once."""
        return list(self._cells)

    def __repr__(self) -> str:
        sizes = [f"{len(values)} {axis}" for axis, values in self._axes().items()]
        given = self.vectors
        vectors = 1 if isinstance(given, SteeringVector | str | os.PathLike) else len(list(given))
        return f"Grid({' × '.join([f'{vectors} vector', *sizes])}: {len(self._cells)} cells)"

    def _axes(self) -> dict[str, tuple[Any, ...]]:
        """Axis -> its values, those of layers and strengths included."""
        given: dict[str, Any] = {LAYER: self.layers, STRENGTH: self.strengths}
        for name, values in self.axes.items():
            axis = axis_of(name)
            if given.get(axis) is not None:
                raise MisuseError(f"the axis {axis} is given twice")
            given[axis] = values
        if given[LAYER] is not None and given[STRENGTH] is None:
            given[STRENGTH] = 1.0
        return {axis: axis_values(axis, values) for axis, values in given.items() if values is not None}

    def _controlled(self, axes: Mapping[str, tuple[Any, ...]]) -> set[float] | None:
        """The strengths that have controls; None for all. Raises MisuseError for one that is not in the grid."""
        if self.control_strengths is None:
            return None
        given = self.control_strengths
        wanted = set(given if isinstance(given, tuple | list) and not given else axis_values(STRENGTH, given))
        if stray := sorted(wanted.difference(axes.get(STRENGTH, ()))):
            raise MisuseError(f"control strengths must be strengths of the grid, and {stray} are not")
        return wanted


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells in order, each content once."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.id, cell)
    return list(found.values())


def _loaded(vectors: VectorLike | Iterable[VectorLike]) -> list[SteeringVector]:
    """The vectors themselves, each content once, and those of one name told apart by their digests; both aloud."""
    if isinstance(vectors, Intervention):
        raise MisuseError(
            "a grid applies vectors by itself: give the vector, or the steering among cells_beside"
        )
    several: Any = vectors
    if isinstance(vectors, SteeringVector | str | os.PathLike) or not isinstance(vectors, Iterable):
        several = [vectors]
    loaded = [load_vector(each) for each in several]
    found = list({vector.digest: vector for vector in loaded}.values())
    if copies := len(loaded) - len(found):
        warnings.warn(
            f"{copies} of the {len(loaded)} vectors given {'is a copy' if copies == 1 else 'are copies'} of another, "
            "whatever the file is called: each content is measured once",
            stacklevel=4,
        )
    count = Counter(vector.name for vector in found)
    for name in (name for name, times in count.items() if times > 1):
        warnings.warn(
            f"{count[name]} vectors are called {name!r}: here each is {name}-DIGEST; vector.renamed(…), or another "
            "name where they are extracted, tells them apart for good",
            stacklevel=4,
        )
    return [
        each if count[each.name] == 1 else each.renamed(f"{each.name}-{each.digest[:6]}") for each in found
    ]


def _applied(
    vectors: Sequence[SteeringVector], axes: Mapping[str, tuple[Any, ...]]
) -> list[tuple[SteeringVector, float | None, tuple[Intervention, ...]]]:
    """(vector, strength, how it is applied) for each combination of values that can be.

    Raises MisuseError where one of the values can be in none of them, and warns of the combinations left out.
    """
    every: dict[str, Sequence[Any]] = {"vector": vectors, **axes}
    applied: list[tuple[SteeringVector, float | None, tuple[Intervention, ...]]] = []
    met: set[tuple[str, int]] = set()
    left_out: list[tuple[MisuseError, set[tuple[str, int]]]] = []
    for places in itertools.product(*(range(len(values)) for values in every.values())):
        values = {axis: every[axis][place] for axis, place in zip(every, places, strict=True)}
        used = set(zip(every, places, strict=True))
        try:
            applied.append((values["vector"], values.get(STRENGTH), _steered(**values)))
        except MisuseError as error:
            left_out.append((error, used))
        else:
            met |= used
    for reason, used in left_out:
        if not used <= met:
            raise reason
    for text, count in Counter(str(reason) for reason, _ in left_out).items():
        warnings.warn(f"{count} combinations are left out of the grid: {text}", stacklevel=5)
    return applied


def _steered(vector: SteeringVector, **fields: Any) -> tuple[Intervention, ...]:
    """The vector with these fields: at layers of its own, or its recommended use changed."""
    if LAYER in fields:
        return (Steering(vector, fields.pop(LAYER), **fields),)
    use = recommended_use(vector)
    if not use:
        raise MisuseError(f"vector {vector.name!r} has no recommended use: give layers")
    return with_steerings(use, lambda each: replace(each, **fields))


def with_steerings(
    interventions: Iterable[Intervention], change: Callable[[Steering], Steering]
) -> tuple[Intervention, ...]:
    """Return the interventions with each steering changed and everything else as it is."""
    return tuple(change(each) if isinstance(each, Steering) else each for each in interventions)
