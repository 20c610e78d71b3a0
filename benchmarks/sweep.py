"""A sweep's decoding against the loop written by hand, and against a dense batch.

The whole grid is run in every turn by the engine, and a part of it by hand: each cell is run by hand once, spread
over the turns, and a few single items are run one at a time. Scoring and writing are left out on all sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import TypeVar

import steerkit as sk
from benchmarks.by_hand import Produced, generate_cell
from benchmarks.floor import dense_decoding, dense_prefill
from benchmarks.measure import Seconds, seconds_of
from benchmarks.rows import Row, at_least
from benchmarks.setting import Workbench
from steerkit.suites.items import SuiteItem

Made = TypeVar("Made")
STRIDE = 7  # between the records that are run one at a time, so that they come from many cells and items


def grid_requests(
    items: Sequence[SuiteItem], cells: Sequence[sk.Cell], max_new_tokens: int
) -> Iterator[sk.Request]:
    """The requests of a sweep, in the order in which `run_sweep` makes them: all cells of an item in a row."""
    decoding = sk.Decoding(max_new_tokens)
    for i, item in enumerate(items):
        for c, cell in enumerate(cells):
            yield sk.Request(item.prompt, cell.interventions, decoding, key=(i, c))


def packed(
    bench: Workbench, items: Sequence[SuiteItem], cells: Sequence[sk.Cell], max_new_tokens: int
) -> tuple[Produced, dict[tuple[int, int], tuple[int, ...]]]:
    """The grid in the engine's stream of rows, with the completions by (item, cell)."""
    engine = sk.TransformersEngine(bench.lm)
    done = list(engine.generate(grid_requests(items, cells, max_new_tokens)))
    decoded = sum(completion.tokens + (completion.finish == "stop") for completion in done)
    return Produced(len(done), decoded), {c.request.key: c.token_ids for c in done}  # type: ignore[misc]


def run(bench: Workbench) -> Iterator[Row]:
    """Records a second against both loops by hand, and tokens a second against the dense batch."""
    sizes, lm = bench.sizes, bench.lm
    items = bench.items(sizes.items)
    prompts = [lm.renderer.render(item.prompt) for item in items]
    layers = bench.spaced_layers(sizes.layers)
    cells = sk.Grid(bench.vector, layers, sizes.strengths, control_strengths=()).cells()
    seconds: Seconds = {"packed": [], "batched by hand": [], "one at a time": [], "dense": []}
    rates: dict[str, list[float]] = {"batched": [], "single": [], "dense": []}
    equal: list[bool] = []
    dense_rows, dense = _best_dense_batch(bench, prompts)

    def timed(name: str, work: Callable[[], Made]) -> tuple[Made, float]:
        made: list[Made] = []
        seconds[name].append(seconds_of(lambda: made.append(work()), bench.wait))
        return made[0], seconds[name][-1]

    generate_cell(lm, cells[0], prompts[:2], 2, 2)  # warm
    for turn in range(sizes.repeats):
        (ours, completions), own = timed("packed", lambda: packed(bench, items, cells, sizes.max_new_tokens))

        share = range(turn, len(cells), sizes.repeats)
        part, took = timed("batched by hand", partial(_cells_by_hand, bench, cells, share, prompts))
        rates["batched"].append((ours.records / own) / (part.records / took))
        expected = [completions[i, c] for c in share for i in range(len(items))]
        equal += [a == b for a, b in zip(part.completions, expected, strict=True)]

        picked = [(turn * sizes.singles + k) * STRIDE for k in range(sizes.singles)]
        alone, took = timed("one at a time", partial(_singles_by_hand, bench, cells, picked, prompts))
        # A few records are longer or shorter than all: by the token they stand for all.
        rates["single"].append((ours.decoded / own) / (alone.decoded / took))

        seconds["dense"].append(dense())
        rates["dense"].append(
            (ours.decoded / own) / (dense_rows * sizes.max_new_tokens / seconds["dense"][-1])
        )

    length = fmean(len(tokens) for tokens in completions.values())
    grid = f"{len(cells)} cells × {len(items)} items, at most {sizes.max_new_tokens} tokens, on average {length:.1f}"
    yield Row.of(
        "records/s: packed / by hand, items batched",
        rates["batched"],
        target=at_least(2.8),
        note=f"{grid}; {len(items)} rows a batch by hand; {fmean(equal):.1%} of completions equal token by token",
        seconds={name: seconds[name] for name in ("packed", "batched by hand")},
    )
    yield Row.of(
        "records/s: packed / by hand, one item at a time",
        rates["single"],
        target=at_least(16),
        note=f"extrapolated by decoded tokens from {sizes.singles} records a turn",
        seconds={name: seconds[name] for name in ("packed", "one at a time")},
    )
    yield Row.of(
        "tokens/s: packed / dense unsteered batch",
        rates["dense"],
        target=at_least(0.85),
        note=f"dense: {dense_rows} rows (the best of {', '.join(map(str, sizes.dense_batches))}), all of equal "
        "length, decoding only; packed: prompts included",
        seconds={name: seconds[name] for name in ("packed", "dense")},
    )


def _cells_by_hand(
    bench: Workbench, cells: Sequence[sk.Cell], which: Sequence[int], prompts: Sequence[str]
) -> Produced:
    parts = [
        generate_cell(bench.lm, cells[c], prompts, bench.sizes.max_new_tokens, len(prompts)) for c in which
    ]
    return _sum(parts)


def _singles_by_hand(
    bench: Workbench, cells: Sequence[sk.Cell], picked: Sequence[int], prompts: Sequence[str]
) -> Produced:
    parts = [
        generate_cell(
            bench.lm, cells[k % len(cells)], [prompts[k % len(prompts)]], bench.sizes.max_new_tokens, 1
        )
        for k in picked
    ]
    return _sum(parts)


def _sum(parts: Sequence[Produced]) -> Produced:
    return Produced(
        sum(part.records for part in parts),
        sum(part.decoded for part in parts),
        tuple(tokens for part in parts for tokens in part.completions),
    )


def _best_dense_batch(bench: Workbench, prompts: Sequence[str]) -> tuple[int, Callable[[], float]]:
    """The batch size with the most tokens a second, and what times its decoding once."""
    lm, tokens = bench.lm, bench.sizes.max_new_tokens
    length = round(fmean(len(lm.renderer.encode(prompt)) for prompt in prompts))

    def timed(rows: int) -> float:
        state = dense_prefill(lm, rows, length)
        return seconds_of(lambda: dense_decoding(lm, state, tokens), bench.wait)

    best = min(bench.sizes.dense_batches, key=lambda rows: min(timed(rows), timed(rows)) / rows)
    return best, lambda: timed(best)
