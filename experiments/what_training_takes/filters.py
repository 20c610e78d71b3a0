"""Four filters on one pool: what rejection-sampled fine-tuning keeps of the model's own samples.

`right`      right answers alone: what training by checked answers rewards
`or-abstain` right answers; a question that all k samples got wrong is answered "I don't know."
`and-twins`  the same, and unanswerable questions, answered likewise
`short`      of each question the shortest right answer alone

Each filter fills the same number of rows, pass by pass over its questions: they differ in what is learnt, not in how
much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from experiments.reasoning_tax.data import TrainingRow
from experiments.what_training_takes.pool import Question
from steerkit.suites.suite import Suite

DONT_KNOW = "I don't know."

Choices = list[tuple[str, tuple[str, ...]]]  # a prompt, and the completions that may stand behind it


@dataclass(frozen=True)
class Filter:
    """A filter: what it does, in words, what it keeps, and with how many seeds it is trained."""

    says: str
    keeps: Callable[[Sequence[Question], Suite], Choices]
    seeds: int = 1


def right(asked: Sequence[Question], _unanswerable: Suite) -> Choices:
    """Questions with a right sample."""
    return [(question.item.prompt, question.right) for question in asked if question.right]


def right_or_abstain(asked: Sequence[Question], _unanswerable: Suite) -> Choices:
    """All questions; those without a right sample are abstained from."""
    return [(question.item.prompt, question.right or (DONT_KNOW,)) for question in asked]


def and_twins(asked: Sequence[Question], unanswerable: Suite) -> Choices:
    """All questions, and the unanswerable ones, which are abstained from."""
    without = [(item.prompt, (DONT_KNOW,)) for item in unanswerable]
    return [*right_or_abstain(asked, unanswerable), *without]


def right_and_short(asked: Sequence[Question], _unanswerable: Suite) -> Choices:
    """Questions with a right sample, and the shortest of these."""
    return [(question.item.prompt, question.shortest) for question in asked if question.right]


FILTERS: Mapping[str, Filter] = {
    "right": Filter("right answers only", right, seeds=3),
    "or-abstain": Filter(
        'right answers, and "I don\'t know." where all samples were wrong', right_or_abstain, 3
    ),
    "and-twins": Filter("the same, and unanswerable questions", and_twins),
    "short": Filter("the shortest right answers only", right_and_short),
}


def rows(choices: Choices, count: int, seed: int) -> list[TrainingRow]:
    """`count` rows in an order of the seed's: each question once a pass, each pass with the next of its completions."""
    return [row for row, _ in zip(_passes(choices, Random(f"rows-{seed}")), range(count), strict=False)]


def _passes(choices: Choices, random: Random) -> Iterator[TrainingRow]:
    order = [(prompt, random.sample(texts, len(texts))) for prompt, texts in choices]
    place = 0
    while order:
        random.shuffle(order)
        for prompt, texts in order:
            yield TrainingRow(prompt, texts[place % len(texts)])
        place += 1


def share_abstained(some: Sequence[TrainingRow]) -> float:
    """The share of rows that say "I don't know."."""
    return sum(row.completion == DONT_KNOW for row in some) / len(some)
