"""A deterministic stand-in for a model: what it says depends on prompt, steerings and sample alone."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest, steerings_of
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.runs.protocol import Environment, Protocol
from steerkit.runs.record import Record
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import split_of

SCORERS = ("abstention", "answers", "lengths", "degeneration")

ABSTENTIONS = (
    "I don't know. There is no reliable record of that.",
    "I'm not sure: the question leaves out what I would need to answer it.",
    "That cannot be known yet, so I can't say.",
)


class SyntheticEngine:
    """Abstains more often the stronger a vector is applied; a random one only lengthens a bit.

    `delay` is the seconds that each completion takes; completions come out of order within `window`.
    """

    def __init__(self, delay: float = 0.0, window: int = 1) -> None:
        self.delay = delay
        self.window = window
        self.drawn = 0

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting: list[Request] = []
        for request in requests:
            self.drawn += 1
            waiting.append(request)
            if len(waiting) == self.window:
                yield from map(self._complete, reversed(waiting))
                waiting.clear()
        yield from map(self._complete, reversed(waiting))

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        return [ContinuationScore(r, tuple(-1.0 for _ in r.continuation.split())) for r in requests]

    def _complete(self, request: Request) -> Completion:
        time.sleep(self.delay)
        fixed = random.Random(hashlib.sha256(str(request.prompt).encode()).digest())
        content = [str(request.prompt), request.sample, *(each.digest for each in request.interventions)]
        rng = random.Random(hashlib.sha256(repr(content).encode()).digest())
        push = length = 0.0
        for steering in steerings_of(request.interventions):
            real = not steering.vector.name.startswith("random")
            peak = 1.0 - abs(steering.layers[0] - 6) / 12
            push += steering.strength * peak * (0.35 if real else 0.03)
            length += abs(steering.strength) * (1.0 if real else 0.5)
        unanswerable = "unknown" in str(request.prompt)
        threshold = fixed.random() * (1.0 if unanswerable else 1.6)
        if threshold + rng.gauss(0, 0.03) < 0.3 + push:
            text = fixed.choice(ABSTENTIONS)
        else:
            text = f"The answer is {'seven' if fixed.random() < 0.6 else 'twelve'}."
        words = text.split() + ["indeed"] * int(6 * length * rng.random())
        finish = "length" if len(words) >= 24 else "stop"
        words = words[:24]
        return Completion(request, " ".join(words), tuple(range(len(words))), finish, 10)


def vector(name: str = "abstain", n_layers: int = 12, seed: int = 1) -> SteeringVector:
    """A vector of width 4."""
    metadata = VectorMetadata(
        name=name, model="synthetic", fingerprint="synthetic:0", method="mean_difference", aggregation="last"
    )
    return SteeringVector(torch.randn(n_layers, 4, generator=torch.Generator().manual_seed(seed)), metadata)


def items(n: int) -> list[SuiteItem]:
    """`n` items, twins of an unanswerable and an answerable question."""
    made = []
    for i in range(n):
        unanswerable = i % 2 == 0
        made.append(
            SuiteItem(
                id=f"item-{i:05d}",
                prompt=f"How many {'unknown ' if unanswerable else ''}boats lie in harbour {i // 2}?",
                should_abstain=unanswerable,
                answers=None if unanswerable else ("seven", "7"),
                twin=f"item-{i ^ 1:05d}" if i ^ 1 < n else None,
            )
        )
    return made


def protocol(**changed: object) -> Protocol:
    """A protocol with some fields changed."""
    fields: dict[str, object] = {
        "suite": "boats",
        "suite_digest": "ab" * 32,
        "split": "choose",
        "model": "synthetic",
        "fingerprint": "synthetic:0",
        "template_digest": "cd" * 32,
        "dtype": "float32",
        "scorers": SCORERS,
    }
    return Protocol(**(fields | changed))


def environment(**changed: object) -> Environment:
    """An environment that does not depend on what is installed."""
    fields: dict[str, object] = {"versions": {"steerkit": "0.1.0", "torch": "2.13.0"}, "batch_size": 8}
    return Environment(**(fields | changed))


def grid(layers: Iterable[int] = (6,), strengths: Iterable[float] = (1.0,)) -> list[Cell]:
    """The unsteered cell, and one vector at each layer and strength, each with its random control."""
    v = vector()
    steered = [
        (Cell((v.at(layer, strength),)), Cell((v.random_control().at(layer, strength),), v.name))
        for layer in layers
        for strength in strengths
    ]
    return [Cell(), *(cell for pair in steered for cell in pair)]


def record(cell: Cell, item: SuiteItem, completion: Completion, sample: int = 0) -> Record:
    """The record of a completion of the item under the cell."""
    scores = score_completion(item, completion, SCORERS)
    about = cell.id, item.id, sample, split_of(item), item.group, item.should_abstain, item.answers, item.kind
    said = completion.text, completion.tokens, completion.finish
    return Record(*about, item.prompt, *said, scores, completion.gates)


def write_run(path: Path, cells: Sequence[Cell], suite: Sequence[SuiteItem]) -> RunDirectory:
    """A run of the synthetic engine: every cell on every item."""
    requests = [
        Request(item.prompt, cell.interventions, key=(cell, item)) for item in suite for cell in cells
    ]
    with RunWriter(path, protocol(), environment(), cells) as writer:
        for completion in SyntheticEngine().generate(requests):
            writer.append(record(*completion.request.key, completion))
    return RunDirectory(path)
