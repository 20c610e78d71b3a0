"""Precision and recall of an abstention scorer on the hand-labelled completions.

    python -m experiments.abstention_scorer.measure
    python -m experiments.abstention_scorer.measure --scorer my_module:my_function --out mine.md
    python -m experiments.abstention_scorer.measure --judge BASE_URL --judge-model NAME --out judge.md

A scorer is a function from the final reply to whether it abstains; a judge also sees the question. What it gets
wrong is shown for the half `develop` only: of the half `held-out` there are counts, so that rules written against
this page are measured on texts that nobody has seen.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.judge import Judge
from steerkit.scoring.reply import final_reply

HERE = Path(__file__).parent
HALVES = ("develop", "held-out")
SHOWN_ERRORS = 40
PHRASE_SCORER = "steerkit.scoring.abstention:abstains"
HEADER = (
    "| | n | abstain | precision | recall | F1 | agreement | kappa | found | false alarms | missed | neither |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)
Row = dict[str, Any]  # a completion together with its label

KINDS: dict[str, Callable[[Row], bool]] = {
    "unsteered": lambda row: row["steering"] is None and row["system"] is None,
    "system prompt": lambda row: row["system"] is not None,
    "steered": lambda row: row["steering"] is not None,
    "greedy": lambda row: row["temperature"] == 0,
    "sampled": lambda row: row["temperature"] > 0,
    "cut off": lambda row: row["finish"] == "length",
    "smollm2-135m-instruct": lambda row: row["model"] == "smollm2-135m-instruct",
    "gemma3-270m": lambda row: row["model"] == "gemma3-270m",
    "marked hard": lambda row: row["hard"],
    "not marked hard": lambda row: not row["hard"],
}


def main() -> None:
    """Measure the phrase scorer, another function, or a judge; print the page and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scorer", default=PHRASE_SCORER, help="MODULE:FUNCTION, from text to bool")
    parser.add_argument(
        "--judge", metavar="BASE_URL", help="an OpenAI-compatible endpoint, in place of a scorer"
    )
    parser.add_argument("--judge-model", metavar="NAME")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    options = parser.parse_args()
    if bool(options.judge) != bool(options.judge_model):
        parser.error("--judge and --judge-model go together")
    if options.out.resolve() == HERE / "results.md" and (options.judge or options.scorer != PHRASE_SCORER):
        parser.error("results.md is the phrase scorer's: give --out")

    rows = labelled()
    if options.judge:
        name = f"{options.judge_model} as judge"
        judge = Judge(options.judge, options.judge_model)
        verdicts = judge.verdicts((row["prompt"], row["completion"]) for row in rows)
    else:
        name = f"`{options.scorer}`"
        module, _, function = options.scorer.partition(":")
        abstains = getattr(importlib.import_module(module), function)
        verdicts = [abstains(final_reply(row["completion"])) for row in rows]
    text = page(name, rows, verdicts)
    options.out.write_text(text, encoding="utf-8")
    print(text)


def labelled() -> list[Row]:
    """Every completion with its label."""
    labels = {label["id"]: label for label in read_lines(HERE / "labels.jsonl")}
    completions = read_lines(HERE / "completions.jsonl")
    if {completion["id"] for completion in completions} != labels.keys():
        raise SystemExit("labels.jsonl and completions.jsonl are not about the same completions")
    return [completion | labels[completion["id"]] for completion in completions]


def read_lines(path: Path) -> list[Row]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def page(name: str, rows: Sequence[Row], verdicts: Sequence[bool | None]) -> str:
    """The measured result as Markdown."""
    pairs = list(zip(rows, verdicts, strict=True))
    missing = sum(verdict is None for verdict in verdicts)
    parts = [
        f"# {name} against the hand labels",
        "Written by `measure.py`. Precision and recall of *abstains*, with Wilson 95% intervals. Agreement is the "
        "share on which both say the same, kappa what is left of it beyond chance (Cohen). The last columns are the "
        "confusions: abstentions found, false alarms, abstentions missed, and neither.",
    ]
    if missing:
        parts.append(f"{missing} of {len(rows)} completions got no verdict and are left out.")
    parts += [f"## {half}\n\n{table([pair for pair in pairs if pair[0]['half'] == half])}" for half in HALVES]
    wrong = [
        (row, verdict)
        for row, verdict in pairs
        if row["half"] == "develop" and verdict is not None and verdict != row["abstains"]
    ]
    parts.append(f"## What it gets wrong on develop\n\n{errors(wrong)}")
    return "\n\n".join(parts) + "\n"


def table(pairs: Sequence[tuple[Row, bool | None]]) -> str:
    """One line for all completions, for each scenario, and for each way of making them."""
    parts = {"**all**": pairs}
    for scenario in sorted({row["scenario"] for row, _ in pairs}):
        parts[scenario] = [pair for pair in pairs if pair[0]["scenario"] == scenario]
    for kind, belongs in KINDS.items():
        parts[f"*{kind}*"] = [pair for pair in pairs if belongs(pair[0])]
    return "\n".join([HEADER, *(line(name, part) for name, part in parts.items())])


def line(name: str, pairs: Iterable[tuple[Row, bool | None]]) -> str:
    """One line of the table; the scorer is the first judge, the label the second."""
    seen: Agreement = agreement((verdict, row["abstains"]) for row, verdict in pairs)
    there, said = seen.both + seen.second_only, seen.both + seen.first_only
    f1 = f"{2 * seen.both / (there + said):.3f}" if there + said else "–"
    cells = (
        name,
        seen.n,
        there,
        with_interval(seen.both, said),
        with_interval(seen.both, there),
        f1,
        rounded(seen.raw),
        rounded(seen.kappa),
        seen.both,
        seen.first_only,
        seen.second_only,
        seen.neither,
    )
    return f"| {' | '.join(map(str, cells))} |"


def rounded(share: float | None) -> str:
    """A rate, where there is one."""
    return "–" if share is None else f"{share:.2f}"


def with_interval(successes: int, n: int, z: float = 1.96) -> str:
    """A share with its Wilson score interval (Wilson 1927), at 95%."""
    if not n:
        return "–"
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return f"{share:.3f} [{max(0.0, centre - half_width):.2f}, {min(1.0, centre + half_width):.2f}]"


def errors(wrong: Sequence[tuple[Row, bool | None]]) -> str:
    """The texts that the scorer and the labeller read differently."""
    if not wrong:
        return "Nothing."
    entries = []
    for row, verdict in wrong:
        kind = "false alarm" if verdict else "missed"
        hard = ", marked hard" if row["hard"] else ""
        entries.append(
            f"- `{row['id']}` {kind}{hard} ({row['scenario']}; {row['condition']})\n"
            f"  - Q: {json.dumps(row['prompt'], ensure_ascii=False)}\n"
            f"  - A: {json.dumps(row['completion'], ensure_ascii=False)}"
        )
    left_out = len(entries) - SHOWN_ERRORS
    return "\n".join([*entries[:SHOWN_ERRORS], *([f"- and {left_out} more"] if left_out > 0 else [])])


if __name__ == "__main__":
    main()
