"""How many rows decode together, and which shortcuts they may take: both follow the longest text so far."""

from __future__ import annotations

from collections.abc import Collection

from steerkit.core.errors import SteerkitError
from steerkit.engines.forward import alone
from steerkit.engines.shortcuts import Shortcuts, shortcuts
from steerkit.engines.transformers.batch import Row
from steerkit.engines.transformers.memory import fitting_rows
from steerkit.models import LanguageModel

BATCH_SIZE = {"cpu": 128, "cuda": 256}  # beyond it throughput grows no more; see benchmarks/README.md


class Capacity:
    """The most `rows` that decode together: as many as were asked for, or as the device makes use of and memory holds.

    It is halved where memory runs out all the same.
    """

    def __init__(self, lm: LanguageModel, asked: int | None) -> None:
        self._lm = lm
        self.rows = self._most = self._wanted = asked or BATCH_SIZE.get(lm.device.type, 64)
        self._sized_by_memory = asked is None
        self._longest = 0  # tokens of the longest text so far

    def shortcuts(self, rows: Collection[Row] = (), tokens: int = 0) -> Shortcuts:
        """What the model takes of shortcuts, for all rows so far, these, and a text of so many tokens."""
        self._longest = max(self._longest, tokens, *map(_length, rows))
        with alone(self._lm):
            return shortcuts(self._lm, self._longest)

    def fit(self, rows: Collection[Row], taken: Shortcuts) -> None:
        """Make it what memory holds of the longest of `rows`, unless the user said how many."""
        if self._sized_by_memory and rows:
            self.rows = min(self._most, fitting_rows(self._lm, taken.states, max(map(_length, rows))))

    def halve(self) -> None:
        """Make it half of what it is; raises SteerkitError where that is a single row."""
        if self.rows == 1:
            raise SteerkitError(
                f"out of memory with a single row on {self._lm.device}: shorten the prompt, lower max_new_tokens, or "
                "use a smaller number format"
            )
        self.rows = self._most = max(1, self.rows // 2)

    def restore(self) -> None:
        """Make it again what it was before memory ran out."""
        self.rows = self._most = self._wanted


def _length(row: Row) -> int:
    return len(row.prompt_ids) + row.decoding.max_new_tokens
