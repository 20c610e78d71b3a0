"""What could stand inside the engine, measured before deciding: drafts from neighbouring cells, and transformers'
own continuous batching.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

import steerkit as sk
from benchmarks.floor import dense_prefill
from benchmarks.measure import Seconds, ratios, take_turns
from benchmarks.rows import Row
from benchmarks.setting import Workbench
from benchmarks.sweep import packed
from steerkit.sweeps.grid import Cell

DRAFT = 4  # tokens that one pass verifies
PROMPT_TOKENS = 40
CACHE_SHARE = 0.05  # of memory, for the paged cache


def run(bench: Workbench) -> Iterator[Row]:
    """Rows without targets: they justify a choice."""
    yield from drafts(bench)
    yield from continuous_batching(bench)


def drafts(bench: Workbench) -> Iterator[Row]:
    """What a pass over several tokens a row costs against one token, and how much of a draft would be kept."""
    for rows in bench.sizes.dense_batches:
        state = dense_prefill(bench.lm, rows, PROMPT_TOKENS)
        seconds = take_turns(
            {
                "one token": partial(_one_pass, bench.lm, state, 1),
                "a draft": partial(_one_pass, bench.lm, state, DRAFT),
            },
            bench.sizes.repeats,
            bench.wait,
        )
        yield Row.of(
            f"a pass that verifies {DRAFT} tokens / a decoding step, {rows} rows",
            ratios(seconds, "a draft", "one token"),
            note=f"drafts could pay where this is below the tokens kept a pass, at most {DRAFT}",
            seconds=seconds,
        )
    strengths = sorted(bench.sizes.strengths)
    items = bench.items(bench.sizes.growing_items)
    layer = bench.spaced_layers(2)[-1]
    cells = [Cell((bench.vector.at(layer, strength),)) for strength in strengths]
    _, completions = packed(bench, items, cells, bench.sizes.max_new_tokens)
    kept = [
        tokens_a_pass(completions[i, c], completions[i, d])
        for i in range(len(items))
        for c, d in pairwise(range(len(cells)))
    ]
    yield Row.of(
        f"tokens kept a pass when the neighbouring strength's completion drafts {DRAFT - 1}",
        kept,
        unit="",
        note=f"layer {layer}, {len(items)} items, strengths {strengths}; on average {fmean(kept):.2f}",
    )


def tokens_a_pass(draft: Sequence[int], wanted: Sequence[int]) -> float:
    """Tokens of `wanted` that each verifying pass yields, the draft read on from the same place after a miss."""
    done, passes = 0, 0
    while done < len(wanted):
        agreed = 0
        while agreed < DRAFT - 1 and done + agreed < min(len(draft), len(wanted)):
            if draft[done + agreed] != wanted[done + agreed]:
                break
            agreed += 1
        done += agreed + 1
        passes += 1
    return min(done, len(wanted)) / max(1, passes)


@torch.inference_mode()
def _one_pass(lm: sk.LanguageModel, state: dict[str, Any], tokens: int) -> None:
    """Run so many tokens a row behind the prompts, and forget them."""
    ids = state["input_ids"].repeat(1, tokens)
    cache = state["past_key_values"]
    lm.hf(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.crop(-tokens)


def continuous_batching(bench: Workbench) -> Iterator[Row]:
    """`generate_batch` with a hook, beside our engine, on the same unsteered prompts; or why it does not run."""
    lm, tokens = bench.lm, bench.sizes.max_new_tokens
    items = bench.items(bench.sizes.items)
    ids = [lm.renderer.encode_prompt(item.prompt) for item in items]
    config = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=list(lm.stop_ids), pad_token_id=lm.pad_id
    )
    # Left to itself it fills most of the machine's memory with zeros before it begins.
    paged = ContinuousBatchingConfig(max_memory_percent=CACHE_SHARE)
    shapes: set[tuple[int, ...]] = set()

    def see(_block: Any, _args: Any, output: Any) -> None:
        shapes.add(tuple((output if isinstance(output, Tensor) else output[0]).shape[:1]))

    def theirs() -> None:
        handle = lm.blocks[lm.n_layers // 2].register_forward_hook(see)
        try:
            done = lm.hf.generate_batch(
                inputs=ids, generation_config=config, continuous_batching_config=paged
            )
        finally:
            handle.remove()
        if len(done) != len(ids):
            raise RuntimeError(f"{len(done)} of {len(ids)} requests came back")

    def ours() -> None:
        list(
            sk.TransformersEngine(lm).generate(
                sk.Request(item.prompt, decoding=sk.Decoding(tokens)) for item in items
            )
        )

    what = "transformers' generate_batch / our engine, unsteered"
    before = lm.hf.config._attn_implementation
    try:
        seconds: Seconds = take_turns(
            {"theirs": theirs, "ours": ours}, min(3, bench.sizes.repeats), bench.wait
        )
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        first = (str(error).strip() or "no message").splitlines()[0]
        yield Row(what, note=f"does not run here: {type(error).__name__}: {first}")
        return
    finally:
        lm.hf.set_attn_implementation(before)
    yield Row.of(
        what,
        ratios(seconds, "theirs", "ours"),
        note=f"{len(items)} prompts, at most {tokens} tokens; a hook sees batches of {sorted(shapes)} rows: all "
        "requests of a step in one row, which only its scheduler can tell apart",
        seconds=seconds,
    )
