"""An exporter: `steerkit export --to npy SPEC --out FILE`, `sk.export(steering, to="npy", out=FILE)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import steerkit as sk
from steerkit.interchange.base import Exporter

if TYPE_CHECKING:
    from steerkit import LanguageModel, Steering


@sk.exporter("npy")
class Npy(Exporter):
    """A NumPy array of what is added at each layer."""

    consumer = "a NumPy array"
    next = 'python -c "import numpy, sys; print(numpy.load(sys.argv[1]).shape)" {out}'

    def write(self, interventions: Sequence[Steering], out: Path, lm: LanguageModel | None = None) -> None:
        """Write `[n_layers, d_model]` float32; what is no constant shift was refused before."""
        import numpy as np

        from steerkit.interchange.shifts import constant_shifts

        del lm
        with out.open("wb") as file:
            np.save(file, constant_shifts(interventions, self.consumer).numpy())
