"""Which cheap number foretells where a vector steers? Predictors per layer against what a sweep measures.

    python -m experiments.abstention_tradeoff.steerability [--runs FOLDER] [--threads 2] [--dtype bfloat16]

The response contrast at every second layer, at one relative dose, so that layers are compared at pushes of one
size; on items of `choose`. Writes steerability.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from scipy.stats import spearmanr

import steerkit as sk
from experiments.abstention_tradeoff.run import HERE, MODEL, measured
from steerkit.runs.cells import Cell

DOSE = 0.25
LAYERS = range(2, 30, 2)
ITEMS = 90


def main() -> None:
    """Measure and correlate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / MODEL)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(MODEL, dtype=asked.dtype)
    path = asked.runs / "response.safetensors"
    vector = sk.load_vector(path) if path.is_file() else sk.extract(lm, sk.load_pairs("abstention"))
    cells = {layer: Cell((vector.at(layer, DOSE / dose_of_one(vector, layer)),)) for layer in LAYERS}
    asking = sk.Measurement("abstention", "choose", ITEMS)
    run = measured(lm, [Cell(), *cells.values()], asked.runs / "steerability", asking)
    rows = {row.cell: row for row in run.summary()}
    effect = [
        rows[cell.id].changes["abstention_recall"].value + rows[cell.id].changes["over_abstention"].value
        for cell in cells.values()
    ]
    metadata = vector.metadata
    assert metadata.separability is not None
    assert metadata.agreement is not None
    assert metadata.alignment is not None
    predictors = {
        "held-out separability (AUROC)": [metadata.separability[layer] for layer in LAYERS],
        "agreement of the pairs": [metadata.agreement[layer] for layer in LAYERS],
        "logit-lens alignment": [metadata.alignment[layer] for layer in LAYERS],
    }
    lines = [
        "# Where does it steer?",
        f"Written by `steerability.py`: relative dose {DOSE:g} at each layer, {ITEMS} items of `choose`, {asked.dtype}."
        " The effect is the rise in abstention, wanted and unwanted together.",
        "| layer | strength | effect | "
        + " | ".join(predictors)
        + " |\n|---|---|---|"
        + "---|" * len(predictors),
    ]
    lines[-1] += "".join(
        f"\n| {layer} | {DOSE / dose_of_one(vector, layer):.2f} | {effect[i]:+.2f} | "
        + " | ".join(f"{values[i]:.3f}" for values in predictors.values())
        + " |"
        for i, layer in enumerate(LAYERS)
    )
    found = {name: spearmanr(values, effect) for name, values in predictors.items()}
    lines.append(
        "Spearman's rank correlation with the effect over the layers: "
        + "; ".join(f"{name} {test.statistic:+.2f} (p = {test.pvalue:.2g})" for name, test in found.items())
        + "."
    )
    (HERE / "steerability.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    print("\n\n".join(lines))


def dose_of_one(vector: sk.SteeringVector, layer: int) -> float:
    """The relative dose of strength 1."""
    dose = vector.relative_dose(layer, 1.0)
    assert dose is not None
    return dose


if __name__ == "__main__":
    main()
