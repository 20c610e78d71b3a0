"""Measuring many layers and strengths together: places are rows of the same passes, and are measured once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from steerkit.calibration.result import MeasuredKL
from steerkit.calibration.tokens import TokenStatistics, pool
from steerkit.core.bootstrap import Floats
from steerkit.core.prompts import EncodedText
from steerkit.engines.transformers.divergence import divergences
from steerkit.engines.transformers.gates import without_row_gate
from steerkit.engines.transformers.table import Program
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel

EXPECTED_PASSES = 3  # over all prompts; what the progress bar starts from

Progress = Callable[[int, int], None]
Place = tuple[int, float]  # layer and unsigned strength


class Meter:
    """Divergences over `texts` of a steering moved to places; `known` keeps what was measured."""

    def __init__(
        self,
        lm: LanguageModel,
        texts: Sequence[EncodedText],
        steering: Steering,
        batch_size: int | None,
        progress: Progress | None = None,
    ) -> None:
        self.known: dict[Place, TokenStatistics] = {}
        self._lm, self._texts, self._like, self._batch_size = lm, texts, steering, batch_size
        self._progress, self._passes = progress, 0

    def steering(self, place: Place) -> Steering:
        """Return the steering as it is at `place`, a row gate open."""
        layer, strength = place
        signed = math.copysign(strength, self._like.strength)
        return without_row_gate(replace(self._like, layers=(layer,), strength=signed))

    def measure(self, places: Sequence[Place]) -> None:
        """Measure those of `places` that are not known yet."""
        new = [place for place in dict.fromkeys(places) if place not in self.known]
        if not new:
            return
        self._passes += 1
        tables = []
        for done, table in enumerate(self.of(self._texts, new), start=1):
            tables.append(table)
            if self._progress is not None:
                texts = len(self._texts)
                self._progress((self._passes - 1) * texts + done, max(EXPECTED_PASSES, self._passes) * texts)
        for row, place in enumerate(new):
            self.known[place] = pool([table[row] for table in tables])

    def of(self, texts: Sequence[EncodedText], places: Sequence[Place]) -> Iterator[Floats]:
        """Yield the divergence at every token of each text, `[place, token]`."""
        programs = [Program.of((self.steering(place),)) for place in places]
        for table in divergences(self._lm, texts, programs, rows_per_pass=self._batch_size):
            yield table.numpy()

    def point(self, place: Place, kl: TokenStatistics | None = None) -> MeasuredKL:
        """Return a place with its divergence: the one that was measured, or `kl`."""
        steering = self.steering(place)
        dose = None
        if steering.acts_by.is_constant_shift:
            dose = steering.vector.relative_dose(place[0], steering.strength)
        return MeasuredKL(steering.strength, kl or self.known[place], dose)
