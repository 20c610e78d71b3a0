"""What limits brevity: what a perfect stop would save of the chains, and what their tokens are spent on.

The perfect stop knows of each problem after how many tokens of thinking the model would answer right. No rule that only
ends a chain early can save more without losing answers. It is read off thinking budgets, hence to 16 tokens, and it is
flattered: a right guess at any of them counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

import steerkit as sk
from experiments.brevity.results import share
from experiments.brevity.vectors import STEPS
from experiments.reasoning_tax.results import compared, table
from steerkit.core.bootstrap import Estimate, interval, resampling_weights
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

BUDGETS = (0, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192)
ITEMS = 200
METRICS = ("accuracy", "thinking_tokens", "tokens", "truncated")
FACTS, QUESTION, IN_WORDS, IN_NUMBERS, REST = (
    "collecting what is given",
    "repeating the question",
    "steps, in words",
    "steps, in numbers",
    "how it begins, and what it arrives at",
)


def budget_cells() -> dict[int, Cell]:
    """The cells that close the thinking after so many tokens."""
    return {budget: Cell((sk.ThinkingBudget(budget),)) for budget in BUDGETS}


def section(plain: Sequence[Record], by_budget: Mapping[int, Sequence[Record]], lm: sk.LanguageModel) -> str:
    """The tables of budgets, of the perfect stop and of what the unsteered chains are made of."""
    asked = {record.item for some in by_budget.values() for record in some}
    whole = [record for record in plain if record.item in asked]
    rows = compared(
        {
            "as long as it thinks": whole,
            **{f"closed after {budget}": some for budget, some in by_budget.items()},
        }
    )
    right, every = perfect_stop(whole, by_budget)
    spent = spent_on(whole, lm.tokenizer)
    total = sum(spent.values())
    lines = [f"| {name} | {count / total:.0%} |" for name, count in spent.items()]
    return "\n\n".join(
        [
            f"Thinking closed after a fixed number of tokens, on {len(asked)} items of `report`:",
            table(rows, METRICS),
            "A perfect stop, which closes each chain at the first of these budgets that gives a right reply, saves "
            f"{share(right)} of the thinking tokens of the problems that the unsteered model gets right (n = "
            f"{right.n if right else 0}), and {share(every)} of all where the others are not thought about at all "
            f"(n = {every.n if every else 0}).",
            "What the thinking tokens of these chains are spent on:",
            "\n".join(["| | share |", "|---|---|", *lines]),
        ]
    )


def perfect_stop(
    plain: Iterable[Record], by_budget: Mapping[int, Iterable[Record]]
) -> tuple[Estimate | None, Estimate | None]:
    """The share of thinking tokens that is saved by knowing when to stop: of the problems that are right, and of all.

    A problem that the unsteered model gets wrong is closed at once in the second, whatever comes of it.
    """
    least: dict[str, float] = {}
    for records in by_budget.values():
        for record in records:
            if record.scores["correct"]:
                spent = float(record.scores["thinking_tokens"] or 0)
                least[record.item] = min(spent, least.get(record.item, np.inf))
    right, every = [], []
    for record in plain:
        whole = float(record.scores["thinking_tokens"] or 0)
        if record.scores["correct"]:
            right.append((whole, min(whole, least.get(record.item, whole))))
        every.append(right[-1] if record.scores["correct"] else (whole, 0.0))
    return saved(right), saved(every)


def saved(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    """1 - the second's total / the first's, items drawn together; None without any."""
    if not sum(whole for whole, _ in pairs):
        return None
    drawn = resampling_weights(len(pairs)) @ np.asarray(pairs)
    sums = np.sum(pairs, axis=0)
    low, high = interval(1 - drawn[:, 1] / drawn[:, 0])
    return Estimate(float(1 - sums[1] / sums[0]), low, high, len(pairs))


def spent_on(plain: Iterable[Record], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens of the chains by what their lines do, by the forms that the second reasoner's have."""
    counts: Counter[str] = Counter(dict.fromkeys((FACTS, QUESTION, IN_WORDS, IN_NUMBERS, REST), 0))
    for record in plain:
        chain, _, _ = record.completion.partition("</think>")
        for line in chain.splitlines(keepends=True):
            for kind, text in parts(line):
                counts[kind] += len(tokenizer.encode(text, add_special_tokens=False))
    return dict(counts)


def parts(line: str) -> list[tuple[str, str]]:
    """What a line of a chain does, and its text; a step is words, then, behind the last full stop, numbers."""
    if line.startswith("- "):
        return [(FACTS, line)]
    if line.startswith("I am asked"):
        return [(QUESTION, line)]
    if not line.startswith(STEPS):
        return [(REST, line)]
    words, stop, numbers = line.rpartition(". ")
    return [(IN_WORDS, words + stop), (IN_NUMBERS, numbers)]
