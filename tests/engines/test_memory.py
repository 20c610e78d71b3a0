"""The batch is sized from memory: fewer rows where they are long or memory is short."""

from __future__ import annotations

import pytest

from steerkit.engines import memory
from steerkit.engines.base import Decoding, Request
from steerkit.engines.batch import RunningBatch
from steerkit.engines.transformers import TransformersEngine
from steerkit.models import LanguageModel


def test_rows_fit_by_what_their_keys_and_values_take(
    bundled: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = 100
    config = bundled.config
    row = (
        positions
        * bundled.n_layers
        * 2
        * config.num_key_value_heads
        * config.head_dim
        * bundled.dtype.itemsize
    )
    monkeypatch.setattr(memory, "_free_bytes", lambda _device: 10 * row / memory.SHARE)
    assert memory.fitting_rows(bundled, positions) == 10
    assert memory.fitting_rows(bundled, 2 * positions) == 5
    assert memory.fitting_rows(bundled, 1000 * positions) == 1


def test_this_machine_says_how_much_is_free(tiny: LanguageModel) -> None:
    assert memory._free_bytes(tiny.device) > 1 << 24


@pytest.mark.parametrize(("asked", "most"), [(None, 3), (5, 5)])
def test_memory_bounds_the_batch_unless_the_user_does(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, asked: int | None, most: int
) -> None:
    monkeypatch.setattr("steerkit.engines.transformers.fitting_rows", lambda _lm, _positions: 3)
    rows: list[int] = []
    step = RunningBatch.step

    def counted(self: RunningBatch) -> None:
        rows.append(len(self.rows))
        step(self)

    monkeypatch.setattr(RunningBatch, "step", counted)
    requests = [Request(f"question {i}", decoding=Decoding(max_new_tokens=3)) for i in range(12)]
    assert len(list(TransformersEngine(tiny, asked).generate(requests))) == 12
    assert max(rows) == most
