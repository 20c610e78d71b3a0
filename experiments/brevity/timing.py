"""Wall-clock: the chosen cell against the unsteered model, in turns, each on the same problems and batch size.

The turns alternate, and each begins with the other one, so that a machine that grows slower or faster favours neither.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import steerkit as sk
from steerkit.core.files import replacing
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Decoding, Request
from steerkit.runs.cells import Cell

PLAIN, STEERED = "unsteered", "steered"


@dataclass(frozen=True)
class Turn:
    """Seconds and completion tokens of one pass over all problems, by `PLAIN` and `STEERED`."""

    seconds: Mapping[str, float]
    tokens: Mapping[str, int]

    @property
    def gain(self) -> float:
        """How many times as long the unsteered model takes."""
        return self.seconds[PLAIN] / self.seconds[STEERED]

    @property
    def token_ratio(self) -> float:
        """How many times as many tokens it writes."""
        return self.tokens[PLAIN] / self.tokens[STEERED]


@dataclass(frozen=True)
class Timing:
    """All turns, and what was timed."""

    cell: str
    problems: int
    batch_size: int
    threads: int
    turns: tuple[Turn, ...]

    @property
    def gain(self) -> float:
        """The median turn's."""
        return median(turn.gain for turn in self.turns)

    @property
    def token_ratio(self) -> float:
        """The same in every turn, but for a tie of two logits."""
        return median(turn.token_ratio for turn in self.turns)

    @property
    def share(self) -> float:
        """What of the tokens' saving arrives as time saved: 1 where both ratios are equal."""
        return self.gain / self.token_ratio


def timed(
    lm: sk.LanguageModel,
    cell: Cell,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    turns: int,
    batch_size: int,
    threads: int,
    path: Path,
) -> Timing:
    """The timing in the file at `path`, taken where there is none of this cell."""
    if path.is_file():
        there = _read(path)
        if there.cell == cell.id:
            return there
    programs = {PLAIN: Cell(), STEERED: cell}
    for warm_up in programs.values():
        _pass(lm, warm_up, prompts[:2], decoding, batch_size)
    taken = []
    for turn in range(turns):
        order = list(programs) if turn % 2 == 0 else list(reversed(programs))
        passes = {name: _pass(lm, programs[name], prompts, decoding, batch_size) for name in order}
        taken.append(
            Turn({name: passes[name][0] for name in programs}, {name: passes[name][1] for name in programs})
        )
    timing = Timing(cell.id, len(prompts), batch_size, threads, tuple(taken))
    with replacing(path, "the timing") as scratch:
        scratch.write_text(json.dumps(asdict(timing), indent=1), encoding="utf-8")
    return timing


def _pass(
    lm: sk.LanguageModel, cell: Cell, prompts: Sequence[Prompt], decoding: Decoding, batch_size: int
) -> tuple[float, int]:
    """Seconds and tokens of completing every prompt."""
    requests = [Request(prompt, cell.interventions, decoding, key=i) for i, prompt in enumerate(prompts)]
    engine = sk.TransformersEngine(lm, batch_size)
    started = time.perf_counter()
    tokens = sum(completion.tokens for completion in engine.generate(requests))
    return time.perf_counter() - started, tokens


def _read(path: Path) -> Timing:
    found = json.loads(path.read_text(encoding="utf-8"))
    turns = tuple(Turn(**turn) for turn in found.pop("turns"))
    return Timing(**found, turns=turns)
