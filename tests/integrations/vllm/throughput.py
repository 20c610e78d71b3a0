"""Steered against unsteered throughput in vLLM: one process, one batch, paired and interleaved. Never fails a test run.

    python -m tests.integrations.vllm.throughput [--rows 64] [--tokens 24] [--repeats 8]

Every row of the steered batch is steered, by one of eight distinct cells on eight layers; end-of-sequence tokens are
ignored, so both batches compute the same number of tokens.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from vllm import SamplingParams
from vllm.inputs import tokens_input

from steerkit.engines.remote.vllm import VllmEngine
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.suites.suite import load_suite

CELLS = 8


def small_vector(engine: VllmEngine, seed: int) -> SteeringVector:
    """A random vector short enough to leave the text alone: this measures time, not behaviour."""
    import torch

    model = engine.model
    noise = torch.randn(model.n_layers, model.d_model, generator=torch.Generator().manual_seed(seed))
    metadata = VectorMetadata(
        name=f"v{seed}", model=model.name, fingerprint=model.fingerprint, method="random", aggregation="last"
    )
    return SteeringVector(noise / noise.norm(dim=-1, keepdim=True), metadata)


def tokens_per_second(
    engine: VllmEngine,
    prompts: list[list[int]],
    cells: list[tuple[Steering, ...]] | None,
    tokens: int,
    run: str,
) -> float:
    """Complete all prompts in one batch; `cells` None for unsteered."""
    vllm = engine._engine
    begin = time.perf_counter()
    for i, ids in enumerate(prompts):
        parameters = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            skip_clone=True,
            extra_args=None if cells is None else {"steerkit": cells[i % CELLS]},
        )
        vllm.add_request(f"{run}-{i}", tokens_input(list(ids)), parameters)
    while vllm.has_unfinished_requests():
        vllm.step()
    return len(prompts) * tokens / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 64), ("tokens", 24), ("repeats", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    engine = VllmEngine(
        "smollm2-135m-instruct",
        dtype="float32",
        options={
            "enforce_eager": True,
            "max_model_len": 512,
            "max_num_seqs": options.rows,
            "enable_prefix_caching": False,
        },
    )
    prompts = [
        engine.model.renderer.encode_prompt(item.prompt)
        for item in load_suite("abstention").items[: options.rows]
    ]
    cells = [(small_vector(engine, k).at(3 * k + 3),) for k in range(CELLS)]
    for kind in (cells, None):
        tokens_per_second(engine, prompts, kind, 2, f"warm-{kind is None}")
    ratios = []
    for repeat in range(options.repeats):
        speed: dict[bool, float] = {}
        for steered in (True, False) if repeat % 2 else (False, True):
            run = f"{repeat}-{steered}"
            speed[steered] = tokens_per_second(
                engine, prompts, cells if steered else None, options.tokens, run
            )
        ratios.append(speed[True] / speed[False])
        print(
            f"steered {speed[True]:7.1f} tokens/s, unsteered {speed[False]:7.1f}, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(
        f"steered / unsteered: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f} "
        f"({options.rows} rows, {CELLS} cells, {options.tokens} tokens, {options.repeats} pairs)"
    )


if __name__ == "__main__":
    main()
