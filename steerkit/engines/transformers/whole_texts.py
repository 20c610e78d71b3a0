"""The batch of a model whose past cannot be taken apart by rows: every step runs all texts anew.

Rows stand aligned at their starts, where no model that looks back alone sees the padding behind them; so this holds
for every decoder, at the cost of running each text once a token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from steerkit.engines.forward import logits, right_padded
from steerkit.engines.transformers.batch import Row, RunningBatch
from steerkit.engines.transformers.layout import point_at_text
from steerkit.engines.transformers.sampling import Choosing
from steerkit.engines.transformers.table import RowTable


class WholeTextBatch(RunningBatch):
    """Rows of which nothing is kept but their texts."""

    def admit(self, joining: Sequence[Row], waiting: Sequence[Row], most: int) -> None:  # noqa: ARG002
        """Let rows join in place of the finished ones; there is nothing to run ahead."""
        self.rows = [*self.live, *joining]
        self._table = RowTable(self._lm, [row.program for row in self.rows], counts_gates=True)
        self._choosing = Choosing(self.rows, self._lm.device)
        self._edit_logits()

    def settle(self, row: Row) -> None:
        """Take over the gate counts of the last step, which read the row's whole text."""
        if self._table.counts_gates:
            row.gate_counts = Counter(self._table.gate_counts(self.rows.index(row)))

    @property
    def is_full(self) -> bool:
        """Whether room has to be found for the next step: never, as nothing is kept."""
        return False

    def _next_logits(self) -> Tensor:
        lm, rows = self._lm, self.rows
        texts = [[*row.prompt_ids, *row.generated] for row in rows]
        padded = right_padded(texts, lm)
        ends = torch.tensor([len(text) - 1 for text in texts], device=lm.device)
        first = torch.tensor([len(row.prompt_ids) - 1 for row in rows], device=lm.device)
        self._table.bind([row.program for row in rows])  # counts start again, as all positions are read again
        point_at_text(self._table, lm, padded.ids, padded.mask, first)
        newest = padded.ids.shape[1] - min(map(len, texts)) + 1
        with self._table.one_pass():
            found = logits(lm, padded, newest)
        return found[torch.arange(len(rows), device=lm.device), ends - padded.ids.shape[1] + newest]

    def _took(self, chosen: Tensor) -> None:
        """Note nothing: the rows' texts say it."""
