"""What is measured: scorers, the metrics that their scores are averaged to, and the questions that these answer.

    @scorer("shouting", metrics=[Metric("capitals", "share of capital letters", "lower")])
    def shouting(item: SuiteItem, completion: Completion) -> Mapping[str, Score]:
        text = completion.text
        return {"capitals": sum(map(str.isupper, text)) / max(1, len(text))}

That is all: the scores stand in the records, and tables, CSV, plots, `--choose` and the report take the metrics from
here. A *score* is a flat value of one completion, a *metric* is what is averaged over items, and a *question* is a
trade-off of two metrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from steerkit.core.errors import MisuseError
from steerkit.core.registry import SCORERS, summary_of

if TYPE_CHECKING:  # heavy, and not needed to declare anything
    from steerkit.runs.record import Record

Score = bool | int | float | None
Scores = Mapping[str, Score]
Needs = Literal["text", "tokens", "engine", "run"]

_NAME = re.compile(r"[A-Za-z][A-Za-z_]*")  # what the rules of `--choose` can be written with


@dataclass(frozen=True)
class Metric:
    """A quantity that is averaged over items. Raises MisuseError for a name that is not letters and underscores.

    `label` is its name for readers, `header` a shorter one for the head of a column. `unit` says how it is written,
    and that a share is bounded by 1. `show`: `main` metrics have intervals in the table, `side` ones are its side
    effects, `hidden` ones stand in the CSV alone.

    Its value in a record is the score of the name `score` (by default the metric's own), for the items that it
    `concerns`; or what `measure` gives, None where it does not concern the record. With `compare` it is a metric of
    twins instead: what that gives for the two records of a group under one cell and sample, in the order of
    `in_order`; None where it does not concern them. A share is `graded` where the value of one completion is not yes or
    no but a share itself: no exact test counts it (`steerkit.analysis.guarantees`).
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    header: str = ""
    unit: Literal["share", "tokens", "number"] = "share"
    concerns: Literal["all", "answerable", "unanswerable"] = "all"
    score: str = ""
    measure: Callable[[Record], float | None] | None = None
    compare: Callable[[Record, Record], float | None] | None = None
    show: Literal["main", "side", "hidden"] = "side"
    graded: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise MisuseError(f"{self.name!r} is no name for a metric: use letters and underscores")
        object.__setattr__(self, "header", self.header or self.label)

    def of(self, record: Record) -> float | None:
        """Its value in one record; None for a record that it does not concern, and for a metric of twins."""
        if self.compare is not None:
            return None
        if self.measure is not None:
            return self.measure(record)
        if self.concerns != "all" and record.should_abstain is not (self.concerns == "unanswerable"):
            return None
        return record.scores.get(self.score or self.name)


def in_order(first: Record, second: Record) -> tuple[Record, Record]:
    """Two twins as `Metric.compare` takes them: the answerable one first, of two such the first by its item's id."""
    one, other = sorted((first, second), key=lambda record: (bool(record.should_abstain), record.item))
    return one, other


@dataclass(frozen=True)
class Question:
    """What is traded for what: metric `y` against metric `x`, with `metrics` as the headline.

    The best cell is best in `objective` within `bounds` (see `steerkit.analysis.choosing.choose_cell`); `rule` says
    so in words.
    """

    name: str
    title: str
    y: str
    x: str
    metrics: tuple[str, ...]
    objective: str
    bounds: Mapping[str, float]
    rule: str


@dataclass(frozen=True)
class Scorer:
    """A function that scores completions, and what its scores mean. Calling it calls the function.

    `needs` says what the function reads: `text` and `tokens` are functions of (item, completion), the first of which
    can score a text without its tokens; `engine` ones are functions of (engine, completions) that give the scores of
    each completion, in order; `run` ones are asked by a verb of their own once a run is there, and no sweep can.
    """

    name: str
    function: Callable[..., Any]
    metrics: tuple[Metric, ...]
    questions: tuple[Question, ...] = ()
    needs: Needs = "text"

    @property
    def doc(self) -> str:
        """What the function says of itself, in a line."""
        return summary_of(self.function)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __repr__(self) -> str:
        return f"Scorer({self.name}: {', '.join(metric.name for metric in self.metrics)})"


def scorer(
    name: str, *, metrics: Sequence[Metric], questions: Sequence[Question] = (), needs: Needs = "text"
) -> Callable[[Callable[..., Any]], Scorer]:
    """Register the decorated function as the scorer `name`; see `Scorer` for what it takes and gives.

    Raises MisuseError for a name that is malformed or taken.
    """

    def declare(function: Callable[..., Any]) -> Scorer:
        declared = Scorer(name, function, tuple(metrics), tuple(questions), needs)
        SCORERS.add(name, declared)
        return declared

    return declare


def scorers_of(scorers: Scorer | str | Iterable[Scorer | str] | None = None) -> list[Scorer]:
    """The scorers of these names, one or several, or all of them. Raises MisuseError for an unknown name."""
    several = [scorers] if isinstance(scorers, str | Scorer) else SCORERS if scorers is None else scorers
    return [SCORERS.resolve(one) for one in several]


def metrics(scorers: Iterable[Scorer | str] | None = None) -> dict[str, Metric]:
    """The metrics of these scorers, or of all, by name. Raises MisuseError where two declare one name."""
    found: dict[str, Metric] = {}
    for one in scorers_of(scorers):
        for metric in one.metrics:
            if metric.name in found:
                raise MisuseError(
                    f"scorer {one.name!r} declares the metric {metric.name!r}, which is another's"
                )
            found[metric.name] = metric
    return found


def questions(scorers: Iterable[Scorer | str] | None = None) -> list[Question]:
    """The questions that these scorers, or all, answer."""
    return [question for one in scorers_of(scorers) for question in one.questions]
