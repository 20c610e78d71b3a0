"""What packing gains on a hybrid: a random Qwen3.5 of 50 million parameters, whose layers keep recurrent states.

Both sides are the engine itself, on the requests of a small sweep: with its own batch size, and with one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
import transformers

import steerkit as sk
from benchmarks.measure import ratios, take_turns
from benchmarks.rows import Row, at_least
from benchmarks.setting import Workbench
from benchmarks.sweep import grid_requests
from steerkit.checks.families import TOKENS, VOCABULARY, byte_tokenizer

NAME = "random-qwen3.5-50m"
PATTERN = [*["linear_attention"] * 3, "full_attention"]
STRENGTHS = (-1.0, 1.0)
PAIRS = 4

Completions = dict[object, tuple[int, ...]]


def random_hybrid() -> Any:
    """Return the model, of 12 layers and 50.4 million parameters, the same at every call.

    Weights are drawn larger than by default, so that completions differ by prompt and by steering.
    """
    torch.manual_seed(0)
    config = transformers.Qwen3_5TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=3 * len(PATTERN),
        layer_types=3 * PATTERN,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=8,
        linear_num_value_heads=16,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        max_position_embeddings=2048,
        initializer_range=0.05,
        **TOKENS,
    )
    return transformers.Qwen3_5ForCausalLM(config).eval()


def run(bench: Workbench) -> Iterator[Row]:
    """Seconds of the sweep one row at a time over those of the packed one, which says the same."""
    sizes, device = bench.sizes, bench.setting.device
    hf = random_hybrid().to(device=device, dtype=bench.lm.dtype)
    lm = sk.load_model(hf, byte_tokenizer())
    pairs = bench.pairs("abstention")
    vector = sk.extract(lm, replace(pairs, pairs=pairs.pairs[:PAIRS]))
    cells = sk.Grid(vector, (3, 6, 9), STRENGTHS, control_strengths=()).cells()
    items = bench.items(sizes.hybrid_items)
    found: dict[str, Completions] = {}

    def complete(name: str, engine: sk.TransformersEngine) -> None:
        done = engine.generate(grid_requests(items, cells, sizes.hybrid_tokens))
        found[name] = {completion.request.key: completion.token_ids for completion in done}

    packed = sk.TransformersEngine(lm)
    variants: dict[str, Callable[[], object]] = {
        "one at a time": partial(complete, "one at a time", sk.TransformersEngine(lm, 1)),
        "packed": partial(complete, "packed", packed),
    }
    seconds = take_turns(variants, sizes.repeats, bench.wait)
    ours = found["packed"]
    equal = fmean(found["one at a time"][key] == tokens for key, tokens in ours.items())
    yield Row.of(
        "records/s: packed / one at a time",
        ratios(seconds, "one at a time", "packed"),
        target=at_least(4),
        note=f"{len(cells)} cells × {len(items)} items, at most {sizes.hybrid_tokens} tokens, on average "
        f"{fmean(map(len, ours.values())):.1f}; up to {packed.batch_size} rows a batch; {equal:.1%} of completions "
        "equal token by token",
        seconds=seconds,
    )
