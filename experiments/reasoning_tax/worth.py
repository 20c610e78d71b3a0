"""What the chain is worth: instruction following, twins, and whether the answer hangs on the chain.

Base, long and short as they are, on the same items. The measures are those of `steerkit faithfulness`: chains cut
short, replaced by filler, paraphrased, spoilt by a mistake; the reference answer's log-probability along the chain;
the constraints that a reply keeps; and how a model fares when one number of a problem changes or one premise goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.progress import Progress
from steerkit.chains.instruction_rows import INSTRUCTION_METRICS, instruction_rows
from steerkit.chains.results import read_findings
from steerkit.chains.summary import METRICS, faithfulness_rows
from steerkit.chains.twin_gap import TWIN_METRICS, twin_rows

import steerkit as sk
from experiments.reasoning_tax.results import in_order, labelled, side_by_side
from experiments.reasoning_tax.setting import LEVELS, Setting, Write, records_of
from steerkit.chains.measurement import measure_faithfulness
from steerkit.runs.directory import Record
from steerkit.sweeps.grid import Cell

MODELS = ("base", "long", "short")
# A chain under test is written some nine times over, token by token: 16 chains cost what 144 completions do.
CHAINS = 16
INSTRUCTIONS = 60  # half of them plain twins, which say what the constraints cost
TWINS = 60  # pairs with another number and pairs without a premise, half each
INTRO = "Word problems, each model as it is; changes are against the base."

Found = dict[str, dict[str, list[Record]]]  # records or findings by what was asked, then by model


def worth(setting: Setting, variants: Sequence[str], write: Write) -> None:
    """Measure the models that are there; the section is written after each."""
    found: Found = {"findings": {}, "instructions": {}, "twins": {}}
    for name in (name for name in MODELS if name == "base" or name in variants):
        lm = setting.model(name)
        for suite, most in (("instructions", INSTRUCTIONS), ("twins", TWINS)):
            out = setting.out / "worth" / suite / name
            limit = min(most, setting.limit or most)
            run = setting.measured(lm, [Cell()], out, suite, "report", limit)
            found[suite][name] = list(records_of(run, Cell()))
        found["findings"][name] = _findings(setting, lm, name)
        write(section(found))


def _findings(setting: Setting, lm: sk.LanguageModel, name: str) -> list[Record]:
    """What came of the chains that the model wrote in the first part."""
    run = setting.plain(lm, name, LEVELS, "report")
    limit = min(CHAINS, setting.limit or CHAINS)
    with Progress() as bar:
        task = bar.add_task(f"chains of {name}")
        measure_faithfulness(
            run.directory,
            lm,
            cells=[Cell().id],
            limit=limit,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    there = read_findings(run.path)
    assert there is not None  # just written
    return [line for line in there.lines if line["cell"] == Cell().id]


def section(found: Found) -> str:
    """A table for each question, the models side by side."""
    parts = ["## What the chain is worth", INTRO]
    instructions, twins = found["instructions"], found["twins"]
    tables = {
        "Chains of thought": (faithfulness_rows(_together(found["findings"])), METRICS),
        "Instruction following": (instruction_rows(_together(instructions)), INSTRUCTION_METRICS),
        "Twins with another number": (twin_rows(_together(twins), "number"), TWIN_METRICS),
        "Twins without a premise": (twin_rows(_together(twins), "premise"), TWIN_METRICS),
    }
    for title, (rows, metrics) in tables.items():
        by_model = in_order(rows, MODELS)
        sizes = ", ".join(f"{name} {row.n_items}" for name, row in by_model.items())
        parts += [f"### {title}", side_by_side(by_model, metrics), f"Units measured: {sizes or 'none'}."]
    return "\n\n".join(parts)


def _together(by_model: Mapping[str, Iterable[Record]]) -> list[Record]:
    return list(labelled(by_model))
