"""Admission control by capacity: which distinct steerings are in use, and whether one more request's would fit.

The engine core and the front end each count the requests that they know to be alive, which are at least those that
hold a slot in a worker. So a request that would not fit is refused before it gets there, and no table overflows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from steerkit.core.errors import SteerkitError

Wire = dict[str, Any]
# How many ended requests may be remembered before they are looked for: nobody says that one ended.
SWEEP_AT = 1024


class CellsExhaustedError(SteerkitError):
    """The tables hold as many distinct steerings as they can; the request may be sent again later."""


class Capacity:
    """Live steered requests and their demand. `cells_per_layer` is how many each layer's table holds.

    `is_alive` says of a request that was once let in whether it still runs.
    """

    def __init__(self, cells_per_layer: int, is_alive: Callable[[str], bool]) -> None:
        self._cells_per_layer = cells_per_layer
        self._is_alive = is_alive
        self._requests: dict[str, Wire] = {}
        self._sweep_at = SWEEP_AT
        self._programs: Counter[str] = Counter()
        self._cells: Counter[tuple[int, str]] = Counter()

    def admit(self, request_id: str, wire: Wire) -> None:
        """Count this request in, or raise CellsExhaustedError and leave everything as it was."""
        if len(self._requests) >= self._sweep_at:
            self._forget_ended()
        if not self._fits(wire):
            self._forget_ended()
            if not self._fits(wire):
                raise CellsExhaustedError(
                    f"{len(self._programs)} distinct steerings are running and there is room for "
                    f"{self._cells_per_layer} on a layer: send the request again later, or start the server with "
                    "a larger STEERKIT_CELLS"
                )
        self.forget(request_id)
        self._requests[request_id] = wire
        self._programs[wire["key"]] += 1
        self._cells.update(_cells(wire))

    def forget(self, request_id: str) -> None:
        """Count a request out that has ended; nothing happens for one that was not let in."""
        wire = self._requests.pop(request_id, None)
        if wire is not None:
            _count_down(self._programs, [wire["key"]])
            _count_down(self._cells, _cells(wire))

    def _forget_ended(self) -> None:
        for name in [name for name in self._requests if not self._is_alive(name)]:
            self.forget(name)
        self._sweep_at = max(SWEEP_AT, 2 * len(self._requests))  # so that a sweep costs each request once

    def _fits(self, wire: Wire) -> bool:
        if wire["key"] in self._programs:
            return True
        used = Counter(layer for layer, _ in self._cells)
        added = Counter(layer for layer, key in _cells(wire) if (layer, key) not in self._cells)
        return len(self._programs) < self._cells_per_layer and all(
            used[layer] + count <= self._cells_per_layer for layer, count in added.items()
        )


def _count_down(counter: Counter[Any], keys: Iterable[Any]) -> None:
    for key in keys:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


def _cells(wire: Wire) -> set[tuple[int, str]]:
    return {(cell["layer"], cell["key"]) for cell in wire["cells"]}
