"""A run that was begun one row at a time and finished packed holds the records of one that was packed throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import steerkit as sk
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from tests.tiny import random_vector


def records(path: Path) -> dict[tuple, dict[str, Any]]:
    found = {(r["cell"], r["item"], r["sample"]): r for r in RunDirectory(path).records()}
    assert len(found) == sum(1 for _ in RunDirectory(path).records()), "a record stands once"
    return found


def test_a_sweep_begun_unpacked_is_resumed_packed(tiny: LanguageModel, tmp_path: Path) -> None:
    grid: dict[str, Any] = {"layers": [1, 2], "strengths": [-1.0, 1.0], "max_new_tokens": 6}
    vector = random_vector(tiny)
    for temperature in (0.0, 0.9):
        begun, whole, single = (tmp_path / f"{name}-{temperature}" for name in ("begun", "whole", "single"))
        asked = grid | {"temperature": temperature, "samples": 1 + (temperature > 0)}
        sk.sweep(tiny, [vector], limit=4, batch_size=1, out=begun, **asked)
        first = records(begun)
        sk.sweep(tiny, [vector], limit=12, out=begun, **asked)
        sk.sweep(tiny, [vector], limit=12, out=whole, batch_size=7, **asked)
        sk.sweep(tiny, [vector], limit=12, out=single, batch_size=1, **asked)
        resumed = records(begun)
        assert resumed == records(whole) == records(single)
        assert len(first) < len(resumed)
        assert first == {key: resumed[key] for key in first}
        assert len({r["completion"] for r in resumed.values()}) > len(resumed) // 3
