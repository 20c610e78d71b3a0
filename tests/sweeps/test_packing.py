"""A run that was begun one row at a time and finished packed holds the records of one that was packed throughout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steerkit.engines.base import Decoding
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from steerkit.runs.record import Record
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.sweep import sweep
from tests.tiny import random_vector


def records(path: Path) -> dict[tuple, Record]:
    found = {record.key: record for record in RunDirectory(path).records()}
    assert len(found) == sum(1 for _ in RunDirectory(path).records()), "a record stands once"
    return found


def test_a_sweep_begun_unpacked_is_resumed_packed(tiny: LanguageModel, tmp_path: Path) -> None:
    grid = Grid(random_vector(tiny), [1, 2], [-1.0, 1.0])
    for temperature in (0.0, 0.9):
        begun, whole, single = (tmp_path / f"{name}-{temperature}" for name in ("begun", "whole", "single"))
        few = Measurement(limit=4, decoding=Decoding(6, temperature), samples=1 + (temperature > 0))
        all_items = replace(few, limit=12)
        sweep(tiny, grid, few, batch_size=1, out=begun)
        first = records(begun)
        sweep(tiny, grid, all_items, out=begun)
        sweep(tiny, grid, all_items, out=whole, batch_size=7)
        sweep(tiny, grid, all_items, out=single, batch_size=1)
        resumed = records(begun)
        assert resumed == records(whole) == records(single)
        assert len(first) < len(resumed)
        assert first == {key: resumed[key] for key in first}
        assert len({record.completion for record in resumed.values()}) > len(resumed) // 3
