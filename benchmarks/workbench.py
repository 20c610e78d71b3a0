"""`workbench`: thirty cells of one prompt beside the longest of them alone, and a run of 5,000 records that is opened.

The cells are written as the tab Grid writes them: by the scheduler's streams, all at once, looked at a few times a
second. The run is opened, drawn and filtered as the tab Runs does.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import steerkit as sk
from benchmarks.measure import ratios, seconds_of, take_turns
from benchmarks.rows import Row, at_most
from benchmarks.setting import Workbench
from steerkit.engines.transformers.session import Session
from steerkit.report.chart import trade_off_chart
from steerkit.report.side_by_side import filtered
from steerkit.runs.directory import RunWriter
from steerkit.runs.protocol import Environment, Protocol
from steerkit.scoring.score import score_completion
from steerkit.serving.scheduler import Scheduler
from steerkit.serving.workbench.opened import OpenRun
from steerkit.serving.workbench.streams import Written, write

SCORERS = ("abstention", "answers", "lengths", "degeneration")
OPENED_STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SAID = ("I don't know: there is no record of that.", "It is seven.", "It is twelve, as far as I can tell.")


def run(bench: Workbench) -> Iterator[Row]:
    """The grid's cells together and the longest alone, in turns; then the run."""
    sizes = bench.sizes
    layers, strengths = bench.spaced_layers(sizes.grid_layers), sizes.grid_strengths
    prompt = bench.items(4)[0].prompt
    decoding = sk.Decoding(sizes.max_new_tokens)
    cells = {
        (layer, strength): sk.Request(prompt, (bench.vector.at(layer, strength),), decoding)
        for layer in layers
        for strength in strengths
    }
    with Scheduler(Session(sk.TransformersEngine(bench.lm))) as scheduler:
        written = together(scheduler, cells)
        longest = max(cells, key=lambda place: len(written[place].token_ids))
        variants = {
            "all cells": partial(together, scheduler, cells),
            "the longest": partial(together, scheduler, {longest: cells[longest]}),
        }
        seconds = take_turns(variants, sizes.repeats, bench.wait)
    yield Row.of(
        f"workbench, {len(cells)} cells of one prompt / the longest of them alone",
        ratios(seconds, "all cells", "the longest"),
        target=at_most(5.0),
        note=f"{sum(len(each.token_ids) for each in written.values())} tokens; "
        f"the longest has {len(written[longest].token_ids)}",
        seconds=seconds,
    )
    yield from opening(bench)


def together(scheduler: Scheduler, requests: Mapping[Any, sk.Request]) -> Mapping[Any, Written]:
    """Write all requests at once; what was written, once all is."""

    async def all_written() -> Mapping[Any, Written]:
        last: Mapping[Any, Written] = {}
        async for written in write(scheduler, requests):
            last = written
        return last

    return asyncio.run(all_written())


def opening(bench: Workbench) -> Iterator[Row]:
    """Seconds until a run is open and drawn, and until a cell of it is filtered the first time and again."""
    with tempfile.TemporaryDirectory() as scratch:
        records = written_run(bench, Path(scratch))
        run: OpenRun | None = None
        opened, first, again = [], [], []

        def open_and_draw() -> None:
            nonlocal run
            run = OpenRun(Path(scratch))
            trade_off_chart(run.rows, run.run.questions[0])

        for _ in range(bench.sizes.repeats):
            opened.append(seconds_of(open_and_draw))
            assert run is not None
            show = partial(_changed, run, run.rows[-1].cell)
            first.append(seconds_of(show))
            again.append(seconds_of(show))
    for what, seconds in (
        ("opened and drawn", opened),
        ("a cell filtered", first),
        ("filtered again", again),
    ):
        yield Row.of(
            f"workbench, a run of {records} records: {what}", seconds, unit="s", seconds={"": seconds}
        )


def _changed(run: OpenRun, cell: str) -> None:
    filtered(run.beside(cell), "verdict", containing="how")


def written_run(bench: Workbench, folder: Path) -> int:
    """Write a run of made-up completions: every cell on every item; how many records it has."""
    items = bench.items(bench.sizes.opened_items)
    vector = bench.vector
    places = [(layer, strength) for layer in range(bench.sizes.grid_layers) for strength in OPENED_STRENGTHS]
    cells = [sk.Cell(), *(sk.Cell((vector.at(*place),)) for place in places)]
    asked = Protocol("made-up", "0" * 64, "choose", bench.lm.name, bench.lm.fingerprint, "0" * 64, "float32")
    count = 0
    with RunWriter(folder, replace(asked, scorers=SCORERS), Environment({}), cells) as writer:
        for place, item in enumerate(items):
            for number, cell in enumerate(cells):
                text = SAID[(place * 7 + number * number) % len(SAID)]
                request = sk.Request(item.prompt, cell.interventions)
                done = sk.Completion(request, text, tuple(range(len(text.split()))), "stop", 10)
                about = (
                    cell.id,
                    item.id,
                    0,
                    "choose",
                    item.group,
                    item.should_abstain,
                    item.answers,
                    item.kind,
                )
                scores = score_completion(item, done, SCORERS)
                writer.append(sk.Record(*about, item.prompt, text, done.tokens, "stop", scores))
                count += 1
    return count
