"""What the plugin reads inside a real vLLM on the CPU, against plain forward hooks on the same tokens."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm")

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, ContinuationScore, Decoding, Request, ScoreRequest
from steerkit.engines.remote.vllm import VllmEngine
from steerkit.interventions.readers import NamedReader
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.engines.test_readings import by_hand, readers_of
from tests.integrations.vllm.test_vllm import MODEL, OPTIONS, _counted
from tests.tiny import random_vector

pytestmark = [pytest.mark.vllm, pytest.mark.models]

TOLERANCE = 1e-4
PROMPTS = (
    "Why?",
    "What is the capital of France?",
    "Name one.",
    f"{'Read this twice. ' * 40}What is 2 + 2?",  # prefilled in several chunks
)


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0")


@pytest.fixture(autouse=True)
def _others_gone() -> None:
    gc.collect()


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return VllmEngine(MODEL, dtype="float32", options=OPTIONS)


@pytest.fixture(scope="module")
def cells(smollm: LanguageModel) -> list[tuple[Steering, ...]]:
    steering = random_vector(smollm, 4).at(layer=smollm.n_layers - 1, strength=2.0)
    low = random_vector(smollm, 5).at(layer=8, strength=1.0)
    return [(), (steering,), (replace(low, scope="all"), steering), (replace(low, scope="prompt"),)]


def requests_of(lm: LanguageModel, cells: Sequence[tuple[Steering, ...]], tokens: int) -> list[Request]:
    every = readers_of(lm)
    return [
        Request(prompt, cell, Decoding(tokens + 3 * j), key=(i, j), readers=tuple(every[(i + j) % 4 :]))
        for i, prompt in enumerate(PROMPTS)
        for j, cell in enumerate(cells)
    ]


def difference(
    lm: LanguageModel, done: Completion | ContinuationScore, prompt: int, text: Sequence[int]
) -> float:
    """The largest difference to what hooks read by hand, relative to the size of what is read where that is above 1."""
    largest = 0.0
    by_hooks = by_hand(lm, done.request, prompt, text, cached=False)
    assert [reading.reader for reading in done.readings] == list(done.request.readers)
    for reading, expected in zip(done.readings, by_hooks, strict=True):
        assert len(reading.prompt) == prompt
        got = [*reading.prompt, *reading.completion]
        assert [value is None for value in got] == [value is None for value in expected], reading.reader
        for ours, theirs in zip(got, expected, strict=True):
            if ours is not None and theirs is not None:
                largest = max(largest, abs(ours - theirs[0]) / max(1.0, theirs[1]))
    return largest


def check(lm: LanguageModel, completions: Sequence[Completion]) -> None:
    found = []
    for done in completions:
        prompt = lm.renderer.encode_prompt(done.request.prompt)
        found.append(difference(lm, done, len(prompt), [*prompt, *done.token_ids]))
    print(f"{len(found)} rows, largest difference {max(found):.1e}")
    assert max(found) < TOLERANCE


def test_every_token_is_read_as_plain_hooks_read_it(
    smollm: LanguageModel, engine: VllmEngine, cells: list[tuple[Steering, ...]]
) -> None:
    requests = requests_of(smollm, cells, 6)
    plain = [replace(request, readers=()) for request in requests]
    done = {c.request.key: c for c in engine.generate([*requests, Request("And?", (), Decoding(9))])}
    assert done.pop(None).readings == ()
    check(smollm, list(done.values()))
    unread = {c.request.key: (c.token_ids, c.finish, c.text) for c in engine.generate(plain)}
    assert unread == {key: (c.token_ids, c.finish, c.text) for key, c in done.items()}
    # The prompts are all in the prefix cache now, from which a prompt that is read takes nothing.
    check(smollm, list(engine.generate(requests[::-1])))


def test_a_completion_that_a_stop_text_ends_is_read_to_the_last_token_that_was_run(
    smollm: LanguageModel, engine: VllmEngine
) -> None:
    how = Decoding(24, stop=("e is", ".", "\n"))
    requests = [Request(prompt, (), how, readers=tuple(readers_of(smollm))) for prompt in PROMPTS]
    done = list(engine.generate(requests))
    assert sum(c.finish == "stop" for c in done) > 1
    for completion in done:
        ids = [*smollm.renderer.encode_prompt(completion.request.prompt), *completion.token_ids]
        expected = by_hand(smollm, completion.request, completion.prompt_tokens, ids, cached=False)
        for reading, values in zip(completion.readings, expected, strict=True):
            got = [*reading.prompt, *reading.completion]
            assert None not in got[1:-1]
            for ours, theirs in zip(got, values, strict=True):
                if ours is not None and theirs is not None:
                    assert abs(ours - theirs[0]) < TOLERANCE * max(1.0, theirs[1])


def test_given_texts_are_read(
    smollm: LanguageModel, engine: VllmEngine, cells: list[tuple[Steering, ...]]
) -> None:
    requests = [
        ScoreRequest(prompt, reply, cell, readers=tuple(readers_of(smollm)))
        for prompt in PROMPTS[:2]
        for reply in ("Because it rains.", "")
        for cell in cells
    ]
    for score in engine.score(requests):
        prompt = len(score.token_ids) - len(score.log_probabilities)
        assert difference(smollm, score, prompt, score.token_ids) < TOLERANCE


def test_places_come_back_and_what_cannot_be_read_is_refused(engine: VllmEngine) -> None:
    runner = engine._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    list(engine.generate([Request("Hi", (), Decoding(2))]))
    assert runner.steerkit.reading._rows == {}
    assert all(not pool._number for pool in runner.steerkit.tables.readers._pools.values())
    long = Request("Name a fruit.", (), Decoding(507), readers=(NamedReader("entropy"),))
    with pytest.raises(MisuseError, match="is served for 512"):
        engine.check(long)


@pytest.mark.parametrize(
    ("changes", "tokens", "preempts"),
    [
        ({"num_gpu_blocks_override": 40, "max_model_len": 400}, 48, True),
        ({"enforce_eager": False}, 12, False),
    ],
    ids=["preemption", "compiled"],
)
def test_other_ways_to_run_read_the_same(
    changes: dict[str, Any],
    tokens: int,
    preempts: bool,
    smollm: LanguageModel,
    cells: list[tuple[Steering, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = VllmEngine(MODEL, dtype="float32", options=OPTIONS | changes)
    preempted = _counted(engine, monkeypatch)
    check(smollm, list(engine.generate(requests_of(smollm, cells, tokens))))
    assert bool(preempted()) == preempts
