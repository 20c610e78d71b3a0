"""N and N-1 twins: does a model read the problem, or does it fill in a template?

Twins are two items of one group. Their second differs from the first in one thing:
- `number`: one number, and so the answer. Right is the answer; `number_unmoved` is the share of pairs that get one
  number for both.
- `premise`: one premise is gone, so that nothing can be answered. Right is the answer, then an abstention.

The gap is the share that is right on N minus the share on N-1, pair by pair; `both` the share of pairs that are
right on both. Pairs of which one twin is not there or cannot be judged are left out. The diagnostic is after Bernier et
al. 2026, arXiv 2603.23004 (N and N-1 power grids), of which only the idea is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from steerkit.scoring.answers import final_number
from steerkit.scoring.metrics import Metric, Scores, scorer
from steerkit.scoring.reply import reply_of

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.runs.record import Record
    from steerkit.suites.items import SuiteItem

Kind = Literal["number", "premise"]
Compare = Callable[["Record", "Record"], float | None]

LARGEST = 1e300  # beyond it a number is none that anybody would state, and soon none that a float can hold


def kind_of(first: Record, second: Record) -> Kind | None:
    """Return how two twins, in order, differ; None where they are none of the two kinds or cannot be judged."""
    if first.should_abstain is not False or first.scores.get("correct") is None:
        return None
    if second.should_abstain:
        return None if second.scores.get("abstained") is None else "premise"
    return "number" if second.answers and second.answers != first.answers else None


def _right(first: Record, second: Record) -> tuple[bool, bool]:
    """Whether the model is right on N, and on N-1."""
    asked = "abstained" if second.should_abstain else "correct"
    return bool(first.scores["correct"]), bool(second.scores[asked])


def _of(kind: Kind, value: Callable[[bool, bool], int]) -> Compare:
    """A comparison of the twins of one kind by whether each of them is right."""
    return lambda first, second: value(*_right(first, second)) if kind_of(first, second) == kind else None


def _unmoved(first: Record, second: Record) -> float | None:
    if kind_of(first, second) != "number":
        return None
    numbers = [record.scores.get("stated_number") for record in (first, second)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def _metrics(kind: Kind) -> list[Metric]:
    """How often the model is right on the twins of one kind: the gap between the two, and the shares beside it."""
    gap = _of(kind, lambda whole, changed: whole - changed)
    original = _of(kind, lambda whole, _: whole)
    variant = _of(kind, lambda _, changed: changed)
    both = _of(kind, lambda whole, changed: whole and changed)
    right = f"{kind} twins: right on"
    return [
        Metric(
            f"{kind}_gap", f"{kind} twins: gap, N minus N-1", "lower", f"{kind} gap", compare=gap, show="main"
        ),
        Metric(f"{kind}_original", f"{right} N", "higher", compare=original, show="hidden"),
        Metric(f"{kind}_variant", f"{right} N-1", "higher", compare=variant, show="hidden"),
        Metric(f"{kind}_both", f"{right} both", "higher", compare=both, show="hidden"),
    ]


_UNMOVED = Metric(
    "number_unmoved", "number twins: same number for both", "lower", compare=_unmoved, show="hidden"
)


@scorer("twins", metrics=[*_metrics("number"), _UNMOVED, *_metrics("premise")])
def twins(_item: SuiteItem, completion: Completion) -> Scores:
    """Read the number that the reply states as its result; the metrics compare two twins."""
    number = final_number(reply_of(completion))
    return {"stated_number": None if number is None or abs(number) > LARGEST else float(number)}
