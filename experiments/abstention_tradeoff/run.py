"""Every actuator, gated and ungated: what abstention recall costs in over-abstention and accuracy.

    python -m experiments.abstention_tradeoff.run [--data FOLDER] [--threads 2] [--dtype bfloat16] [--out runs]
    python -m experiments.abstention_tradeoff.run --model gemma3-270m --limit 72

1. Vectors: response contrast (built-in pairs), question contrast (the suite's `fit` questions by whether they
   should be abstained from), the response contrast without the mean state and without what its questions are
   about, and a learned one (contrastive energy). The probe is fitted on `fit`.
2. `choose`: the whole grid, ungated and under the probe at five thresholds; the prompts and the bias besides.
   The rules of `cells.py` pick a cell for each actuator, ungated and gated.
3. `report`, once: the cells that were picked, their random controls, and of some vectors the whole grid, chosen or
   not. The cells that were picked on SelfAware and UMWP, which took no part in anything.
4. What limits it: the detector, the gate's threshold and the actuator, each beside a perfect other.

Resumable; results.md and grid.md (another model's: results-MODEL.md, grid-MODEL.md) are written from the run
directories.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import Progress

import steerkit as sk
from experiments.abstention_tradeoff.cells import (
    CONTROLLED,
    RULES,
    Picked,
    choices,
    controls,
    gate_with_budget,
    grid,
)
from experiments.abstention_tradeoff.frontiers import frontiers
from experiments.abstention_tradeoff.limits import frontier_ratios, limits
from experiments.abstention_tradeoff.tables import chosen_table, described, dose_table, grid_table
from steerkit.analysis.summary import Row
from steerkit.extraction.probe_fit import choose_threshold
from steerkit.extraction.projection import project_out, shared_directions
from steerkit.runs.cells import Cell
from steerkit.sweeps.grid import distinct

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
# Two layers around the middle of each model. Those of the first were known to act from choose_then_report, which had
# chosen them on `choose` and measured three of their cells on `report`.
LAYERS = {MODEL: (12, 14), "gemma3-270m": (8, 10)}
BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5)
SHOWN_BUDGET = 0.1  # the gate under which directions are compared at equal dose
KL_BUDGET = 0.3
SEEDS = range(5)  # of the random directions beside the response contrast's picks; the others' get one
WHOLE = ("response", "question", "projected-content")  # measured on `report` chosen or not
PUBLIC = {"selfaware": "selfaware/SelfAware.json", "umwp": "umwp/StandardDataset.jsonl"}
PUBLIC_ITEMS = 300
TOKENS = 32


def main() -> None:
    """Run what is not there yet and write results.md and grid.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with selfaware/ and umwp/; without it they are left out"
    )
    parser.add_argument("--model", choices=LAYERS, default=MODEL)
    parser.add_argument("--limit", type=int, help="items of each split, balanced (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, help="where runs are kept (default: runs/MODEL)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(asked.model, dtype=asked.dtype)
    out = asked.out or HERE / "runs" / asked.model
    layers = LAYERS[asked.model]
    vectors, probe = fitted(lm, layers, out)

    cells, beside = grid(vectors, layers, probe)
    everything = distinct([*cells, *beside])
    own = sk.Measurement("abstention", "choose", asked.limit)
    wide = measured(lm, everything, out / "choose", own)
    wide_rows = wide.summary()
    picked = choices(wide_rows, cells)
    chosen = [cell for cell in picked.values() if cell is not None]
    narrow = measured(
        lm,
        distinct([Cell(), *chosen, *whole(cells), *beside, *controls(chosen), *seeded(picked)]),
        out / "report",
        own.on("report"),
    )
    narrow_rows = narrow.summary()
    size = "every item" if asked.limit is None else f"{asked.limit} items"
    parts = [
        "# What abstention recall costs, actuator by actuator",
        f"Written by `run.py`. {asked.model}, {asked.dtype}, greedy, at most {TOKENS} tokens, {size} of a split. "
        "Changes are against the unsteered model; 95% intervals, paired bootstrap over twin groups. Strengths and "
        "thresholds are shown to three digits.",
        f"Probe: {described(probe)}",
        *on_report(narrow, narrow_rows, picked, cells),
        "## How far each actuator gets with all its cells",
        "Hulls, in hindsight; what the columns mean stands in `frontiers.py`. On `report`, with the cells that were "
        f"measured there (all of {', '.join(WHOLE)}; of the others, those that were picked):",
        frontiers(narrow.records(), cells),
        "On `choose`, with the whole grid:",
        frontiers(wide.records(), cells),
        *at_equal_dose(vectors, layers, gate_with_budget(probe, SHOWN_BUDGET), narrow_rows, wide_rows),
    ]
    for name, file in PUBLIC.items() if asked.data else ():
        public = sk.Measurement(f"{name}:{asked.data / file}", "report", PUBLIC_ITEMS)
        found = measured(lm, distinct([Cell(), *chosen]), out / name, public)
        parts += elsewhere(name, found, picked, cells)
    suffix = "" if asked.model == MODEL else f"-{asked.model}"
    text = "\n\n".join(parts) + "\n"
    (HERE / f"results{suffix}.md").write_text(text, encoding="utf-8")
    asked_for = {cell.id for cell in everything}
    page = [
        "# The grid on `choose`",
        f"Written by `run.py`; measured as in [results{suffix}.md](results{suffix}.md).",
        grid_table([row for row in wide_rows if row.cell in asked_for]),
    ]
    (HERE / f"grid{suffix}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(text)


def on_report(run: sk.Run, rows: Sequence[Row], picked: Picked, cells: Sequence[Cell]) -> list[str]:
    """What was picked, what the gate is worth, and what limits it."""
    records = list(run.records())
    return [
        "## Chosen on `choose`, measured on `report`",
        "\n".join(f"- **{name}**: `{rule}`" for name, rule in RULES.items()),
        "Random directions, one a seed: mean (smallest to largest).",
        chosen_table(picked, rows, SEEDS),
        "## The response contrast, gated against ungated, on `report`",
        frontier_ratios(records, of_response(cells)),
        "## What limits it, on `report`",
        limits(records, of_response(cells)),
    ]


def at_equal_dose(
    vectors: Mapping[str, sk.SteeringVector],
    layers: Sequence[int],
    gate: sk.ProbeGate,
    reported: Sequence[Row],
    chosen_on: Sequence[Row],
) -> list[str]:
    """The question contrast beside the response contrast and a random direction, on both splits."""
    return [
        "## The question contrast at the response contrast's dose",
        f"Gated: the threshold that was chosen for {SHOWN_BUDGET:.0%} false positives. On `report`:",
        dose_table(vectors, layers, CONTROLLED, gate, reported),
        "On `choose`:",
        dose_table(vectors, layers, CONTROLLED, gate, chosen_on),
    ]


def elsewhere(name: str, run: sk.Run, picked: Picked, cells: Sequence[Cell]) -> list[str]:
    """The cells that were picked, on another set."""
    records = list(run.records())
    return [
        f"## {name}, never seen in fitting or choosing",
        chosen_table(picked, run.summary()),
        frontier_ratios(records, of_response(cells)),
        limits(records, of_response(cells)),
    ]


def whole(cells: Sequence[Cell]) -> list[Cell]:
    """All cells of the vectors whose frontier is measured on `report`."""
    return [cell for cell in cells if any(each.label in WHOLE for each in cell.interventions)]


def seeded(picked: Picked) -> list[Cell]:
    """Random directions of every seed beside what the bounded rules pick of the response contrast."""
    cells = [picked[rule, "response", gated] for rule in ("strict", "bounded") for gated in (False, True)]
    return controls([cell for cell in cells if cell is not None], SEEDS)


def of_response(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The response contrast's cells by id."""
    return {cell.id: cell for cell in cells if any(each.label == "response" for each in cell.interventions)}


def fitted(
    lm: sk.LanguageModel, layers: Sequence[int], out: Path
) -> tuple[dict[str, sk.SteeringVector], sk.Probe]:
    """The vectors by name and the probe, made once and kept in `out`."""
    out.mkdir(parents=True, exist_ok=True)

    def kept(name: str, make: Callable[[], sk.SteeringVector]) -> sk.SteeringVector:
        path = out / f"{name}.safetensors"
        if not path.is_file():
            make().renamed(name).save(path)
        return sk.load_vector(path)

    pairs = sk.load_pairs("abstention")
    response = kept("response", lambda: sk.extract(lm, pairs))

    def without(what: str) -> sk.SteeringVector:
        return project_out(response, *shared_directions(what, response, lm, pairs))

    vectors = [
        response,
        kept("question", lambda: sk.extract(lm, sk.load_labelled("suite:abstention"))),
        kept("projected", lambda: without("mean")),
        kept("projected-content", lambda: without("content")),
        kept("learned", lambda: sk.learn(lm, pairs, layers, kl_budget=KL_BUDGET)),
    ]
    return {v.name: v for v in vectors}, fitted_probe(lm, out / "probe.safetensors", BUDGETS)


def fitted_probe(lm: sk.LanguageModel, path: Path, budgets: Sequence[float]) -> sk.Probe:
    """The model's own probe for what should be abstained from, thresholds from `choose`; kept in a file."""
    if not path.is_file():
        probe = sk.fit_probe(lm, sk.load_labelled("suite:abstention"), name="should-abstain")
        choose = sk.load_suite("abstention").split("choose")
        for budget in reversed(budgets):  # the last one added is the default
            probe = probe.with_threshold(choose_threshold(probe, lm, choose, budget))
        probe.save(path)
    return sk.load_probe(path)


def measured(
    lm: sk.LanguageModel, cells: Sequence[Cell], out: Path, on: sk.Measurement, tokens: int | None = None
) -> sk.Run:
    """The cells with completions of at most so many tokens (default: TOKENS), with a progress bar."""
    on = replace(on, decoding=sk.Decoding(tokens or TOKENS))
    with Progress() as bar:
        task = bar.add_task(out.name)
        return sk.sweep(
            lm, cells, on, out=out, progress=lambda done, all: bar.update(task, completed=done, total=all)
        )


if __name__ == "__main__":
    main()
