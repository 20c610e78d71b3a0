"""The plugin inside a real vLLM on the CPU, in one process: rows of one batch against the transformers engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("vllm")

from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.transformers import TransformersEngine
from steerkit.engines.vllm import VllmEngine
from steerkit.errors import MisuseError
from steerkit.models import LanguageModel
from steerkit.steering import Steering
from steerkit.suites.suite import load_suite
from steerkit.vllm.doctor import diagnose
from tests.engines.reference import same_or_tied
from tests.engines.test_transformers import mixed_cells
from tests.tiny import random_vector

pytestmark = pytest.mark.vllm

MODEL = "smollm2-135m-instruct"
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 128,  # prompts are prefilled in chunks
    "block_size": 32,  # prompts span several cached blocks
}
THINKING = [
    "Repeat after me: <think> 1 2 3 </think> 4 5 6. Again, exactly the same.",
    "<think> is on",
    "Say <think> ok </think> and then <think>",
]


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0")


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return VllmEngine(MODEL, **OPTIONS)


@pytest.fixture(scope="module")
def cells(smollm: LanguageModel) -> list[tuple[Steering, ...]]:
    return mixed_cells(smollm)


def run(engine: Any, requests: list[Request]) -> dict[Any, Completion]:
    return {c.request.key: c for c in engine.generate(requests)}


def grid(prompts: list[str], cells: list[tuple[Steering, ...]], tokens: int) -> list[Request]:
    return [
        Request(prompt, cell, Decoding(tokens), key=(i, j))
        for i, prompt in enumerate(prompts)
        for j, cell in enumerate(cells)
    ]


def assert_agree(lm: LanguageModel, engine: VllmEngine, requests: list[Request]) -> None:
    theirs = run(engine, requests)
    ours = run(TransformersEngine(lm, 64), requests)
    assert theirs.keys() == ours.keys()
    same = [key for key in ours if theirs[key].token_ids == ours[key].token_ids]
    assert len(same) >= 0.99 * len(ours)
    for key in same:
        for field in ("text", "finish", "prompt_tokens", "thinking_tokens"):
            assert getattr(theirs[key], field) == getattr(ours[key], field), key
    for key in ours.keys() - set(same):
        assert same_or_tied(lm, ours[key], theirs[key]), (key, ours[key].text, theirs[key].text)


def test_mixed_cells_in_one_batch_agree_with_the_transformers_engine(
    smollm: LanguageModel, engine: VllmEngine, cells: list[tuple[Steering, ...]]
) -> None:
    prompts = [item.prompt for item in load_suite("abstention").items[:64]]
    assert_agree(smollm, engine, grid(prompts, cells, 12))


def test_a_warm_prefix_cache_changes_nothing(
    smollm: LanguageModel, engine: VllmEngine, cells: list[tuple[Steering, ...]]
) -> None:
    long = [f"{'Read this twice. ' * 12}What is {i} + {i}?" for i in range(3)]
    requests = grid(long, cells, 8)
    first = run(engine, requests)
    again = run(engine, requests[::-1])
    assert {k: c.token_ids for k, c in first.items()} == {k: c.token_ids for k, c in again.items()}
    assert_agree(smollm, engine, requests)


def test_scopes_that_follow_thinking_agree(smollm: LanguageModel, engine: VllmEngine) -> None:
    vector = random_vector(smollm, 3)
    vector = vector * (40 / float(vector.direction[10].norm()))
    cells = [(vector.at(10, scope=scope),) for scope in ("thinking", "answer", "all")]  # type: ignore[arg-type]
    assert_agree(smollm, engine, grid(THINKING, [*cells, ()], 24))


def test_scores_agree(smollm: LanguageModel, engine: VllmEngine, cells: list[tuple[Steering, ...]]) -> None:
    requests = [ScoreRequest("How many?", "The answer is forty-two, I think.", cell) for cell in cells]
    for a, b in zip(engine.score(requests), TransformersEngine(smollm).score(requests), strict=True):
        assert a.log_probabilities == pytest.approx(b.log_probabilities, abs=1e-3)


def test_slots_come_back_when_requests_end_or_are_abandoned(
    engine: VllmEngine, cells: list[tuple[Steering, ...]]
) -> None:
    completions = engine.generate(grid(["Tell me a story."] * 4, cells, 32))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    run(engine, [Request("Hi", (), Decoding(2))])
    runner = engine._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    assert runner.steerkit.tables._depth_of == {0: {}}


def test_a_refused_request_leaves_the_others_untouched(smollm: LanguageModel, engine: VllmEngine) -> None:
    vector = random_vector(smollm, 4)
    plain = run(engine, [Request("Name a fruit.", (), Decoding(6), key="plain")])["plain"]
    with pytest.raises(MisuseError, match="strength"):
        run(engine, [Request("Name a fruit.", (vector.at(3, 1e30),), Decoding(6))])
    huge = run(
        engine,
        [Request("Name a fruit.", (), Decoding(6), key="plain")]
        + [Request("Name a fruit.", (vector.at(3, 1e6),), Decoding(6), key=i) for i in range(8)],
    )
    assert huge["plain"].token_ids == plain.token_ids
    assert run(engine, [Request("Name a fruit.", (), Decoding(6), key="p")])["p"].token_ids == plain.token_ids


def test_the_realised_shift_is_the_commanded_one_at_every_layer(engine: VllmEngine) -> None:
    diagnosis = diagnose(engine)
    assert len(diagnosis.errors) == engine.model.n_layers
    assert diagnosis.healthy, diagnosis.errors


@pytest.mark.parametrize(
    ("changes", "preempts"),
    [
        ({"num_gpu_blocks_override": 24, "max_model_len": 256, "async_scheduling": True}, True),
        ({"enforce_eager": False}, False),
    ],
    ids=["preemption", "compiled"],
)
def test_other_ways_to_run_agree_too(
    changes: dict[str, Any],
    preempts: bool,
    smollm: LanguageModel,
    cells: list[tuple[Steering, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = VllmEngine(MODEL, **OPTIONS | changes)
    preempted = _counted(engine, monkeypatch)
    assert_agree(smollm, engine, grid(["What is the capital of France?", "Count to nine."], cells, 24))
    vector = random_vector(smollm, 3)
    thinking = (vector * (40 / float(vector.direction[10].norm()))).at(10, scope="thinking")
    assert_agree(smollm, engine, grid(THINKING, [(thinking,), ()], 24))
    assert bool(preempted()) == preempts


def _counted(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    scheduler = engine._engine.engine_core.engine_core.scheduler
    original, count = scheduler._preempt_request, [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", counting)
    return lambda: count[0]
