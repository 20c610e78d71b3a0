"""The questions that training may use, and the base's own answers to them: one pool, from which every filter draws.

All questions are of the split `fit` of their suites, so none of them is asked when models are compared, and no twin of
one is. k samples of each answerable question are drawn once from the base, at temperature 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import steerkit as sk
from steerkit.runs.record import Record
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import hash_position
from steerkit.suites.suite import Suite

SAMPLES = 8
TOKENS = 128  # a sample that has not ended by then is not learnt from
DECODING = sk.Decoding(TOKENS, temperature=1.0)
# Of each suite's `fit`, how many questions with an answer and how many without.
QUESTIONS: Mapping[str, tuple[int, int]] = {
    "selfaware": (200, 120),
    "abstention": (81, 81),
    "brevity": (80, 60),
}


@dataclass(frozen=True)
class Question:
    """An answerable question and those of its samples that ended by themselves with the right answer."""

    item: SuiteItem
    right: tuple[str, ...]

    @property
    def shortest(self) -> tuple[str, ...]:
        """The right sample with the fewest characters, if there is one."""
        return tuple(sorted(self.right, key=len)[:1])


def training_items(references: Mapping[str, str]) -> tuple[Suite, Suite]:
    """The questions with an answer and those without, from the suites that `references` load."""
    with_answer: list[SuiteItem] = []
    without: list[SuiteItem] = []
    for name, reference in references.items():
        most, most_without = QUESTIONS[name]
        every = sk.load_suite(reference).split("fit")
        fit = sorted(every, key=lambda item: hash_position("training", item.id))
        with_answer += [item for item in fit if item.should_abstain is False and item.answers][:most]
        without += [item for item in fit if item.should_abstain][:most_without]
    return Suite("training questions", with_answer), Suite("unanswerable questions", without)


def questions(asked: Suite, run: sk.Run) -> Iterator[Question]:
    """Each question with its right samples, in the order of the suite."""
    right: defaultdict[str, list[str]] = defaultdict(list)
    for record in run.records():
        if is_learnt(record):
            right[record.item].append(record.completion)
    for item in asked:
        yield Question(item, tuple(dict.fromkeys(right[item.id])))


def is_learnt(record: Record) -> bool:
    """Whether a sample is a right answer that ended by itself."""
    return bool(record.scores["correct"]) and not record.scores["degenerate"] and record.finish != "length"
