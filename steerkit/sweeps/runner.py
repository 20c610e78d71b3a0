"""The sweep: cells × items × samples as one lazy stream of requests, each completion scored on arrival."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Completion, Engine, Request
from steerkit.runs.directory import Record, RunWriter
from steerkit.scoring.metrics import Scores
from steerkit.scoring.perplexity import perplexity as perplexities
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import split_of
from steerkit.sweeps.grid import Cell

PERPLEXITY_CHUNK = 256

Progress = Callable[[int, int], None]
Place = tuple[int, int, int]  # item number, cell number, sample: the key of a request


def run_sweep(
    engine: Engine,
    items: Sequence[SuiteItem],
    cells: Sequence[Cell],
    writer: RunWriter,
    *,
    perplexity: bool = False,
    progress: Progress | None = None,
) -> None:
    """Complete, score and record every (cell, item, sample) that the run does not hold yet.

    Decoding, samples and system prompt are those of the run's protocol. `items` and `cells` hold no repeats.
    Requests are made as the engine draws them, all samples and cells of an item in a row, because they share
    a prompt. With `perplexity`, each completion's perplexity under the unsteered model (in units of 1 per
    token) is scored too, in chunks of 256 completions that are recorded together. `progress` is called with
    the records there and those asked for. Raises SteerkitError where the engine returned too few completions.
    """
    total = len(items) * len(cells) * writer.protocol.samples
    done = total - sum(1 for _ in _missing(items, cells, writer))
    if progress is not None:
        progress(done, total)
    for completion, more_scores in _scored(engine, _requests(items, cells, writer), perplexity):
        i, c, sample = cast(Place, completion.request.key)
        scores = score_completion(items[i], completion) | dict(more_scores) | _gate_scores(completion)
        writer.append(make_record(cells[c], items[i], sample, completion, scores))
        done += 1
        if progress is not None:
            progress(done, total)
    if done < total:
        raise SteerkitError(
            f"the engine left {total - done} of {total} requests without a completion: run it again"
        )


def make_record(
    cell: Cell, item: SuiteItem, sample: int, completion: Completion, scores: dict[str, Any]
) -> Record:
    """One line of `records.jsonl`: all that statistics and report need, without the suite at hand."""
    return {
        **cell.fields(),
        "item": item.id,
        "sample": sample,
        "split": split_of(item),
        "group": item.group,
        "should_abstain": item.should_abstain,
        "answers": item.answers,
        "prompt": item.prompt,
        "completion": completion.text,
        "tokens": completion.tokens,
        "finish": completion.finish,
        "scores": scores,
    }


def _gate_scores(completion: Completion) -> dict[str, float]:
    """What the first probe gate read, where there is one."""
    read = completion.gate_probabilities
    return {"gate_probability": read[0]} if read else {}


def _missing(items: Sequence[SuiteItem], cells: Sequence[Cell], writer: RunWriter) -> Iterator[Place]:
    """What is not recorded yet, item by item."""
    for i, item in enumerate(items):
        for sample in range(writer.protocol.samples):
            for c, cell in enumerate(cells):
                if (cell.id, item.id, sample) not in writer:
                    yield i, c, sample


def _requests(items: Sequence[SuiteItem], cells: Sequence[Cell], writer: RunWriter) -> Iterator[Request]:
    protocol = writer.protocol
    for place in _missing(items, cells, writer):
        i, c, sample = place
        yield Request(
            items[i].prompt,
            cells[c].steerings,
            protocol.decoding,
            protocol.system,
            sample,
            key=place,
            decoration=cells[c].decoration,
        )


def _scored(
    engine: Engine, requests: Iterator[Request], perplexity: bool
) -> Iterator[tuple[Completion, Scores]]:
    """Completions with the scores that need a model.

    Those are computed between two runs of the engine, never inside one, where its rows are half done.
    """
    if not perplexity:
        yield from ((completion, {}) for completion in engine.generate(requests))
        return
    while chunk := list(itertools.islice(requests, PERPLEXITY_CHUNK)):
        completions = list(engine.generate(chunk))
        yield from zip(completions, perplexities(engine, completions), strict=True)
