"""The engine's loop, one step at a time: rows wait, join where there is room, decode together, and leave.

1. Rows wait in the order in which they were added, and finished rows make room for them. How soon they join is a trade:
   to take a finished row's place copies nothing of the others, to join without one packs the batch anew.
2. When memory runs out, the batch is halved and the rows that had to go start again from their prompt, to take the same
   tokens; so they do when longer texts take fewer of the model's shortcuts.
3. `TransformersEngine.generate` steps through requests a window at a time, `Session` through those that come in.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence

import torch

from steerkit.engines.forward import alone, ran_out
from steerkit.engines.transformers.batch import Row, RunningBatch
from steerkit.engines.transformers.capacity import Capacity
from steerkit.engines.transformers.packed import PackedBatch
from steerkit.engines.transformers.prefixes import KEPT_TOKENS, Prefixes
from steerkit.engines.transformers.whole_texts import WholeTextBatch
from steerkit.models import LanguageModel

JOIN_AT = 32  # rows join when this share of the batch (one in 32) has places for them
PACKED_EVERY = 4  # steps, at most, between packing a large batch anew for rows that come one by one


class Stepping:
    """The rows of one caller, waiting and decoding.

    Where they come `one_by_one`, somebody waits for the first token of each: they take places as soon as there are any,
    and the batch is packed anew for them every few steps; otherwise rows join many at a time.
    """

    def __init__(self, lm: LanguageModel, capacity: Capacity, *, one_by_one: bool = False) -> None:
        self._lm = lm
        self._capacity = capacity
        self._one_by_one = one_by_one
        self._since_packed = 0  # steps
        self._taken = capacity.shortcuts()
        self._batch = self._new_batch()
        self._has_warned = False
        self._untried: list[Row] = []  # rows whose length no shortcut has been tried at
        self._joining: list[Row] = []  # rows that were about to join when something failed
        self.waiting: deque[Row] = deque()

    @property
    def idle(self) -> bool:
        """Whether there is no row."""
        return not self.waiting and not self._batch.rows

    @property
    def live(self) -> list[Row]:
        """The rows that decode."""
        return self._batch.live

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait behind those that do."""
        self.waiting.extend(rows)
        self._untried.extend(rows)

    def step(self) -> list[Row]:
        """Let rows in, write one token of each, and return those that are finished.

        Raises SteerkitError where memory does not hold a single row. After an exception `give_up` says whom it
        concerned.
        """
        while True:
            try:
                self._prepare()
                with alone(self._lm):
                    finished = self._advance()
                break
            except RuntimeError as error:
                if not ran_out(error):
                    raise
                self._capacity.halve()
                self._start_again()
        for row in finished:
            self._batch.settle(row)
        return finished

    def drop(self, row: Row) -> None:
        """Let a row go that nobody waits for any more; its place is free from the next step on."""
        if row in self.waiting:
            self.waiting.remove(row)
        row.finish = row.finish or "stop"

    def fetch(self) -> None:
        """Give the rows what was read of them so far; waits for the device where anything was."""
        self._batch.fetch()

    def rest(self) -> None:
        """Let go of what is kept of rows that are gone, as none is left; memory may be asked for in full again."""
        self._batch.clear()
        self._capacity.restore()

    def give_up(self) -> list[Row]:
        """Drop the rows that an exception concerned, and return them; all others start again.

        They are those about to join, where it came while they did, else all that decode.
        """
        concerned = self._joining or self._batch.live
        for row in concerned:
            self.drop(row)
        self._start_again()
        return concerned

    def _prepare(self) -> None:
        """Size the batch for the rows added since, and make it anew where it may take fewer shortcuts with them."""
        if not self._untried:
            return
        holds = self._capacity.shortcuts(self._untried)
        self._capacity.fit(self._untried, holds)
        self._untried = []
        if holds != self._taken:  # longer texts may take fewer shortcuts
            self._start_again()
            self._taken = holds
            self._batch = self._new_batch()
        if holds.states is None and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self._lm.name} keeps its past in a form that rows cannot share ({holds.reason}): every step runs "
                "all texts anew, which is slower and gives the same",
                stacklevel=4,
            )

    @torch.inference_mode()
    def _advance(self) -> list[Row]:
        """Let rows in where there is room enough to be worth it, take one step, and return who finished."""
        batch, waiting = self._batch, self.waiting
        joining = self._who_joins()
        if joining is not None:
            self._joining = [waiting.popleft() for _ in range(joining)]
            try:
                batch.admit(self._joining, waiting, self._capacity.rows)
            except BaseException:  # of memory, perhaps; then they are to be had again
                waiting.extendleft(reversed(self._joining))
                raise
            self._joining = []
        before = batch.live
        if before:
            batch.step()
        return [row for row in before if row.finish is not None]

    def _who_joins(self) -> int | None:
        """How many rows are let in now; None where the batch stays as it is."""
        batch, most, waiting = self._batch, self._capacity.rows, len(self.waiting)
        live = len(batch.live)
        room, gone = max(0, most - live), len(batch.rows) - live
        many = gone * 8 >= len(batch.rows)
        self._since_packed += 1
        if not self._one_by_one:
            worth_it = waiting and room >= max(1, most // JOIN_AT)
            return min(room, waiting) if worth_it or many or batch.is_full else None
        packs = self._since_packed > min(PACKED_EVERY, live // 8) and (many or (room and waiting))
        if packs or batch.is_full:
            self._since_packed = 0
            return min(room, waiting)
        return min(room, waiting, gone) or None

    def _start_again(self) -> None:
        """Let the live rows of the batch wait again, from their prompts on."""
        again = set(self.waiting)  # rows that were about to join may stand in the batch already
        for row in self._batch.live:
            row.begin()
            if row not in again:
                self.waiting.appendleft(row)
        self._joining = []
        self._batch.clear()

    def _new_batch(self) -> RunningBatch:
        if self._taken.states is None:
            return WholeTextBatch(self._lm, aligns=self._taken.aligns)
        keeps = KEPT_TOKENS if self._one_by_one else 0
        prefixes = Prefixes(self._lm, self._taken.states, self._taken, keeps)
        return PackedBatch(self._lm, self._taken.states, prefixes)
