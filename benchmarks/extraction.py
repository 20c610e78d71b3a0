"""Extraction against a bare forward pass over the same texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import steerkit as sk
from benchmarks.floor import bare_pass, unique_share, whole_text_batches
from benchmarks.measure import Seconds, ratios, take_turns
from benchmarks.rows import Row, at_most
from benchmarks.setting import Workbench
from steerkit.extraction.capture import capture

SETS = ("abstention", "brevity")
VARIANTS = ("extract", "capture", "capture, nothing shared")


def against_floor(bench: Workbench, name: str, variants: Sequence[str] = VARIANTS) -> Seconds:
    """Times of the floor and of variants of ours, by turns."""
    lm, pairs, texts = bench.lm, bench.pairs(name), bench.texts(name)
    batches = whole_text_batches(lm, texts)  # has run every text, so that nothing is cold
    work: dict[str, Callable[[], object]] = {
        "extract": lambda: sk.extract(lm, pairs),
        "capture": lambda: capture(lm, texts, "mean"),
        "capture, nothing shared": lambda: capture(lm, texts, "mean", share_prompts=False),
    }
    chosen = {"floor": lambda: bare_pass(lm, batches)} | {variant: work[variant] for variant in variants}
    return take_turns(chosen, bench.sizes.repeats, bench.wait, warm_up=False)


def run(bench: Workbench) -> Iterator[Row]:
    """One row a variant and set of pairs."""
    for name in SETS:
        share = unique_share(bench.texts(name))
        seconds = against_floor(bench, name)
        note = f"{share:.0%} of the tokens are unique, so the target is 1.10 × {share:.3f}"
        for variant in ("extract", "capture"):
            yield Row.of(
                f"{name}: {variant} / bare pass",
                ratios(seconds, variant, "floor"),
                target=at_most(1.10 * share),
                note=note,
                seconds={key: seconds[key] for key in (variant, "floor")},
            )
        yield Row.of(
            f"{name}: capture, nothing shared / bare pass",
            ratios(seconds, "capture, nothing shared", "floor"),
            target=at_most(1.05),
            seconds={key: seconds[key] for key in ("capture, nothing shared", "floor")},
        )
