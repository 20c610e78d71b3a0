"""The plugin inside a real vLLM on the CPU, in one process: rows of one batch against the transformers engine."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.doctor import diagnose_vllm
from steerkit.engines.remote.vllm import VllmEngine
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.logit_rules import ThinkingBudget
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.spec import parse
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from steerkit.runs.record import Record
from steerkit.suites.suite import load_suite
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.sweep import sweep
from tests.command_line import steerkit
from tests.engines.reference import same_or_tied
from tests.engines.test_transformers import mixed_cells
from tests.tiny import random_vector

pytestmark = [pytest.mark.vllm, pytest.mark.models]

MODEL = "smollm2-135m-instruct"
OPTIONS: dict[str, Any] = {
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


@pytest.fixture(autouse=True)
def _others_gone() -> None:
    """An engine that is collected takes the process's parallel groups with it: not while the next one starts."""
    gc.collect()


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return VllmEngine(MODEL, dtype="float32", options=OPTIONS)


@pytest.fixture(scope="module")
def cells(smollm: LanguageModel) -> list[tuple[Steering, ...]]:
    return mixed_cells(smollm)


@pytest.fixture(scope="module")
def strong(smollm: LanguageModel) -> SteeringVector:
    """A random vector that changes what the model says."""
    vector = random_vector(smollm, 3, name="strong")
    return vector * (40 / float(vector.direction[10].norm()))


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
    print(f"{len(same)} of {len(ours)} rows identical")
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


def test_scopes_that_follow_thinking_agree(
    smollm: LanguageModel, engine: VllmEngine, strong: SteeringVector
) -> None:
    cells = [(strong.at(10, scope=scope),) for scope in ("thinking", "answer", "all")]  # type: ignore[arg-type]
    assert_agree(smollm, engine, grid(THINKING, [*cells, ()], 24))


DECODINGS = [
    Decoding(24, repetition_penalty=1.3),
    Decoding(24, repetition_penalty=0.8),
    Decoding(24, stop=("e is", ".")),
    Decoding(24, stop="\n", repetition_penalty=1.1),
    Decoding(24, stop="<|im_end|>"),
    Decoding(24, stop=("at ", "ou", "on")),
    Decoding(24, stop_token_ids=(28, 30)),
    # Sampled, and yet of one possible token: each setting alone leaves the likeliest.
    Decoding(24, 0.9, top_k=1),
    Decoding(24, 0.9, min_p=1.0),
    Decoding(24, 0.9, top_p=1e-6),
    Decoding(24, 1.3, top_k=1, repetition_penalty=1.3, stop=("the", ",")),
]


def test_decodings_agree_setting_by_setting_in_one_batch(smollm: LanguageModel, engine: VllmEngine) -> None:
    prompts = [item.prompt for item in load_suite("abstention").items[:6]]
    requests = [
        Request(p, (), how, key=(i, j)) for i, p in enumerate(prompts) for j, how in enumerate(DECODINGS)
    ]
    theirs = run(engine, [r for r in requests if r.decoding.temperature == 0])
    # One by one: on a CPU, vLLM 0.32 dies of a row with a seed whose prompt is prefilled in chunks.
    for request in requests:
        if request.decoding.temperature > 0:
            theirs |= run(engine, [request])
    ours = run(TransformersEngine(smollm, 64), requests)
    for key, done in ours.items():
        for field in ("token_ids", "text", "finish"):
            assert getattr(theirs[key], field) == getattr(done, field), (key, done.text, theirs[key].text)
    assert sum(c.finish == "stop" for c in ours.values()) > 20


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


def test_vllms_own_generate_takes_a_spec(engine: VllmEngine) -> None:
    from vllm import SamplingParams

    spec = "abstain-smollm2-135m-instruct@layer=14,strength=1.25"
    [expected] = engine.generate([Request("Name a fruit.", (parse(spec),), Decoding(8))])
    greedy = SamplingParams(temperature=0, max_tokens=8, extra_args={"steerkit": [spec]})
    prompt = {"prompt_token_ids": engine.model.renderer.encode_prompt("Name a fruit.")}
    [done] = engine._llm.generate([prompt], greedy, use_tqdm=False)
    assert tuple(done.outputs[0].token_ids[: expected.tokens]) == expected.token_ids


def test_the_realised_shift_is_the_commanded_one_at_every_layer(engine: VllmEngine) -> None:
    diagnosis = diagnose_vllm(engine)
    assert len(diagnosis.errors) == engine.model.n_layers
    assert diagnosis.healthy, diagnosis.errors


def records(run: Path) -> list[Record]:
    return sorted(RunDirectory(run).records(), key=lambda record: record.key)


def test_a_sweep_has_the_records_of_the_transformers_engine(
    smollm: LanguageModel, engine: VllmEngine, strong: SteeringVector, tmp_path: Path
) -> None:
    scopes = {"scope": ("completion", "all")}
    cells = Grid(strong, [10, 20], [1.0], scopes, cells_beside=["dont-know-system"])
    measurement = Measurement(limit=12, decoding=Decoding(12), scorers=["perplexity"])
    for name, carrier in (("here", smollm), ("there", engine)):
        sweep(carrier, cells, measurement, out=tmp_path / name)
    here, there = records(tmp_path / "here"), records(tmp_path / "there")
    assert len(here) == len(there) == 12 * (1 + 2 * 2 * 2 + 1)
    strangeness = [[record.scores["perplexity"] for record in run] for run in (here, there)]
    same = [
        replace(ours, scores={**ours.scores, "perplexity": None})
        == replace(theirs, scores={**theirs.scores, "perplexity": None})
        for ours, theirs in zip(here, there, strict=True)
    ]
    print(f"{sum(same)} of {len(same)} records identical")
    assert sum(same) >= 0.99 * len(same)
    assert [a for a, equal in zip(strangeness[0], same, strict=True) if equal] == pytest.approx(
        [b for b, equal in zip(strangeness[1], same, strict=True) if equal], rel=1e-3
    )
    runs = [RunDirectory(tmp_path / name) for name in ("here", "there")]
    assert runs[0].protocol == runs[1].protocol
    assert runs[1].environments[0].versions["engine"].startswith("vllm 0.32")


@pytest.mark.parametrize("field", ["gate", "strength", "bias", "length"])
def test_what_vllm_cannot_do_is_refused_before_a_run_is_begun(
    field: str, smollm: LanguageModel, engine: VllmEngine, strong: SteeringVector, tmp_path: Path
) -> None:
    metadata = ProbeMetadata(name="probe", model=smollm.name, fingerprint=smollm.fingerprint, layer=1)
    probe = Probe(torch.ones(smollm.n_layers, smollm.d_model), torch.zeros(smollm.n_layers), metadata)
    asked: dict[str, Any] = {
        "gate": {"axes": {"gate": (None, ProbeGate(probe, threshold=0.5))}},
        "strength": {"strengths": [1e30]},
        "bias": {"cells_beside": ["refusal-bias"]},
    }.get(field, {})
    decoding = Decoding(600 if field == "length" else 64)
    named = {"length": "is served for 512", "bias": "'refusal-bias': vLLM has no rules on logits"}
    with pytest.raises(MisuseError, match=named.get(field, f"'{field}'")):
        sweep(
            engine, Grid(strong, 10, **asked), Measurement(limit=2, decoding=decoding), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "asked"), [("half_life", {"half_life": 8.0}), ("positions", {"positions": "boundaries"})]
)
def test_what_vllm_cannot_steer_is_refused_by_every_call(
    field: str, asked: dict[str, Any], engine: VllmEngine, strong: SteeringVector
) -> None:
    steering = strong.at(10, **asked)
    request = Request("Name a fruit.", (steering,), Decoding(4))
    for call in (
        lambda: engine.check(request),
        lambda: list(engine.generate([request])),
        lambda: engine.score([ScoreRequest("Name a fruit.", "An apple.", (steering,))]),
    ):
        with pytest.raises(MisuseError, match=f"'{field}'.*not supported in vLLM"):
            call()


def test_a_rule_on_logits_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(MisuseError, match="'thinking-budget@tokens=4': vLLM has no rules on logits"):
        list(engine.generate([Request("Name a fruit.", (ThinkingBudget(4),))]))


def test_the_command_line_sweeps_with_vllm_in_a_process_of_its_own(
    strong: SteeringVector, tmp_path: Path
) -> None:
    file = strong.save(tmp_path / "strong.safetensors")
    grid = [
        "--vector",
        str(file),
        "--layers",
        "10",
        "--strengths",
        "1",
        "--limit",
        "4",
        "--max-new-tokens",
        "8",
    ]
    vllm = ["--engine", "vllm", "--vllm-option", "enforce_eager=true", "--vllm-option", "max_model_len=512"]
    command = [sys.executable, "-m", "steerkit.cli", "sweep", *grid, *vllm, "--json", "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "there")],
        capture_output=True,
        text=True,
        env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["rows"][0]["role"] == "unsteered"
    assert steerkit("sweep", *grid, "--out", tmp_path / "here").code == 0
    assert records(tmp_path / "there") == records(tmp_path / "here")


def test_the_command_line_doctor_reads_vllm_back() -> None:
    done = steerkit("doctor", "--engine", "vllm", "--vllm-option", "max_model_len=256", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out[done.out.index("{") :])
    assert report["healthy"] is True
    assert max(report["layers"]) < 1e-3


def test_an_option_that_vllm_does_not_know_is_refused() -> None:
    done = steerkit("doctor", "--engine", "vllm", "--vllm-option", "no_such_thing=1")
    assert done.code == 2
    assert "vLLM refuses its options" in done.err


@pytest.mark.parametrize(
    ("changes", "tokens", "preempts"),
    [
        # 32 rows that begin with two blocks each and grow into a third.
        ({"num_gpu_blocks_override": 24, "max_model_len": 256, "async_scheduling": True}, 48, True),
        ({"enforce_eager": False}, 24, False),
    ],
    ids=["preemption", "compiled"],
)
def test_other_ways_to_run_agree_too(
    changes: dict[str, Any],
    tokens: int,
    preempts: bool,
    smollm: LanguageModel,
    cells: list[tuple[Steering, ...]],
    strong: SteeringVector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = VllmEngine(MODEL, dtype="float32", options=OPTIONS | changes)
    preempted = _counted(engine, monkeypatch)
    prompts = ["What is the capital of France?", "Count to nine.", "Tell me a story.", "Why is the sky blue?"]
    assert_agree(smollm, engine, grid(prompts, cells, tokens))
    thinking = strong.at(10, scope="thinking")
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


def test_tensor_parallel_workers_steer_as_one(gemma: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that hold a part of every matrix each; Gemma 3, as SmolLM2's nine heads cannot be halved."""
    cores = sorted(os.sched_getaffinity(0))  # one each, where there are two
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[-1]}")
    options = {"enforce_eager": True, "max_model_len": 256, "max_num_seqs": 16, "tensor_parallel_size": 2}
    engine = VllmEngine("gemma3-270m", dtype="float32", options=options)
    v, w = (random_vector(gemma, seed, size=8.0, name=f"v{seed}") for seed in (1, 2))
    cells: list[tuple[Steering, ...]] = [
        (),
        (v.at(4),),
        (v.at([4, 12], -0.5, scope="all"), w.at(12, operation="ablate")),
        (w.at(9, 0.3, operation="rotate", scope="all"),),
    ]
    diagnosis = diagnose_vllm(engine)
    assert diagnosis.healthy, diagnosis.errors
    assert_agree(gemma, engine, grid(["The capital of France is", "Once upon a time"], cells, 12))
