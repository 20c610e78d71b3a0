"""The price of a pick: what else it changes, as non-inferiority verdicts with stated margins.

Each line compares the pick with the unsteered model on the same items of a split `report`, as a difference that is
positive where the pick is better, with its paired 95% interval. Against a margin that was stated beforehand it is

    kept        the whole interval lies above -margin: not worse by as much as the margin
    lost        the whole interval lies below -margin: worse by more than the margin
    not shown   neither: more items would tell

| line | measured on | quantity | margin |
|---|---|---|---|
| instruction following | `instructions:1+2` | all constraints followed | 0.10 |
| arithmetic | `brevity:1` | accuracy | 0.10 |
| endless loops | all of these replies | not degenerate | 0.05 |
| language | all of these replies | in the prompt's language | 0.05 |
| refusals | `refusals` | requests declined that should be | 0.10 |
| perplexity | all of these replies | log-perplexity to the unsteered model | log 1.25 |
| reworded, role prompt, plain template | the tuned suite, asked otherwise | what of the gain stays | half of the gain |

The last three take the gain in the rule's objective: with each question put into other words around it, under a system
prompt that gives the model a role, and in the plain form without the chat template (of a loaded model alone). They
compare the gain there with the gain on the same items as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steerkit.analysis.choosing import Rule
from steerkit.analysis.outcomes import Outcomes, collect
from steerkit.analysis.run import Run
from steerkit.core.bootstrap import Estimate, Floats
from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_whole
from steerkit.engines.base import Decoding, Engine
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel
from steerkit.models.load import load_model
from steerkit.runs.cells import Cell
from steerkit.scoring.metrics import metrics, scorers_of
from steerkit.suites.suite import Suite
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.runner import Progress
from steerkit.sweeps.sweep import sweep
from steerkit.sweeps.tune_verdict import estimate

Outcome = Literal["kept", "lost", "not shown", "not measured"]

SUITES = ("instructions:1+2", "brevity:1", "refusals")
SHARE_OF_GAIN = 0.5
ROLE = "You are the captain of an old sailing ship, and you speak like one."
REWORDED = "I have been wondering about something and would like to hear from you. {prompt} Please tell me."
_NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Price:
    """What of the pick is measured beside its own suite: at most `limit` items of each suite, and the margins.

    Raises MisuseError for a limit below 2, and margins that are not positive.
    """

    limit: int = 64
    max_new_tokens: int = 128
    instructions: float = 0.1
    arithmetic: float = 0.1
    loops: float = 0.05
    language: float = 0.05
    refusals: float = 0.1
    perplexity: float = 1.25
    gain: float = SHARE_OF_GAIN

    def __post_init__(self) -> None:
        check_whole("the limit of the price", self.limit, 2)
        check_whole("the most tokens of a reply", self.max_new_tokens, 1)
        for name in ("instructions", "arithmetic", "loops", "language", "refusals", "gain"):
            if not 0 < getattr(self, name) <= 1:
                raise MisuseError(f"the margin of {name} is a share above 0, got {getattr(self, name)}")
        if not self.perplexity > 1:
            raise MisuseError(f"the margin of perplexity is a factor above 1, got {self.perplexity}")


@dataclass(frozen=True)
class PriceLine:
    """One line of the price: a difference that is positive where the pick is better, its margin, and the verdict."""

    name: str
    quantity: str
    unsteered: float
    picked: float
    change: Estimate
    margin: float

    @property
    def verdict(self) -> Outcome:
        """Whether the pick is not worse by as much as the margin; see the module."""
        if not self.change.n:
            return "not measured"
        if self.change.low > -self.margin:
            return "kept"
        return "lost" if self.change.high < -self.margin else "not shown"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data for JSON, what was not measured as null."""
        plain = {**asdict(self), "verdict": self.verdict}
        if not self.change.n:
            plain |= {"unsteered": None, "picked": None, "change": None}
        return plain


def measure_price(
    price: Price,
    engine: Engine,
    pick: Cell,
    rule: Rule,
    measurement: Measurement,
    out: Path,
    progress: Progress | None = None,
) -> list[PriceLine]:
    """Return the lines of the price of `pick`, measured in the folder `out`. Resumable, as `sweep` is."""
    cells = [Cell(), pick]
    scorers = ["language", *(["perplexity"] if isinstance(engine, TransformersEngine) else [])]
    runs = {}
    for name in SUITES:
        part = Measurement(
            name,
            "report",
            price.limit,
            Decoding(price.max_new_tokens),
            system=measurement.system,
            scorers=scorers,
        )
        runs[name] = sweep(engine, cells, part, out=out / name.replace(":", "-"), progress=progress)
    instructed, arithmetic, refused = (runs[name].outcomes for name in SUITES)
    together = collect(
        (record for run in runs.values() for record in run.records()),
        metrics(scorers_of(["degeneration", *scorers])),
    )
    lines = [
        _line("instruction following", instructed, "instructions_hard", pick, price.instructions),
        _line("arithmetic", arithmetic, "accuracy", pick, price.arithmetic),
        _line("endless loops", together, "degenerate", pick, price.loops),
        _line("language", together, "language_kept", pick, price.language),
        _line("refusals", refused, "abstention_recall", pick, price.refusals),
    ]
    if "perplexity" in scorers:
        lines.append(_perplexity(together, pick, price.perplexity))
    return [*lines, *_robustness(price, engine, cells, rule, measurement, out, progress)]


def _line(name: str, outcomes: Outcomes, metric: str, pick: Cell, margin: float) -> PriceLine:
    better = 1.0 if metrics()[metric].better == "higher" else -1.0
    return _compared(name, metrics()[metric].label, outcomes, outcomes.values[metric], pick, better, margin)


def _perplexity(outcomes: Outcomes, pick: Cell, factor: float) -> PriceLine:
    logs = np.log(outcomes.values["perplexity"])
    return _compared("perplexity", "log-perplexity", outcomes, logs, pick, -1.0, math.log(factor))


def _compared(
    name: str, quantity: str, outcomes: Outcomes, values: Floats, pick: Cell, better: float, margin: float
) -> PriceLine:
    """The line of `values` `[cell, item]` of two cells, `better` 1 where more of it is."""
    unsteered, picked = (values[outcomes.cells.index(cell.id)] for cell in (Cell(), pick))
    both = ~np.isnan(unsteered + picked)
    if not both.any():
        return PriceLine(name, quantity, math.nan, math.nan, _NOTHING, margin)
    change = estimate(better * (picked - unsteered), outcomes.groups)
    return PriceLine(
        name, quantity, float(unsteered[both].mean()), float(picked[both].mean()), change, margin
    )


def _robustness(
    price: Price,
    engine: Engine,
    cells: Sequence[Cell],
    rule: Rule,
    measurement: Measurement,
    out: Path,
    progress: Progress | None,
) -> Iterator[PriceLine]:
    """What of the gain in the objective stays where the same items are asked otherwise."""
    limit = price.limit if measurement.limit is None else min(price.limit, measurement.limit)
    plain = replace(measurement.on("report"), limit=limit)
    as_they_are = _gains(
        sweep(engine, cells, plain, out=out / "as-they-are", progress=progress), cells[1], rule
    )
    for name, other, asked in _variants(engine, plain):
        run = sweep(other, cells, asked, out=out / name.replace(" ", "-"), progress=progress)
        gains = _gains(run, cells[1], rule)
        items = [item for item in as_they_are if item in gains]
        groups = [run_group for _, run_group in (gains[item] for item in items)]
        before, after = (np.array([found[item][0] for item in items]) for found in (as_they_are, gains))
        margin = price.gain * max(float(before.mean()), 0.0) if items else 0.0
        change = estimate(after - before, groups) if items and margin else _NOTHING
        means = (float(before.mean()), float(after.mean())) if items else (math.nan, math.nan)
        yield PriceLine(name, f"gain in {rule.objective.metric.label}", *means, change, margin)


def _variants(engine: Engine, plain: Measurement) -> Iterable[tuple[str, Engine, Measurement]]:
    """(name, engine, measurement) of each other way to ask the same items."""
    suite = plain.whole
    reworded = tuple(replace(item, prompt=REWORDED.format(prompt=item.prompt)) for item in suite)
    yield "reworded", engine, replace(plain, suite=Suite(f"{suite.name} reworded", reworded, suite.scorers))
    system = ROLE if plain.system is None else f"{ROLE}\n\n{plain.system}"
    yield "role prompt", engine, replace(plain, system=system)
    model = engine.model
    if (
        isinstance(engine, TransformersEngine)
        and isinstance(model, LanguageModel)
        and model.tokenizer.chat_template
    ):
        tokenizer = copy.deepcopy(model.tokenizer)
        tokenizer.chat_template = None
        other = load_model(model.hf, tokenizer, markers=model.markers)
        yield "plain template", TransformersEngine(other, engine.batch_size, allow_mismatch=True), plain


def _gains(run: Run, pick: Cell, rule: Rule) -> dict[str, tuple[float, int]]:
    """The pick's gain in the objective over the unsteered model by item id, positive where better; and its group."""
    outcomes = run.outcomes
    values = outcomes.values[rule.objective.metric.name]
    sign = rule.objective.direction * (rule.objective.sign or 1.0)
    unsteered, picked = (values[outcomes.cells.index(cell.id)] for cell in (Cell(), pick))
    gains = sign * (picked - unsteered)
    return {
        name: (float(gain), int(group))
        for name, gain, group in zip(outcomes.items, gains, outcomes.groups, strict=True)
        if not math.isnan(gain)
    }
