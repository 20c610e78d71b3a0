"""Before and after: the base and each variant as they are, in both conditions.

The tax is what the reasoning model loses in abstention recall on the primary suite; what it was trained for is the
accuracy on word problems. Both targets were set before any of it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import steerkit as sk
from experiments.reasoning_tax.results import compared, estimate, table, value
from experiments.reasoning_tax.setting import (
    LEVELS,
    PRIMARY,
    Setting,
    Write,
    conditions,
    plain_cell,
    records_of,
)
from steerkit.analysis.summary import Row
from steerkit.runs.record import Record

TAX = -0.2  # the published tax is 13 to 24 points of recall (AbstentionBench, arXiv 2506.09038)

Runs = Mapping[str, Mapping[str, sk.Run]]  # by suite, then by model


def before_and_after(setting: Setting, variants: Sequence[str], write: Write) -> None:
    """Measure the base and the variants, the primary suite first; the section is written after each."""
    models = {name: setting.model(name) for name in ("base", *variants)}
    runs: dict[str, dict[str, sk.Run]] = {}
    for suite in setting.suites:
        for name, lm in models.items():
            runs.setdefault(suite, {})[name] = setting.plain(lm, name, suite, "report")
            write(section(runs, setting.tuned))


def section(runs: Runs, tuned: str) -> str:
    """A table for each suite and condition: the base, then each variant; word problems by level besides."""
    tables: list[str] = []
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for suite, by_model in runs.items():
        for condition in conditions(suite):
            cell = plain_cell(condition)
            rows = compared({name: records_of(run, cell) for name, run in by_model.items()})
            found[suite, condition] = rows
            primary = " (primary)" if suite == PRIMARY else ""
            tables += [f"### {suite}{primary}, {condition}", table(rows)]
        if suite == LEVELS:
            tables += ["Accuracy by level:", _by_level(by_model)]
    return "\n\n".join(["## Before and after", targets(found, tuned), *tables])


def targets(found: Mapping[tuple[str, str], Mapping[str, Row]], tuned: str) -> str:
    """What was to be shown of the reasoning model, and whether it was; point estimates decide."""
    lines = []
    for (suite, condition), rows in found.items():
        if tuned not in rows:
            continue
        changes = rows[tuned].changes
        if suite == PRIMARY:
            lost = changes["abstention_recall"]
            verdict = "met" if lost.value <= TAX else "missed"
            lines.append(
                f"recall on {suite}, {condition}: {estimate(lost, '+')}; target {TAX:+.2f}: {verdict}"
            )
        elif suite == LEVELS:
            gained = changes["accuracy"]
            verdict = "met" if gained.value > 0 else "missed"
            lines.append(f"accuracy on {suite}: {estimate(gained, '+')}; target up: {verdict}")
    if not lines:
        return f"The tax, base to {tuned}: not measured."
    return f"The tax, base to {tuned}:\n\n" + "\n".join(f"- {line}" for line in lines)


def _by_level(by_model: Mapping[str, sk.Run]) -> str:
    cell = plain_cell(conditions(LEVELS)[0])
    records = {name: list(records_of(run, cell)) for name, run in by_model.items()}
    levels = sorted({_level(record) for some in records.values() for record in some})
    lines = [f"| model | {' | '.join(levels)} |", "|---" * (len(levels) + 1) + "|"]
    for name, some in records.items():
        rows = (compared({level: (r for r in some if _level(r) == level)})[level] for level in levels)
        lines.append(f"| {name} | {' | '.join(value(row, 'accuracy', False) for row in rows)} |")
    return "\n".join(lines)


def _level(record: Record) -> str:
    return f"level {record.item.split('-')[1]}"  # brevity-LEVEL-PLACE
