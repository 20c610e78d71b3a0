"""Admission control by capacity: which distinct steerings and readers are in use, and whether one more's would fit.

The engine core and the front end each count the requests that they know to be alive, which are at least those that
hold a slot in a worker. So a request that would not fit is refused before it gets there, and no table overflows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from steerkit.core.errors import SteerkitError

Wire = dict[str, Any]
# How many ended requests may be remembered before they are looked for: nobody says that one ended.
SWEEP_AT = 1024


class CellsExhaustedError(SteerkitError):
    """The tables hold as many distinct steerings or readers as they can; the request may be sent again later."""


@dataclass(frozen=True)
class Demand:
    """What a request takes of the tables: its program, and its cells and readers, each with its layer."""

    program: str | None
    cells: frozenset[tuple[int, str]]
    readers: frozenset[tuple[int, str]]

    @classmethod
    def of(cls, wire: Wire | None, plan: Wire | None = None) -> Demand:
        """Return the demand of a payload and a plan in their plain forms."""
        asked = () if plan is None else plan["readers"]
        return cls(
            None if wire is None else wire["key"],
            frozenset((cell["layer"], cell["key"]) for cell in (() if wire is None else wire["cells"])),
            frozenset((each["layer"], each["key"]) for each in asked if each["layer"] is not None),
        )


class Capacity:
    """Live requests and their demand. Each layer's tables hold `cells_per_layer` cells and `readers_per_layer` readers.

    `is_alive` says of a request that was once let in whether it still runs.
    """

    def __init__(
        self, cells_per_layer: int, is_alive: Callable[[str], bool], readers_per_layer: int = 0
    ) -> None:
        self._cells_per_layer = cells_per_layer
        self._readers_per_layer = readers_per_layer
        self._is_alive = is_alive
        self._requests: dict[str, Demand] = {}
        self._sweep_at = SWEEP_AT
        self._programs: Counter[str] = Counter()
        self._cells: Counter[tuple[int, str]] = Counter()
        self._readers: Counter[tuple[int, str]] = Counter()

    def admit(self, request_id: str, wire: Wire | None, plan: Wire | None = None) -> None:
        """Count this request in, or raise CellsExhaustedError and leave everything as it was."""
        demand = Demand.of(wire, plan)
        if len(self._requests) >= self._sweep_at:
            self._forget_ended()
        if self._lacks(demand):
            self._forget_ended()
            if reason := self._lacks(demand):
                raise CellsExhaustedError(reason)
        self.forget(request_id)
        self._requests[request_id] = demand
        if demand.program is not None:
            self._programs[demand.program] += 1
        self._cells.update(demand.cells)
        self._readers.update(demand.readers)

    def forget(self, request_id: str) -> None:
        """Count a request out that has ended; nothing happens for one that was not let in."""
        demand = self._requests.pop(request_id, None)
        if demand is not None:
            _count_down(self._programs, [] if demand.program is None else [demand.program])
            _count_down(self._cells, demand.cells)
            _count_down(self._readers, demand.readers)

    def _forget_ended(self) -> None:
        for name in [name for name in self._requests if not self._is_alive(name)]:
            self.forget(name)
        self._sweep_at = max(SWEEP_AT, 2 * len(self._requests))  # so that a sweep costs each request once

    def _lacks(self, demand: Demand) -> str | None:
        """What there is no room for, and what to do; None where all of it fits."""
        again = "send the request again later, or start the server with a larger"
        known = demand.program is None or demand.program in self._programs
        if not known and not (
            len(self._programs) < self._cells_per_layer
            and _fits(self._cells, demand.cells, self._cells_per_layer)
        ):
            return (
                f"{len(self._programs)} distinct steerings are running and there is room for "
                f"{self._cells_per_layer} on a layer: {again} STEERKIT_CELLS"
            )
        if not _fits(self._readers, demand.readers, self._readers_per_layer):
            return f"there is room for {self._readers_per_layer} readers on a layer: {again} STEERKIT_READERS"
        return None


def _fits(used: Counter[tuple[int, str]], asked: Iterable[tuple[int, str]], most: int) -> bool:
    by_layer = Counter(layer for layer, _ in used)
    added = Counter(layer for layer, key in asked if (layer, key) not in used)
    return all(by_layer[layer] + count <= most for layer, count in added.items())


def _count_down(counter: Counter[Any], keys: Iterable[Any]) -> None:
    for key in keys:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
