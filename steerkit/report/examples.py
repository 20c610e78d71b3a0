"""Example completions, side by side: picked by a stated rule, never by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerkit.core.prompts import as_text
from steerkit.runs.record import Record

RULE = (
    "For questions to abstain from, answerable ones and others in turn: the first items, in the order of "
    "their ids, whose verdict (abstained, correct, wrong, answered) differs between the cells shown, then those "
    "whose wording differs."
)


@dataclass(frozen=True)
class Verdict:
    """What the scorers made of a completion: `outcome` is one of those that `RULE` names, `remarks` add to it."""

    outcome: str
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((self.outcome, *self.remarks))


@dataclass(frozen=True)
class Example:
    """One item; `completions[i]` and `verdicts[i]` belong to the i-th cell asked for."""

    item: str
    prompt: str
    expected: str
    completions: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def pick_examples(records: Iterable[Record], cells: Sequence[str], per_kind: int = 3) -> list[Example]:
    """Items on which the cells (ids) differ, at most `per_kind` of each kind, chosen by `RULE`."""
    by_item: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        if record.cell in cells and record.sample == 0:
            by_item[record.item][record.cell] = record
    examples: defaultdict[bool | None, list[tuple[bool, str, Example]]] = defaultdict(list)
    for item, found in by_item.items():
        if len(found) < len(cells):
            continue
        example = _example([found[cell] for cell in cells])
        if len(set(example.completions)) > 1:
            same_verdict = len({verdict.outcome for verdict in example.verdicts}) == 1
            examples[found[cells[0]].should_abstain].append((same_verdict, item, example))
    return [
        example
        for kind in (True, False, None)
        for _, _, example in sorted(examples[kind], key=lambda entry: entry[:2])[:per_kind]
    ]


def verdict(record: Record) -> Verdict:
    """Return what the scorers made of a completion, in words."""
    scores = record.scores
    outcome = "correct" if scores.get("correct") else "answered" if scores.get("correct") is None else "wrong"
    if scores.get("abstained"):
        outcome = "abstained"
    remarks = {"truncated": "cut off", "degenerate": "degenerate"}
    return Verdict(outcome, tuple(word for name, word in remarks.items() if scores.get(name)))


def _example(records: Sequence[Record]) -> Example:
    first = records[0]
    expected = "should abstain" if first.should_abstain else "answerable" if first.answers else "open"
    if first.answers:
        expected += f": {first.answers[0]}"
    return Example(
        item=first.item,
        prompt=as_text(first.prompt),
        expected=expected,
        completions=tuple(record.completion for record in records),
        verdicts=tuple(verdict(record) for record in records),
    )
