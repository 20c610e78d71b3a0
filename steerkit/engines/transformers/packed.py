"""The packed batch: rows of unequal length and different steerings decode from what the model keeps of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.engines.forward import Rows, logits
from steerkit.engines.row_states import RowStates
from steerkit.engines.transformers.batch import Row, RunningBatch
from steerkit.engines.transformers.layout import line_ends
from steerkit.engines.transformers.prefixes import Prefix, Prefixes
from steerkit.engines.transformers.sampling import Choosing
from steerkit.engines.transformers.table import ANSWER, LAST, RowTable
from steerkit.models import LanguageModel

Joining = tuple[Row, Prefix]


class PackedBatch(RunningBatch):
    """Rows that share a cache, each with its own past; `states` takes it apart by rows."""

    def __init__(self, lm: LanguageModel, states: RowStates, prefixes: Prefixes) -> None:
        super().__init__(lm)
        self._states = states
        self._prefixes = prefixes
        self._cache = Cache(layers=[])
        self._width = 0  # positions that the cache holds
        self._table, self._bound = RowTable(lm, ()), tuple[Row, ...]()  # the table's rows

    def clear(self) -> None:
        """Forget all rows and let go of what the model keeps of them."""
        super().clear()
        self._cache = Cache(layers=[])
        self._prefixes.clear()

    def admit(self, joining: Sequence[Row], waiting: Sequence[Row], most: int) -> None:
        """Let rows join: in the places of finished ones where they fit there, else by packing the batch anew."""
        soon = [*joining, *waiting]
        self._join([(row, self._prefixes.of(row, soon, most)) for row in joining])
        self._prefixes.keep_only(waiting)

    def _join(self, joining: Sequence[Joining]) -> None:
        for row in self.live:  # their counts are brought up to date before the table is made anew
            self.settle(row)
        self.fetch()
        for row, prefix in joining:
            row.gate_counts = Counter(prefix.gate_counts)  # set, not added: a row may try to join twice
            row.read.take_prompt(prefix.read)
        free = sum(row.finish is not None for row in self.rows)
        there_are_places = 0 < len(joining) <= free and not self.is_full
        if there_are_places and max(row.cached for row, _ in joining) <= self._width:
            self._refill(joining)
        else:
            self._repack(joining)

    def settle(self, row: Row) -> None:
        """Bring the gate counts of a row up to date; waits for the device where the table has any."""
        if self._table.counts_gates:
            row.gate_counts.update(self._table.gate_counts(self.rows.index(row)))
        if row.readers:
            self.fetch()

    def _repack(self, joining: Sequence[Joining]) -> None:
        """Drop finished rows, let new ones in, and trim positions that no row needs any more."""
        device = self._lm.device
        kept = [i for i, row in enumerate(self.rows) if row.finish is None]
        parts: list[tuple[Cache, Tensor]] = []
        rows: list[Row] = []
        if kept:
            parts.append((self._cache, torch.tensor(kept, device=device)))
            rows += [self.rows[i] for i in kept]
        for source, group in _by_source(enumerate(joining)):
            parts.append((source, torch.tensor([prefix.index for _, (_, prefix) in group], device=device)))
            rows += [row for _, (row, _) in group]
        if not rows:
            self.rows = []
            return
        width = max(row.cached for row in rows)
        self._cache = self._states.packed(parts, width)
        self.rows = rows
        self._bind(width)

    def _refill(self, joining: Sequence[Joining]) -> None:
        """Put new rows in the places of finished ones; nothing of the other rows is copied."""
        places = [i for i, row in enumerate(self.rows) if row.finish is not None]
        rows = list(self.rows)
        for source, group in _by_source(zip(places, joining, strict=False)):
            at = torch.tensor([place for place, _ in group], device=self._lm.device)
            taken = torch.tensor([prefix.index for _, (_, prefix) in group], device=self._lm.device)
            self._states.put(self._cache, at, source, taken)
            for place, (row, _) in group:
                rows[place] = row
        self.rows = rows
        self._bind(self._width)

    @property
    def is_full(self) -> bool:
        """Whether the next step would have to copy all keys and values to find room for its own."""
        return bool(self.rows) and self._states.room(self._cache) == 0

    def _bind(self, width: int) -> None:
        """Write all that a step reads of its rows: mask, positions, newest tokens, steerings, random numbers."""
        lm, device, rows = self._lm, self._lm.device, self.rows
        self._width = width
        lengths = torch.tensor([row.cached for row in rows], device=device)[:, None]
        self._mask = torch.arange(width, device=device)[None] >= width - lengths
        self._positions = lengths
        self._prompts = torch.tensor([[len(row.prompt_ids) - 1] for row in rows], device=device)
        self._newest = torch.tensor([[row.newest] for row in rows], device=device)
        before, self._table = self._table, RowTable(lm, [row.program for row in rows], counts_gates=True)
        was = {id(row): place for place, row in enumerate(self._bound)}
        self._table.carry(before, [was.get(id(row)) if row.generated else None for row in rows])
        self._bound = tuple(rows)
        if self._table.tells_steps_apart:
            texts = [[*row.prompt_ids, *row.generated] for row in rows]
            padded = [[lm.pad_id] * (width + 1 - len(text)) + text for text in texts]
            self._history = torch.tensor(padded, device=device)
        self._kinds: list[int] = []
        if not self._table.changes_as_it_goes and not self._table.follows_kinds:
            self._table.point(torch.full((len(rows), 1), ANSWER, device=device))
        self._choosing = Choosing(rows, device)
        self._bind_readers()
        self._edit_logits()

    def _point(self) -> None:
        """Point the table at the position that the step reads, where that changes from step to step."""
        table = self._table
        kinds = self._kinds
        if table.follows_kinds:  # the host has read every token already, to see which rows ended
            kinds = [row.phase(self._lm) for row in self.rows]
        if not table.changes_as_it_goes and kinds == self._kinds:
            return
        self._kinds = kinds
        ages = self._positions - self._prompts
        phase = torch.full_like(self._positions, ANSWER)
        if kinds:
            phase = torch.tensor(kinds, device=self._lm.device)[:, None]
        if table.tells_steps_apart:
            phase = phase + line_ends(self._history, self._lm.line_breaks)[:, -1:]
        table.point(phase + LAST * (ages == 0), ages)

    def _next_logits(self) -> Tensor:
        lm = self._lm
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        self._point()
        with self._reads.one_pass(), self._table.one_pass():
            mask = self._states.mask(self._mask, 1)
            found = logits(lm, Rows(self._newest, mask, self._positions), 1, self._cache)[:, -1]
        if self._reads.of_states:
            self._states_read = self._reads.states_read()[:, -1]
            self._noted.states(self._states_read)
        return found

    def _took(self, chosen: Tensor, nats: Tensor) -> None:
        self._width += 1
        self._table.take_logits(nats, chosen)
        self._newest = chosen[:, None]
        # A finished row runs on until its place is taken, perhaps beyond the last position that the model knows.
        self._positions = (self._positions + 1).clamp_max(self._lm.context_length - 1)
        if self._table.tells_steps_apart:
            self._history = torch.cat([self._history, self._newest], dim=1)


def _by_source(
    joining: Iterable[tuple[int, Joining]],
) -> list[tuple[Cache, list[tuple[int, Joining]]]]:
    """Numbered joining rows, grouped by the prefilled batch that holds their prefix, which stands first."""
    groups: dict[int, tuple[Cache, list[tuple[int, Joining]]]] = {}
    for number, (row, prefix) in joining:
        _, group = groups.setdefault(id(prefix.source), (prefix.source, []))
        group.append((number, (row, prefix)))
    return list(groups.values())
