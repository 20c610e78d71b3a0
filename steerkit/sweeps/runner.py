"""The runner: cells × items × samples as one lazy stream of requests, each completion scored on arrival."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from steerkit.core.errors import SteerkitError
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Completion, Engine, Request, UnmetScopes
from steerkit.interventions.readers import Reader
from steerkit.reading.reduction import PER_TOKEN, kept_of
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunWriter
from steerkit.runs.record import Record
from steerkit.scoring.metrics import Score, Scorer
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import split_of

CHUNK = 256  # completions that are scored together where a scorer needs the engine

Progress = Callable[[int, int], None]
Place = tuple[int, int, int]  # item number, cell number, sample: the key of a request


def run_sweep(
    engine: Engine,
    items: Sequence[SuiteItem],
    cells: Sequence[Cell],
    writer: RunWriter,
    scorers: Sequence[Scorer],
    *,
    readers: Sequence[Reader] = (),
    progress: Progress | None = None,
) -> None:
    """Complete, score and record every (cell, item, sample) that the run does not hold yet.

    Decoding, samples, system prompt and `readers` are those of the run's protocol. `items` and `cells` hold no repeats.
    Requests are made as the engine draws them, all samples and cells of an item in a row, because they share
    a prompt. Scorers that need the engine get chunks of 256 completions, which are recorded together. `progress` is
    called with the records there and those asked for. Raises SteerkitError where the engine returned too few
    completions.
    """
    total = len(items) * len(cells) * writer.protocol.samples
    done = total - sum(1 for _ in _missing(items, cells, writer))
    if progress is not None:
        progress(done, total)
    scopes = UnmetScopes(writer.protocol.markers)
    for completion, more in _completions(engine, _requests(items, cells, writer, readers), scorers):
        scopes.take(completion)
        i, c, sample = cast(Place, completion.request.key)
        scores = score_completion(items[i], completion, scorers) | more
        record = make_record(cells[c], items[i], sample, completion, scores)
        if (reading := writer.protocol.reading) is not None:
            if len(completion.readings) != len(readers):
                raise SteerkitError(
                    f"the {engine.name} engine reads no tokens: leave readers out, or take the transformers engine"
                )
            record = _with_readings(record, completion, reading, engine.model.renderer)
        writer.append(record)
        done += 1
        if progress is not None:
            progress(done, total)
    scopes.warn()
    if done < total:
        raise SteerkitError(
            f"the engine left {total - done} of {total} requests without a completion: run it again"
        )


def make_record(
    cell: Cell, item: SuiteItem, sample: int, completion: Completion, scores: dict[str, Score]
) -> Record:
    """Return one line of `records.jsonl`: all that statistics and report need, without the suite at hand."""
    return Record(
        cell=cell.id,
        item=item.id,
        sample=sample,
        split=split_of(item),
        group=item.group,
        should_abstain=item.should_abstain,
        answers=item.answers,
        kind=item.kind,
        prompt=item.prompt,
        completion=completion.text,
        tokens=completion.tokens,
        finish=completion.finish,
        scores=scores,
        gates=completion.gates,
        decisions=completion.decisions,
    )


def _with_readings(record: Record, completion: Completion, reading: str, renderer: Renderer) -> Record:
    """The record with what is kept of the readings, and the texts of the tokens where each has its own."""
    texts = renderer.pieces(completion.token_ids) if reading == PER_TOKEN else ()
    return replace(record, readings=kept_of(completion, reading), pieces=texts)


def _missing(items: Sequence[SuiteItem], cells: Sequence[Cell], writer: RunWriter) -> Iterator[Place]:
    """What is not recorded yet, item by item."""
    for i, item in enumerate(items):
        for sample in range(writer.protocol.samples):
            for c, cell in enumerate(cells):
                if (cell.id, item.id, sample) not in writer:
                    yield i, c, sample


def _requests(
    items: Sequence[SuiteItem], cells: Sequence[Cell], writer: RunWriter, readers: Sequence[Reader] = ()
) -> Iterator[Request]:
    protocol = writer.protocol
    for place in _missing(items, cells, writer):
        i, c, sample = place
        yield Request(
            items[i].prompt,
            cells[c].interventions,
            protocol.decoding,
            protocol.system,
            sample,
            key=place,
            readers=tuple(readers),
            reads_prompt=protocol.reading == "prompt-end",
        )


def _completions(
    engine: Engine, requests: Iterator[Request], scorers: Sequence[Scorer]
) -> Iterator[tuple[Completion, dict[str, Score]]]:
    """Completions with the scores that need the engine.

    Those are computed between two runs of the engine, never inside one, where its rows are half done.
    """
    asking = [scorer for scorer in scorers if scorer.needs == "engine"]
    if not asking:
        yield from ((completion, {}) for completion in engine.generate(requests))
        return
    while chunk := list(itertools.islice(requests, CHUNK)):
        completions = list(engine.generate(chunk))
        given = [scorer(engine, completions) for scorer in asking]
        for place, completion in enumerate(completions):
            yield completion, {name: score for scores in given for name, score in scores[place].items()}
