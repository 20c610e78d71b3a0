"""The protocol of a small run on a given model."""

from __future__ import annotations

from typing import Any

from steerkit.engines.base import Decoding
from steerkit.models import LanguageModel
from steerkit.runs.protocol import Protocol


def protocol(lm: LanguageModel | None = None, **changed: Any) -> Protocol:
    """A protocol with some fields changed; of `lm` where one is given."""
    fields: dict[str, Any] = {
        "suite": "sums",
        "suite_digest": "ab" * 32,
        "split": "choose",
        "model": lm.name if lm else "none",
        "fingerprint": lm.fingerprint if lm else "none:0",
        "template_digest": lm.renderer.digest if lm else "cd" * 32,
        "dtype": "float32",
        "decoding": Decoding(32),
        "scorers": ("lengths",),
    }
    return Protocol(**fields | changed)
