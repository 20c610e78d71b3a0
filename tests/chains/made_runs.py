"""Runs on disk whose completions are written here, not sampled: the tiny model speaks in random bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.runs.protocol import Environment
from steerkit.suites.items import SuiteItem
from steerkit.sweeps.grid import Cell, decoration_digests, vector_digests
from steerkit.sweeps.runner import run_sweep
from tests.chains.protocol import protocol

Said = Callable[[Request], str]


class Scripted:
    """Says what it is told to."""

    def __init__(self, said: Said) -> None:
        self._said = said

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            text = self._said(request)
            yield Completion(request, text, tuple(range(len(text.split()))), "stop", 1)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        raise NotImplementedError


def made_run(
    folder: Path, lm: LanguageModel, items: Sequence[SuiteItem], cells: Sequence[Cell], said: Said
) -> RunDirectory:
    """A finished run of these cells and items."""
    vectors, decorations = vector_digests(cells), decoration_digests(cells)
    asked = protocol(lm, vectors=vectors, decorations=decorations)
    with RunWriter(folder, asked, Environment({"steerkit": "0.1.0"})) as writer:
        run_sweep(Scripted(said), items, cells, writer)
    return RunDirectory(folder)


def problems(n: int) -> list[SuiteItem]:
    """Sums with one answer each."""
    return [SuiteItem(f"sum-{i}", f"What is {i} + 1?", False, (str(i + 1),), "number") for i in range(n)]


def worked_out(request: Request) -> str:
    """A chain and the right answer to one of `problems`."""
    i = int(str(request.prompt).split()[2])
    return f"We have {i}.\nWe add 1.\n{i} + 1 = {i + 1}.\nThe answer is {i + 1}."
