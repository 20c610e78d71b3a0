"""Example completions, side by side: picked by a stated rule, never by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerkit.core.prompts import as_text
from steerkit.models.markers import ThinkingMarkers
from steerkit.models.thinking import spans_of
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
    """One item; `completions[i]`, its `parts`, `verdicts[i]` and `records[i]` belong to the i-th cell asked for.

    A part is a text and whether it answers: thinking, calls of tools and markers do not.
    """

    item: str
    prompt: str
    expected: str
    completions: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    parts: tuple[tuple[tuple[str, bool], ...], ...] = ()
    records: tuple[Record, ...] = ()


def pick_examples(
    records: Iterable[Record],
    cells: Sequence[str],
    per_kind: int = 3,
    *,
    markers: ThinkingMarkers | None = None,
) -> list[Example]:
    """Items on which the cells (ids) differ, at most `per_kind` of each kind, chosen by `RULE`.

    `markers` are those between which the model thinks.
    """
    by_item: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        if record.cell in cells and record.sample == 0:
            by_item[record.item][record.cell] = record
    examples: defaultdict[bool | None, list[tuple[bool, str, Example]]] = defaultdict(list)
    for item, found in by_item.items():
        if len(found) < len(cells):
            continue
        example = _example([found[cell] for cell in cells], markers)
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


def parts_of(record: Record, markers: ThinkingMarkers | None = None) -> tuple[tuple[str, bool], ...]:
    """Return the parts of a record's completion in order, each with whether it answers."""
    text = record.completion
    if 0 < record.tokens == record.scores.get("thinking_tokens"):
        return ((text, False),)
    return tuple((text[s.start : s.stop], s.kind == "answer") for s in spans_of(text, markers))


def _example(records: Sequence[Record], markers: ThinkingMarkers | None) -> Example:
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
        parts=tuple(parts_of(record, markers) for record in records),
        records=tuple(records),
    )
