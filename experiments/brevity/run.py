"""Brevity steering: how many thinking tokens can go, at what accuracy, and what becomes of abstention.

    python -m experiments.brevity.run --model MODEL_OR_ADAPTER [--short ADAPTER] [--out FOLDER] [--limit N]

MODEL is the reasoner, by its name or its adapter's folder, or the base model, whose replies take the place of chains.
`--short` is the adapter that was trained on short chains: the reference that training gives.

1. Levels of the brevity suite whose unsteered accuracy on `choose` is at least 30% take part.
2. Vectors, and the strength at which each meets a KL.
3. `choose`: every vector at its strengths, random directions, and what competes with them (see `grid`); the rules
   pick a cell for each actuator and, among the finalists on more items, one over all vectors (see `choice`).
4. `report`, once: the vectors' cell under both rules, the unsteered model and the short-chain model on a thousand
   items; each other actuator's pick, and a random direction in the chosen cell's place, on fewer.
5. Wall-clock of the chosen cell against the unsteered model.
6. Twins at matched KL: does brevity raise or lower abstention?
7. Limits: what a perfect stop would save of the chains, and what their tokens are spent on.

Resumable; results.md is written from the run directories.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import steerkit as sk
from experiments.brevity import choice as choices
from experiments.brevity import grid as grids
from experiments.brevity import items, limits, results, timing, twins, vectors
from experiments.brevity.choice import Choice
from experiments.brevity.grid import Grid
from experiments.brevity.strengths import Strengths, confidence_ramp
from experiments.brevity.study import (
    LEAST_ACCURACY,
    TOKENS,
    Levels,
    Study,
    unsteered_levels,
)
from steerkit.analysis.summary import summarise
from steerkit.engines.base import Decoding
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.suites import brevity
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite
from steerkit.sweeps.grid import distinct

HERE = Path(__file__).parent
# Sizes, for about 35 minutes in two threads at 900 tokens/s where unsteered chains have 200 tokens. Changes are paired,
# so of what only stands beside the chosen cell fewer items are enough.
CHOOSE_ITEMS = 40
ABSTENTION_ITEMS = 48
KL_PROMPTS = 8
RAMP_PROMPTS = 24  # whose chains say what is low and what is high confidence
OWN_WORDS_PROBLEMS = 60
OWN_WORDS_LEVELS = (1, 2, 3)
TIMED_PROBLEMS = 96
TIMED_BATCH = 32
TIMED_TURNS = 3
TOKENS_A_SECOND = 900  # for the plan that is printed; nothing that is measured depends on it
TRIAL_LEARNING_STEPS = 2
SHORT = "trained on short chains, unsteered"


def main() -> None:
    """Measure what is not there yet and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--short", type=Path, help="the adapter that was trained on short chains")
    parser.add_argument("--out", type=Path, help="where runs are kept (default: runs/MODEL)")
    parser.add_argument("--limit", type=int, help="at most so many items of each split: a trial, kept apart")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(asked.model, dtype=asked.dtype)
    out = asked.out or HERE / "runs" / lm.name
    study = Study(lm, asked.short, out / "trial" if asked.limit else out, asked.threads, asked.limit)
    levels = unsteered_levels(study)
    text = carry_out(study, levels).document()
    is_first = levels.thinks and lm.name != grids.SECOND
    name = "results.md" if is_first else f"results-{lm.name}.md"
    (study.out / "results.md" if asked.limit else HERE / name).write_text(text, encoding="utf-8")
    print(text)


def carry_out(study: Study, levels: Levels) -> results.Findings:
    """Everything after the levels."""
    whole = items.grown(levels.taking_part, study.size(levels.report_items))
    problems = Suite("brevity-answerable", items.answerable(whole))
    kl_prompts = [item.prompt for item in problems.split("fit").limit(KL_PROMPTS)]
    strengths = Strengths(study.lm, study.out / "strengths.json", kl_prompts)
    grid = built_grid(study, levels, strengths, problems.split("fit").limit(RAMP_PROMPTS))
    choice = chosen(study, levels, grid, problems)
    records, shown = reported(study, levels, problems, grid, choice)
    timed = timing.timed(
        study.lm,
        choice.headline,
        [item.prompt for item in problems.split("choose").limit(study.size(TIMED_PROBLEMS))],
        Decoding(TOKENS),
        turns=TIMED_TURNS,
        batch_size=TIMED_BATCH,
        threads=study.threads,
        path=study.out / "timing.json",
    )
    twin_parts, answers = on_twins(study, levels, choice, strengths, whole)
    return results.Findings(
        heading=heading(study),
        levels=results.levels_table(levels.accuracies, levels.taking_part, LEAST_ACCURACY),
        qualified=levels.qualified,
        tokens=levels.tokens,
        grid=grid,
        choice=choice,
        records=records,
        shown=shown,
        short=SHORT if SHORT in records else None,
        limits=limited(study, levels, problems, records["unsteered"]),
        timing=timed,
        twin_parts=twin_parts,
        answers=answers,
        strengths=strengths,
    )


def built_grid(study: Study, levels: Levels, strengths: Strengths, confident: Suite) -> Grid:
    """The cells of `choose`, after a word on how much there is to come."""
    plan = grids.plan_of(study.lm.name, levels.thinks)
    print_plan(plan, levels)

    def unit(vector: sk.SteeringVector, layer: int) -> tuple[float, float | None]:
        found = strengths.at(vector, layer, grids.UNIT_KL)
        return found.record.strength, found.published

    ramp = None
    if any(family.follows for family in plan.families):
        ramp = confidence_ramp(study.lm, study.out / "ramp.json", [item.prompt for item in confident])
    return grids.build(plan.families, made_vectors(study, levels.thinks), unit, plan.edits, ramp)


def chosen(study: Study, levels: Levels, grid: Grid, problems: Suite) -> Choice:
    """Both rounds on `choose`, and what the rules make of them, written down."""
    wide = study.measured(grid.cells, "choose", problems, "choose", CHOOSE_ITEMS)
    first = {item.id for item in problems.split("choose").limit(study.size(CHOOSE_ITEMS))}
    records = wide.records({cell.id for cell in grid.cells})
    rows = summarise((r for r in records if r.item in first), wide.cells)
    last = [Cell(), *choices.finalists(grid, rows, levels.tokens)]
    narrow = study.measured(last, "choose", problems, "choose", levels.final_items)
    final_rows = summarise(narrow.records({cell.id for cell in last}), narrow.cells)
    choice = choices.chosen(grid, rows, final_rows, levels.tokens)
    facts = {"model": study.lm.name, "thinks": levels.thinks, "levels": list(levels.taking_part)}
    choices.keep(study.out / "choice.json", choice, grid.actuators[choice.headline.id], facts)
    return choice


def heading(study: Study) -> str:
    """What was run."""
    dtype = str(study.lm.dtype).removeprefix("torch.")
    trial = f" **A trial: at most {study.limit} items of each split.**" if study.limit else ""
    return (
        f"# Brevity steering: {study.lm.name}\n\nWritten by `run.py` from the run directories. {dtype}, greedy, at "
        f"most {TOKENS} tokens. In brackets 95% intervals, paired bootstrap; changes are against the unsteered model, "
        f"on the items that both have.{trial}"
    )


def print_plan(plan: grids.Plan, levels: Levels) -> None:
    """An upper estimate of the tokens to come, as if every cell wrote as much as the unsteered model."""
    steered = sum(len(family.multiples) + family.published for family in plan.families)
    actuators = {family.actuator for family in plan.families} | plan.edits.keys()
    completions = {
        "choose": (1 + steered + sum(map(len, plan.edits.values()))) * CHOOSE_ITEMS,
        "finalists": (1 + choices.FINALISTS) * (levels.final_items - CHOOSE_ITEMS),
        "report": 3 * levels.report_items + len(actuators) * plan.compared,
        "timing": 2 * TIMED_TURNS * TIMED_PROBLEMS,
        "twins": (plan.twins if levels.thinks else ABSTENTION_ITEMS) * twins.CELLS,
    }
    for stage, count in completions.items():
        print(f"plan: {stage}, {count} completions, at most about {count * levels.mean_tokens:,.0f} tokens")
    total = sum(completions.values()) * levels.mean_tokens
    print(
        f"plan: {total:,.0f} tokens in all at {levels.mean_tokens:.0f} each, "
        f"{total / TOKENS_A_SECOND / 60:.0f} minutes at {TOKENS_A_SECOND} tokens/s; a trial is shorter",
        flush=True,
    )


def made_vectors(study: Study, thinks: bool) -> dict[str, sk.SteeringVector]:
    """The model's vectors by name."""
    folder = study.out / "vectors"
    if thinks:
        steps = vectors.LEARNING_STEPS if study.limit is None else TRIAL_LEARNING_STEPS
        return vectors.reasoner_vectors(study.lm, folder, steps)
    fit = Suite("problems", items.answerable(brevity.generate(levels=OWN_WORDS_LEVELS))).split("fit")
    return vectors.base_vectors(study.lm, folder, [item.prompt for item in fit.limit(OWN_WORDS_PROBLEMS)])


def reported(
    study: Study, levels: Levels, problems: Suite, grid: Grid, choice: Choice
) -> tuple[dict[str, list[Record]], str]:
    """Measure on `report`: the records by label, the unsteered model's first, and the label of the headline."""
    best = distinct([choice.headline, *(cell for cell in choice.best.values() if cell is not None)])
    by_actuator = zip(*(picks.values() for picks in choice.picked.values()), strict=True)
    beside = [
        next(filter(None, cells), None) for cells in by_actuator
    ]  # the strict pick, or else the loose one
    random = grids.control(choice.headline)
    study.measured([Cell(), *best], "report", problems, "report", levels.report_items)
    others = distinct([*filter(None, beside), random])
    compared = grids.plan_of(study.lm.name, levels.thinks).compared
    run = study.measured(others, "report", problems, "report", compared)

    by_cell: dict[str, list[Record]] = {}
    for record in run.records():
        by_cell.setdefault(record.cell, []).append(record)
    records = {"unsteered": by_cell[Cell().id]}
    for cell in distinct([*best, *others]):
        name = "random direction in its place" if cell.id == random.id else grid.actuators[cell.id]
        records[f"{name} {results.spec(cell)}"] = by_cell[cell.id]
    if study.short is not None:
        short = sk.load_model(study.short, dtype=str(study.lm.dtype).removeprefix("torch."))
        trained = study.measured([Cell()], "short", problems, "report", levels.report_items, short)
        records[SHORT] = list(trained.records())
    return records, f"{grid.actuators[choice.headline.id]} {results.spec(choice.headline)}"


def limited(study: Study, levels: Levels, problems: Suite, plain: Sequence[Record]) -> str | None:
    """What a perfect stop would save and what the chains are made of; None of a model without chains."""
    if not levels.thinks:
        return None
    cells = limits.budget_cells()
    run = study.measured(list(cells.values()), "report", problems, "report", limits.ITEMS)
    first = {item.id for item in problems.split("report").limit(study.size(limits.ITEMS))}
    by_budget = {
        budget: [record for record in run.records({cell.id}) if record.item in first]
        for budget, cell in cells.items()
    }
    return limits.section(plain, by_budget, study.lm)


def on_twins(
    study: Study, levels: Levels, choice: Choice, strengths: Strengths, whole: Sequence[SuiteItem]
) -> tuple[list[str], list[str]]:
    """The headline's vector, the same taken away and a random direction, at matched KL: tables and answers."""
    made = twins.directions(choice.headline.interventions[0], strengths)
    cells = twins.cells(made)
    if levels.thinks:
        title = "Twins of the word problems"
        paired = Suite("brevity-twins", items.twins(whole))
        run = study.measured(
            cells, "twins-brevity-twins", paired, "report", grids.plan_of(study.lm.name, True).twins
        )
    else:  # which abstains from nothing among word problems
        title = "The abstention suite"
        run = study.measured(cells, "twins-abstention", "abstention", "report", ABSTENTION_ITEMS)
    part, answers = twins.section(title, made, list(run.records()))
    return [part], answers


if __name__ == "__main__":
    main()
