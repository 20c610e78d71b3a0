"""The requests of one worker that are read: what their readers found, position by position, until it is fetched.

A step only computes and keeps. Nothing waits for the device before `take`, which the engine core asks for when a
request ends, or with each of its tokens where the front end may end it (stop texts). Readings are kept by position, so
what is computed again after a preemption replaces what was read before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.integrations.vllm.logit_readers import LogitReaders, Piece, Placed
from steerkit.integrations.vllm.plan import Asked
from steerkit.integrations.vllm.state_readers import Columns, StateReaders

# By the place of a reader in its request: the first position, and float32 numbers from there on, NaN where none is.
Parts = dict[int, tuple[int, bytes]]


@dataclass
class ReadRow:
    """One request under way, and what was read of it since the last time that it was fetched."""

    plan: tuple[Asked, ...]
    columns: Columns
    pieces: list[Piece] = field(default_factory=list)

    @property
    def functions(self) -> list[str]:
        """The registered functions that read its logits."""
        return [asked.function for asked in self.plan if asked.layer is None]

    def taken(self) -> Parts:
        """Hand out what was read, and keep it no more."""
        alike: dict[tuple[int | str, ...], list[Piece]] = {}
        for piece in self.pieces:
            alike.setdefault(piece.of, []).append(piece)
        self.pieces = []
        fetched = {of: torch.cat([p.values for p in pieces]).cpu() for of, pieces in alike.items()}
        parts: Parts = {}
        for number, asked in enumerate(self.plan):
            along, column = self.columns.get(asked.key, (asked.function, 0))
            found: dict[int, float] = {}
            for of, values in fetched.items():
                if along in of:
                    mine = values[:, of.index(along), column]
                    mine = mine.sigmoid() if asked.as_probability else mine
                    positions = (p.start + i for p in alike[of] for i in range(p.values.shape[0]))
                    found |= dict(zip(positions, mine.tolist(), strict=True))
            if found:
                first = min(found)
                numbers = np.full(max(found) + 1 - first, np.nan, dtype=np.float32)
                numbers[np.fromiter(found, int) - first] = list(found.values())
                parts[number] = (first, numbers.tobytes())
        return parts


class ReadRows:
    """The requests of one worker that are read. `compute` returns the logits behind states; see `LogitReaders`."""

    def __init__(self, states: StateReaders, compute: Callable[[Tensor], Tensor | None]) -> None:
        self._states = states
        self._logits = LogitReaders(compute)
        self._rows: dict[str, ReadRow] = {}
        self._placed: list[Placed] = []
        self._tokens = torch.empty(0)
        self._requests = 0

    def admit(self, name: str, plan: tuple[Asked, ...]) -> None:
        """Begin to read a request."""
        self.forget(name)
        self._rows[name] = ReadRow(plan, self._states.allocate(plan))

    def forget(self, name: str) -> None:
        """End a request; nothing happens for one that is not read."""
        row = self._rows.pop(name, None)
        if row is not None:
            self._states.release(row.columns)
            self._logits.forget(name)

    def clear(self) -> None:
        """Read nothing in the coming pass."""
        self._placed = []
        self._states.live = ()

    def place(
        self, names: Sequence[str], starts: Sequence[int], counts: Sequence[int], tokens: Tensor
    ) -> None:
        """Say which positions the coming pass computes; see `Rows.place`."""
        self.clear()
        if not self._rows:
            return
        offset = 0
        for index, (name, start, count) in enumerate(zip(names, starts, counts, strict=True)):
            if name in self._rows:
                self._placed.append(Placed(name, index, offset, int(start), int(count)))
            offset += int(count)
        layers = (layer for row in self._placed for layer, _ in self._rows[row.name].columns.values())
        self._states.live = tuple(sorted(set(layers)))
        self._tokens, self._requests = tokens, len(names)

    @property
    def reads_states(self) -> bool:
        """Whether the coming pass reads states on this worker."""
        return bool(self._states.live)

    def note(self, hidden: Tensor | None, last: Tensor | None) -> None:
        """Keep what the pass has read: `hidden` are the states before the head, `last` the logits of its requests.

        Both are None in a worker that holds no head.
        """
        if self._states.live:
            self._note_states()
        rows = [row for row in self._placed if self._rows[row.name].functions]
        if rows and hidden is not None:
            functions = tuple(sorted({name for row in rows for name in self._rows[row.name].functions}))
            usable = last if last is not None and last.shape[0] == self._requests else None
            for name, piece in self._logits.read(rows, functions, hidden, usable, self._tokens):
                self._rows[name].pieces.append(piece)

    def _note_states(self) -> None:
        live = self._states.live
        rows = [row for row in self._placed if self._rows[row.name].columns]
        places = np.concatenate([np.arange(row.offset, row.offset + row.count) for row in rows])
        found = self._states.found(torch.from_numpy(places).to(self._tokens.device, non_blocking=True))
        begin = 0
        for row in rows:
            values = found[begin : begin + row.count]
            self._rows[row.name].pieces.append(Piece(row.start, values, live))
            begin += row.count

    def take(self, names: Iterable[str]) -> dict[str, Parts]:
        """Return what was read of these requests since the last time. Waits for the device."""
        return {name: self._rows[name].taken() for name in names if name in self._rows}


def take_readings(worker: Any, names: Sequence[str]) -> dict[str, Parts]:
    """Return what a worker has read of these requests since the last time; called in a worker."""
    steering = worker.model_runner.steerkit
    return {} if steering.refusal is not None else dict(steering.reading.take(names))
