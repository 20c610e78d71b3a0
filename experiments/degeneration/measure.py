"""Precision and recall of `is_degenerate` on replies that two readers labelled.

    python -m experiments.degeneration.measure [--gold FOLDER]

`FOLDER` holds the worked solutions of GSM8K (`train.jsonl`), which hold parallel sentences and no loops. Where the
readers disagree there is no label. Writes results.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.abstention_scorer.measure import with_interval
from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.degeneration import is_degenerate

HERE = Path(__file__).parent
REPLIES = HERE.parent / "abstention_scorer" / "second_set.jsonl"
PHRASE, TIMES = 4, 3
Row = dict[str, Any]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gold", type=Path, help="folder with GSM8K's train.jsonl")
    asked = parser.parse_args()
    rows = [
        row for line in REPLIES.open(encoding="utf-8") if (row := json.loads(line))["origin"] == "generated"
    ]
    text = page(rows, gold(asked.gold) if asked.gold else None)
    (HERE / "results.md").write_text(text, encoding="utf-8")
    print(text)


def page(rows: Sequence[Row], solutions: Sequence[str] | None) -> str:
    """The table of all rules on both parts, and how often the readers agree."""
    readers = agreement(row["stuck"] for row in rows)
    settled = [row for row in rows if row["stuck"][0] == row["stuck"][1]]
    rules: dict[str, Callable[[str], bool]] = {
        "as it is now": is_degenerate,
        "a phrase of four words three times": repeats_a_phrase,
        "as it was: half of the 4-grams seen before, from 18 words": was_degenerate,
    }
    lines = [
        "# Is a reply stuck?",
        f"Written by `measure.py`. {len(rows)} replies that models generated, each read by two readers: they agree on "
        f"{readers.raw:.1%} (Cohen's kappa {readers.kappa:.2f}), and {len(settled)} have a label. Wilson 95% "
        "intervals.",
        "| rule | part | n | stuck | precision | recall |\n|---|---|--:|--:|--:|--:|",
    ]
    table = [
        line(name, part, found(rule, (row for row in settled if row["kept_apart"] is apart)))
        for part, apart in (("fitted on", False), ("kept apart", True))
        for name, rule in rules.items()
    ]
    lines[-1] = "\n".join([lines[-1], *table])
    if solutions is not None:
        false = sum(map(is_degenerate, solutions))
        lines.append(
            f"Of {len(solutions)} worked solutions of GSM8K, which are none, {false} are called stuck "
            f"({false / len(solutions):.1%}): sentences in parallel."
        )
    return "\n\n".join(lines) + "\n"


def found(rule: Callable[[str], bool], rows: Iterable[Row]) -> Agreement:
    """How the rule's verdicts agree with the readers' label."""
    return agreement((rule(row["reply"]), row["stuck"][0]) for row in rows)


def line(name: str, part: str, counts: Agreement) -> str:
    """One row of the table."""
    said, there = counts.both + counts.first_only, counts.both + counts.second_only
    rates = " | ".join(with_interval(counts.both, n) for n in (said, there))
    return f"| {name} | {part} | {counts.n} | {there} | {rates} |"


def repeats_a_phrase(text: str) -> bool:
    """Whether four words in a row come three times anywhere in the text."""
    phrases = _phrases(re.findall(r"\w+(?:['’]\w+)*", text.casefold()))
    return any(phrases.count(phrase) >= TIMES for phrase in set(phrases))


def was_degenerate(text: str) -> bool:
    """The former rule, of words in place of tokens."""
    words = text.split()
    phrases = _phrases(words)
    return not words or (len(words) >= 18 and 1 - len(set(phrases)) / len(phrases) >= 0.5)


def gold(folder: Path) -> list[str]:
    """The worked solutions, without the calculator's annotations."""
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"<<.*?>>", "", json.loads(line)["answer"]) for line in lines]


def _phrases(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + PHRASE]) for start in range(len(words) - PHRASE + 1)]


if __name__ == "__main__":
    main()
