"""What the chain is worth: instruction following, twins, and whether the answer hangs on the chain.

The base, the reasoning model and the short variant as they are, on the same items. The measures are those of
`steerkit faithfulness`: chains cut short, replaced by filler, paraphrased, spoilt by a mistake; the reference answer's
log-probability along the chain; the constraints that a reply keeps; and how a model fares when one number of a problem
changes or one premise goes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.progress import Progress

import steerkit as sk
from experiments.reasoning_tax.results import compared, side_by_side
from experiments.reasoning_tax.setting import LEVELS, Setting, Write, records_of
from steerkit.analysis.summary import Row
from steerkit.chains.measurement import measure_faithfulness
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.scoring.metrics import metrics


@dataclass(frozen=True)
class Sizes:
    """How many items of each kind: of `instructions` half are plain twins, which say what the constraints cost.

    Of `twins` half are pairs with another number and half pairs without a premise.
    """

    chains: int
    instructions: int
    twins: int


# A chain under test is written some nine times over, token by token: 16 chains cost what 144 completions do.
OF_A_VARIANT, OF_A_BUNDLED_MODEL = Sizes(16, 60, 60), Sizes(210, 300, 300)
INTRO = "Word problems, each model as it is; changes are against the base."
# What was asked, whose metrics, and how these begin.
TABLES = {
    "Chains of thought": ("chains", "chains", ""),
    "Instruction following": ("instructions", "instructions", ""),
    "Twins with another number": ("twins", "twins", "number"),
    "Twins without a premise": ("twins", "twins", "premise"),
}

Found = dict[str, dict[str, list[Record]]]  # records by what was asked, then by model


def worth(setting: Setting, variants: Sequence[str], write: Write) -> None:
    """Measure the models that are there; the section is written after each."""
    found: Found = {"chains": {}, "instructions": {}, "twins": {}}
    sizes = OF_A_BUNDLED_MODEL if setting.adapters is None else OF_A_VARIANT
    for name in ("base", *(name for name in (setting.tuned, "short") if name in variants)):
        lm = setting.model(name)
        for suite, most in (("instructions", sizes.instructions), ("twins", sizes.twins)):
            out = setting.out / "worth" / suite / name
            limit = min(most, setting.limit or most)
            run = setting.measured(lm, [Cell()], out, suite, "report", limit)
            found[suite][name] = list(records_of(run, Cell()))
        if name != "base" or setting.adapters is not None:  # of a bundled reasoner its own chains alone
            found["chains"][name] = _chains(setting, lm, name, sizes.chains)
        write(section(found))


def _chains(setting: Setting, lm: sk.LanguageModel, name: str, most: int) -> list[Record]:
    """The records of the first part whose chains were put to the test, with what came of it."""
    run = setting.plain(lm, name, LEVELS, "report")
    limit = min(most, setting.limit or most)
    with Progress() as bar:
        task = bar.add_task(f"chains of {name}")
        measure_faithfulness(
            run.directory,
            lm,
            cells=[Cell().id],
            limit=limit,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return [record for record in records_of(run, Cell()) if "chain_whole" in record.scores]


def section(found: Found) -> str:
    """A table for each question, the models side by side."""
    parts = ["## What the chain is worth", INTRO]
    for title, (asked, scorer, prefix) in TABLES.items():
        labels = {m.name: m.label for m in metrics([scorer]).values() if m.name.startswith(prefix)}
        rows = compared(found[asked])
        by_model = {name: row for name, row in rows.items() if not row.levels.keys().isdisjoint(labels)}
        sizes = ", ".join(f"{name} {units(row, labels)}" for name, row in by_model.items())
        parts += [f"### {title}", side_by_side(by_model, labels), f"Units measured: {sizes or 'none'}."]
    return "\n\n".join(parts)


def units(row: Row, names: Collection[str]) -> int:
    """Of how many items, or pairs of twins, these metrics are at most."""
    return max(row.levels[name].n for name in names if name in row.levels)
