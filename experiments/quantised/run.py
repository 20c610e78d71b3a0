"""What a float vector still does on quantised weights of its model, at equal KL; and what each form costs.

    python -m experiments.quantised.run [--limit 120] [--threads 1] [--runs FOLDER]

1. A mean difference over the built-in abstention pairs is extracted from the float weights, and from each form.
2. Its strength is calibrated to the same KL on the float weights and on each form, on the same prompts of `fit`.
3. On `report`, each form is measured unsteered, under the float vector at the float strength, under the float vector
   at its own strength, and under its own vector at equal KL.

Nothing is chosen. Resumable; results.md is written from what is kept in the run folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import steerkit as sk
from experiments.quantised.forms import CPU_HOLDS, FLOAT, FORMS, PROMPTS, TIMED
from steerkit.core.bootstrap import Estimate, Floats, bootstrap_means, resampling_weights
from steerkit.core.files import replacing
from steerkit.extraction.pairs import load_pairs
from steerkit.interventions.vector import CalibrationRecord
from steerkit.runs.cells import Cell

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
LAYER, TARGET = 14, 0.5  # nats per token: known from abstention_tradeoff to move abstention a lot
TOKENS = 32
METRICS = ("abstention_recall", "over_abstention", "accuracy")
WAYS = ("unsteered", "float vector, float strength", "float vector, equal KL", "own vector, equal KL")


@dataclass(frozen=True)
class Measured:
    """One form: its strengths, the cosine of its own vector to the float one, and each way's values by item."""

    records: dict[str, CalibrationRecord]
    cosine: float
    items: tuple[str, ...]
    groups: np.ndarray
    values: dict[str, dict[str, Floats]]  # by way, then metric: [n_items]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not there yet, and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--layer", type=int, default=LAYER)
    parser.add_argument("--limit", type=int, default=120, help="items of `report`, balanced")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--forms", default=",".join(FORMS), help="which; the float weights come first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/quantised"))
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    asked.runs.mkdir(parents=True, exist_ok=True)
    found: dict[str, Measured] = {}
    for form in asked.forms.split(","):
        found[form] = measured(form, asked)
    costs = {form: cost_of(form, asked) for form in TIMED if form == "offloaded" or form in found}
    with replacing(asked.out, "the results") as scratch:
        scratch.write_text(page(found, costs, asked), encoding="utf-8")


def measured(form: str, asked: argparse.Namespace) -> Measured:
    """Extract, calibrate and measure on one form what is not kept yet."""
    lm = FORMS[form](asked.model)
    lossy = form.startswith("gguf")  # rounded after loading, which nothing of the model tells
    own = vector_of(lm, form, asked.runs)
    original = own if form == FLOAT else sk.load_vector(asked.runs / f"{FLOAT}.safetensors")
    records = {"own": calibrated(lm, own, asked.runs / f"{form}-own.safetensors", asked.layer, False)}
    path = asked.runs / f"{form}-float.safetensors"
    records["float"] = records["own"] if form == FLOAT else calibrated(lm, original, path, asked.layer, lossy)
    carried = sk.load_vector(asked.runs / f"{FLOAT}-own.safetensors").metadata.calibration
    assert carried is not None
    cells = {
        WAYS[0]: Cell(),
        WAYS[1]: Cell((original.at(asked.layer, carried[0].strength),)),
        WAYS[2]: Cell((original.at(asked.layer, records["float"].strength),)),
        WAYS[3]: Cell((own.at(asked.layer, records["own"].strength),)),
    }
    run = sk.sweep(
        sk.TransformersEngine(lm, allow_mismatch=lossy),
        list({cell.id: cell for cell in cells.values()}.values()),
        sk.Measurement("abstention", "report", asked.limit, sk.Decoding(asked.tokens)),
        out=asked.runs / form,
    )
    outcomes = run.outcomes
    number = {cell: i for i, cell in enumerate(outcomes.cells)}
    values = {
        way: {metric: outcomes.values[metric][number[cell.id]] for metric in METRICS}
        for way, cell in cells.items()
    }
    a, b = own.direction[asked.layer], original.direction[asked.layer]
    return Measured(
        records, float(torch.cosine_similarity(a, b, dim=0)), outcomes.items, outcomes.groups, values
    )


def vector_of(lm: sk.LanguageModel, form: str, runs: Path) -> sk.SteeringVector:
    """The form's own vector, kept in the run folder."""
    path = runs / f"{form}.safetensors"
    if not path.is_file():
        sk.extract(lm, load_pairs("abstention")).renamed(form).save(path)
    return sk.load_vector(path)


def calibrated(
    lm: sk.LanguageModel, vector: sk.SteeringVector, path: Path, layer: int, lossy: bool
) -> CalibrationRecord:
    """The strength of `vector` on `lm` at the target, kept in `path`. Raises SystemExit where none meets it."""
    if not path.is_file():
        result = sk.calibrate(lm, vector.at(layer), kl=TARGET, allow_mismatch=lossy)
        if not result.records():
            raise SystemExit(f"{vector.name} does not meet {TARGET} on {lm.name}: {result.layers[0].reason}")
        result.vector.save(path)
    kept = sk.load_vector(path).metadata.calibration
    assert kept is not None
    return kept[-1]


def cost_of(form: str, asked: argparse.Namespace) -> dict[str, float]:
    """What the form takes, measured in a process of its own and kept in the run folder."""
    path = asked.runs / f"{form}.cost.json"
    if not path.is_file():
        command = [sys.executable, "-m", "experiments.quantised.forms", form, asked.model, str(asked.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        path.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
    costs: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return costs


def page(found: dict[str, Measured], costs: dict[str, dict[str, float]], asked: argparse.Namespace) -> str:
    """The results page."""
    plain = found[FLOAT]
    assert all(each.items == plain.items for each in found.values())
    how = (
        f"Written by `run.py`. {asked.model}, mean difference over the built-in abstention pairs, layer {asked.layer}, "
        f"added to the completion; strengths calibrated to a KL of {TARGET:g} nats per token on 16 prompts of `fit`; "
        f"{len(plain.items)} items of `report`, greedy, at most {asked.tokens} tokens, packed. Brackets are 95% "
        "intervals, paired over items: behind a level, of its change from the same form unsteered; in the last "
        "columns, of the vector's effect (steered − unsteered) minus its effect on the float weights at equal KL."
    )
    takes = (
        f"What a form takes on {asked.threads} thread(s), float32 activations: the parameters in memory, the process's "
        "peak while it loads and while it decodes, and tokens per second of CPU time relative to "
        f"float32, {PROMPTS} prompts one at a time and in one batch. Same: the share of prompts that are completed "
        f"alike both ways. Offloaded: the CPU may hold {CPU_HOLDS} of the weights, and the rest is read from disk in "
        "every pass."
    )
    parts = ["# A float vector on quantised weights", how, effects(found), takes, cost_table(costs)]
    return "\n\n".join(parts) + "\n"


def effects(found: dict[str, Measured]) -> str:
    """One line a form and way."""
    plain = found[FLOAT]
    weights = resampling_weights(int(plain.groups.max()) + 1)

    def estimates(rows: Sequence[Floats]) -> list[Estimate | None]:
        return [bootstrap_means(row[None], plain.groups, weights)[0] for row in rows]

    def change(form: str, way: str) -> list[Floats]:
        values = found[form].values
        return [values[way][metric] - values[WAYS[0]][metric] for metric in METRICS]

    headings = ["weights", "", "strength", "measured KL", "cosine to the float vector", *METRICS]
    headings += [f"effect on {metric} − float's" for metric in METRICS[:2]]
    lines = []
    for form, each in found.items():
        for way in WAYS if form != FLOAT else (WAYS[0], WAYS[2]):
            levels = estimates([each.values[way][metric] for metric in METRICS])
            if way == WAYS[0]:
                shown = [f"{level.value:.2f}" if level else "–" for level in levels]
                lines.append([form, way, "", "", "", *shown, "", ""])
                continue
            moved, beside = estimates(change(form, way)), change(FLOAT, WAYS[2])
            less = estimates([a - b for a, b in zip(change(form, way), beside, strict=True)][:2])
            if way == WAYS[1]:
                record, kl = found[FLOAT].records["own"], "–"
            else:
                record = each.records["own" if way == WAYS[3] else "float"]
                kl = f"{record.measured_kl:.2f}"
            cosine = f"{each.cosine:.3f}" if way == WAYS[3] else ""
            pairs = [
                f"{level.value:.2f} ({bracketed(by)})" if level else "–"
                for level, by in zip(levels, moved, strict=True)
            ]
            last = ["", ""] if form == FLOAT else [bracketed(e) for e in less]
            lines.append([form, way, f"{record.strength:.3f}", kl, cosine, *pairs, *last])
    return table(headings, lines)


def cost_table(costs: dict[str, dict[str, float]]) -> str:
    """One line a form."""
    plain = costs[FLOAT]
    headings = [
        "weights",
        "parameters, MB",
        "peak loading, MB",
        "peak decoding, MB",
        "alone",
        "in a batch",
        "same",
    ]
    lines = []
    for form, took in costs.items():
        sizes = [f"{took[size]:.0f}" for size in ("weights", "peak_loading", "peak")]
        rates = [f"{took[way] / plain[way]:.2f} ({took[way]:.0f}/s)" for way in ("alone", "batch")]
        lines.append([form, *sizes, *rates, f"{took['same']:.2f}"])
    return table(headings, lines)


def bracketed(estimate: Estimate | None) -> str:
    """A signed estimate with its interval."""
    return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]" if estimate else "–"


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
