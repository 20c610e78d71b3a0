"""Batches are sized from memory: fewer rows where they are long or memory is short, and fewer still if it runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.forward import in_passes
from steerkit.engines.shortcuts import shortcuts
from steerkit.engines.transformers import memory
from steerkit.engines.transformers.batch import RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel
from tests.engines.test_gates import QUESTIONS, splitting_gate
from tests.tiny import random_vector


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
    states = shortcuts(bundled, 1).states
    assert memory.fitting_rows(bundled, states, positions) == 10
    assert memory.fitting_rows(bundled, states, 2 * positions) == 5
    assert memory.fitting_rows(bundled, states, 1000 * positions) == 1


def test_this_machine_says_how_much_is_free(tiny: LanguageModel) -> None:
    assert memory._free_bytes(tiny.device) > 1 << 24


@pytest.mark.parametrize(("asked", "most"), [(None, 3), (5, 5)])
def test_memory_bounds_the_batch_unless_the_user_does(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, asked: int | None, most: int
) -> None:
    monkeypatch.setattr("steerkit.engines.transformers.capacity.fitting_rows", lambda *_: 3)
    rows: list[int] = []
    step = RunningBatch.step

    def counted(self: RunningBatch) -> None:
        rows.append(len(self.rows))
        step(self)

    monkeypatch.setattr(RunningBatch, "step", counted)
    requests = [Request(f"question {i}", decoding=Decoding(max_new_tokens=3)) for i in range(12)]
    assert len(list(TransformersEngine(tiny, asked).generate(requests))) == 12
    assert max(rows) == most


@pytest.mark.parametrize("room", [1, 3])
def test_scores_and_readings_shrink_to_what_memory_holds(tiny: LanguageModel, room: int) -> None:
    """At most `room` texts a pass go through the decoder; the scores, and what the gates read, stay the same."""
    gate = splitting_gate(tiny, 1)
    steering = random_vector(tiny, 1).at(1, 0.5, gate=gate)
    requests = [ScoreRequest(q + "?" * i, "yes, it is", (steering,)) for i in range(3) for q in QUESTIONS]
    expected = TransformersEngine(tiny).score(requests)
    passes: list[int] = []

    def small_memory(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        passes.append(len(kwargs["input_ids"]))
        if passes[-1] > room:
            torch.empty(1 << 50)  # more than any machine has

    handle = tiny.decoder.register_forward_pre_hook(small_memory, with_kwargs=True)
    try:
        found = TransformersEngine(tiny).score(requests)
    finally:
        handle.remove()
    assert max(passes) > room, "it never ran out"
    assert sum(size for size in passes if size <= room) == 2 * len(requests), (
        "each text is read once, and scored once"
    )
    for one, other in zip(found, expected, strict=True):
        assert one.request is other.request
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)


def test_a_single_text_that_does_not_fit_is_an_error_with_a_remedy(tiny: LanguageModel) -> None:
    def no_memory(_module: object, _args: object) -> None:
        raise torch.OutOfMemoryError

    handle = tiny.decoder.register_forward_pre_hook(no_memory)
    try:
        with pytest.raises(
            SteerkitError, match=r"out of memory with a single text of \d+ tokens: shorten it"
        ):
            TransformersEngine(tiny).score([ScoreRequest(q, "yes") for q in QUESTIONS])
    finally:
        handle.remove()


def test_another_error_of_a_pass_is_not_taken_for_memory() -> None:
    def broken(_some: object) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_passes(["a", "b"], len, 8, broken))
