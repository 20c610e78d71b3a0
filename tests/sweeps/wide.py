"""One wide sweep on a tiny model, as a process: `python -m tests.sweeps.wide OUT [KILLED_AT]`.

Half-life × gate × system prompt × two vectors, with controls. With KILLED_AT it dies by SIGKILL at that many records.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from steerkit.engines.base import Decoding
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.models import LanguageModel
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.sweep import sweep
from tests.tiny import random_vector, tiny_model

ON = Measurement("abstention", limit=8, decoding=Decoding(5))


def probe(lm: LanguageModel) -> Probe:
    """A random probe at layer 1."""
    metadata = ProbeMetadata(name="half", model=lm.name, fingerprint=lm.fingerprint, layer=1)
    noise = torch.randn(lm.n_layers, lm.d_model, generator=torch.Generator().manual_seed(5))
    return Probe(noise, torch.zeros(lm.n_layers), metadata)


def grid(lm: LanguageModel) -> Grid:
    """2 vectors × 2 half-lives × 2 gates × 2 system prompts, a control for each, and what stands alone."""
    vectors = [random_vector(lm, seed, 2.0, name) for seed, name in enumerate(["one", "two"])]
    axes = {"half_life": [None, 3], "gate": [None, ProbeGate(probe(lm))], "edit": "none,concise-system"}
    return Grid(vectors, layers=2, strengths=2, axes=axes)


def main(out: Path, killed_at: int | None = None) -> None:
    """Sweep into `out`."""

    def progress(done: int, _total: int) -> None:
        if done == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    lm = tiny_model()
    sweep(lm, grid(lm), ON, out=out, batch_size=16, progress=progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
