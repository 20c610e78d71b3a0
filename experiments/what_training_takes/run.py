"""What training takes: the same base, fine-tuned on its own samples under four filters.

    python -m experiments.what_training_takes.run --data FOLDER [--threads 2] [--out FOLDER] [--limit N]

FOLDER of `--data` holds `selfaware/`. Samples, trains, compares, then asks whether the direction is still there; each
step goes on where it was stopped, and results.md is written after each.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from experiments.reasoning_tax.results import compared, estimate, table
from experiments.what_training_takes import direction, pool
from experiments.what_training_takes.filters import FILTERS, rows, share_abstained
from experiments.what_training_takes.study import (
    ASKED,
    HELD_OUT,
    PRESET,
    REFERENCES,
    ROWS_A_STEP,
    STEPS,
    TOKENS,
    Study,
    label,
    variants,
)
from steerkit.core.files import replacing
from steerkit.runs.record import Record

HERE = Path(__file__).parent
METRICS = ("accuracy", "abstention_recall", "over_abstention", "tokens", "truncated")
BASE = "base"

Found = Mapping[str, Mapping[str, Mapping[str, list[Record]]]]  # by suite, condition, model


def main() -> None:
    """Measure what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="at most so many questions and rows: a trial, kept apart")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    study = Study(asked.out / "trial" if asked.limit else asked.out, asked.data, asked.limit)
    page = study.out / "results.md" if asked.limit else HERE / "results.md"
    parts: list[str] = []
    for part in sections(study):
        parts.append(part)
        with replacing(page, "the results") as scratch:
            scratch.write_text("\n\n".join([heading(), *parts]) + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


def sections(study: Study) -> Iterator[str]:
    """The page's parts, each measured when it is asked for."""
    names = [BASE, *(name for name, _ in study.trained())]
    yield learnt(study)
    found: defaultdict[str, defaultdict[str, dict[str, list[Record]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for suite in ASKED:
        for name in names:
            for condition, records in study.plain(name, suite).items():
                found[suite][condition][name] = records
    yield by_filter(found)
    yield by_seed(found)
    first = [name for name in names if name == BASE or name.endswith("-1")]
    yield direction.section(study, first)


def heading() -> str:
    """What was run."""
    return (
        f"# What training takes\n\nWritten by `run.py`. {pool.SAMPLES} samples of each question from the base, at "
        f"temperature 1 and at most {pool.TOKENS} tokens; {STEPS} steps of {ROWS_A_STEP} rows on what a filter keeps "
        f"of them (LoRA of rank {PRESET.rank}). Models are compared on `report`, which no training question is of: "
        f"greedy, {PRESET.dtype}, at most {TOKENS} tokens. In brackets 95% intervals, bootstrap over twin groups; in "
        "parentheses the change against the first line, paired item by item."
    )


def learnt(study: Study) -> str:
    """What each filter keeps of the pool."""
    asked, unanswerable = pool.training_items({name: study.reference(name) for name in REFERENCES})
    found = list(pool.questions(asked, study.pool(asked)))
    lines = [
        "## What each filter keeps",
        f"{len(found)} questions with an answer, {sum(bool(q.right) for q in found)} of them with a right sample "
        f"({sum(len(q.right) for q in found)} in all), and {len(unanswerable)} unanswerable ones.",
        '| filter | learns | seeds | questions | "I don\'t know" in its rows |\n|---|---|---|---|---|',
    ]
    for name, kept in FILTERS.items():
        choices = kept.keeps(found, unanswerable)
        share = share_abstained(rows(choices, PRESET.rows + HELD_OUT, 1))
        lines[-1] += f"\n| {name} | {kept.says} | {kept.seeds} | {len(choices)} | {share:.0%} |"
    return "\n\n".join(lines)


def by_filter(found: Found) -> str:
    """A table for each suite and condition: the base, then each filter, the mean over its seeds."""
    parts = [
        "## The base, and each filter",
        "Of a filter with several seeds the mean over them; its interval covers items, not seeds, which stand apart "
        "in the next section.",
    ]
    for suite, by_condition in found.items():
        for condition, by_model in by_condition.items():
            records = {BASE: by_model[BASE]}
            for name, kept in FILTERS.items():
                records[name] = [
                    replace(record, sample=seed)
                    for seed in range(1, kept.seeds + 1)
                    for record in by_model[label(name, seed)]
                ]
            parts += [f"### {suite}, {condition}", table(compared(records), METRICS)]
    return "\n\n".join(parts)


def by_seed(found: Found) -> str:
    """For each suite and condition the change of recall and over-abstention under each seed."""
    trained = [label(name, seed) for name, seed in variants() if FILTERS[name].seeds > 1]
    lines = [
        "## Seed by seed",
        f"| | | {' | '.join(trained)} |\n" + "|---" * (len(trained) + 2) + "|",
    ]
    for suite, by_condition in found.items():
        for condition, by_model in by_condition.items():
            rows_of = compared({name: by_model[name] for name in (BASE, *trained)})
            for metric in ("abstention_recall", "over_abstention", "accuracy"):
                if metric in rows_of[BASE].levels:
                    values = (estimate(rows_of[name].changes[metric], "+") for name in trained)
                    lines[-1] += f"\n| {suite}, {condition} | {metric} | {' | '.join(values)} |"
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
