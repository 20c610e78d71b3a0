"""The batch of a model whose past cannot be taken apart by rows: every step runs all texts anew.

Rows stand aligned at their starts, where a model that looks back alone does not see the padding behind them; of a few
models the padding takes part even so, and they have texts of unequal length run apart. This holds for every decoder, at
the cost of running each text once a token.
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
from steerkit.models import LanguageModel


class WholeTextBatch(RunningBatch):
    """Rows of which nothing is kept but their texts; `aligns` says that unequal ones may be run in one pass."""

    def __init__(self, lm: LanguageModel, *, aligns: bool) -> None:
        super().__init__(lm)
        self._aligns = aligns

    def admit(self, joining: Sequence[Row], waiting: Sequence[Row], most: int) -> None:  # noqa: ARG002
        """Let rows join in place of the finished ones; there is nothing to run ahead."""
        self.rows = [*self.live, *joining]
        self._choosing = Choosing(self.rows, self._lm.device)
        self.fetch()
        self._bind_readers()
        self._edit_logits()

    def settle(self, row: Row) -> None:
        """Do nothing: each step counts the gates of the whole text."""

    @property
    def is_full(self) -> bool:
        """Whether room has to be found for the next step: never, as nothing is kept."""
        return False

    def _next_logits(self) -> Tensor:
        lengths = [len(row.prompt_ids) + len(row.generated) for row in self.rows]
        passes = (
            [range(len(lengths))]
            if self._aligns
            else [
                [i for i, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))
            ]
        )
        found, read = zip(*(self._run([self.rows[i] for i in places]) for places in passes), strict=True)
        order = torch.tensor([i for places in passes for i in places], device=self._lm.device).argsort()
        if self._reads.of_states:
            self._states_read = torch.cat(read)[order]
            self._noted.states(self._states_read)
        return torch.cat(found)[order]

    def _run(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Logits `[row, vocabulary]` behind the rows' texts, and what was read of their last states `[row, reader]`."""
        lm, reads = self._lm, self._reads
        texts = [[*row.prompt_ids, *row.generated] for row in rows]
        padded = right_padded(texts, lm)
        ends = torch.tensor([len(text) - 1 for text in texts], device=lm.device)
        first = torch.tensor([len(row.prompt_ids) - 1 for row in rows], device=lm.device)
        table = RowTable(lm, [row.program for row in rows], counts_gates=True)
        point_at_text(table, lm, padded.ids, padded.mask, first)
        width = padded.ids.shape[1]
        joined = [row for row in rows if not row.passes]
        of_prompts = reads.of_logits if any(row.prompt_readers for row in joined) else []
        newest = width if of_prompts else width - min(map(len, texts)) + 1
        with reads.one_pass(), table.one_pass():
            found = logits(lm, padded, newest)
        states = reads.states_read() if reads.of_states else found.new_zeros(*padded.ids.shape, 0)
        for i, row in enumerate(rows):  # set, not added, as all positions are read again
            row.gate_counts = Counter(table.gate_counts(i))
            if not row.passes and row.prompt_readers:
                prompt = len(row.prompt_ids) - 1
                read = dict(zip(reads.of_states, states[i, :prompt].T.cpu().numpy(), strict=True))
                if of_prompts:
                    chosen = padded.ids[i, 1 : prompt + 1]
                    values = reads.logits_read(found[i, :prompt], chosen)
                    read |= dict(zip(of_prompts, values.T.cpu().numpy(), strict=True))
                row.read.take_prompt(read)
        every = torch.arange(len(rows), device=lm.device)
        return found[every, ends - width + newest], states[every, ends]

    def _took(self, chosen: Tensor, nats: Tensor) -> None:
        """Note nothing: the rows' texts say it."""
