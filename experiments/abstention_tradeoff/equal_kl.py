"""The learned vector against the mean difference where both change the model equally much: at equal KL.

    python -m experiments.abstention_tradeoff.equal_kl [--runs FOLDER] [--threads 2] [--dtype bfloat16]

Needs the vectors and the probe that `run.py` kept. Each vector's strength is calibrated, at each layer, to the same
mean KL(unsteered ‖ steered) on the same prompts of `fit`, in float32; the calibrated cells are measured once on
`report`, ungated and under the probe. Nothing is chosen. Writes results-equal-kl.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import steerkit as sk
from experiments.abstention_tradeoff.cells import gate_with_budget
from experiments.abstention_tradeoff.run import HERE, LAYERS, MODEL, SHOWN_BUDGET, TOKENS, measured
from experiments.abstention_tradeoff.tables import MAIN_METRICS, change, level, table
from steerkit.core.bootstrap import bootstrap_changes, resampling_weights
from steerkit.interventions.vector import CalibrationRecord
from steerkit.runs.cells import Cell

TARGETS = (0.1, 0.5)
VECTORS = ("response", "learned")
Place = tuple[float, int, str]  # target KL, layer, vector


def main() -> None:
    """Calibrate what is not calibrated yet, measure, and write results-equal-kl.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / MODEL)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="items of `report`, balanced (default: all)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    layers = LAYERS[MODEL]
    vectors = {name: sk.load_vector(asked.runs / f"{name}.safetensors") for name in VECTORS}
    found = {
        name: calibrated(
            lambda: sk.load_model(MODEL),
            vector,
            layers,
            TARGETS,
            asked.runs / f"calibrated-{name}.safetensors",
        )
        for name, vector in vectors.items()
    }
    records = {
        (kl, layer, name): next(r for r in found[name] if r.layer == layer and r.target_kl == kl)
        for kl, layer, name in itertools.product(TARGETS, layers, VECTORS)
    }
    gate = gate_with_budget(sk.load_probe(asked.runs / "probe.safetensors"), SHOWN_BUDGET)
    cells = {
        (place, when is not None): Cell((vectors[place[2]].at(place[1], record.strength, gate=when),))
        for place, record in records.items()
        for when in (None, gate)
    }
    run = measured(
        sk.load_model(MODEL, dtype=asked.dtype),
        [Cell(), *cells.values()],
        asked.runs / "equal-kl",
        sk.Measurement("abstention", "report", asked.limit),
    )
    prompts = max(record.prompts for record in records.values())
    parts = [
        "# Learned against mean difference, at equal KL",
        f"Written by `equal_kl.py`. {MODEL}; strengths calibrated in float32 on the same {prompts} prompts of `fit`; "
        f"measured on `report`, {asked.dtype}, greedy, at most {TOKENS} tokens. Gated: the threshold that was chosen "
        f"for {SHOWN_BUDGET:.0%} false positives.",
        cells_table(run, vectors, records, cells),
        "Learned minus mean difference, on the same items:",
        differences(run, layers, cells),
    ]
    text = "\n\n".join(parts) + "\n"
    (HERE / "results-equal-kl.md").write_text(text, encoding="utf-8")
    print(text)


def calibrated(
    model: Callable[[], sk.LanguageModel],
    vector: sk.SteeringVector,
    layers: Sequence[int],
    targets: Sequence[float],
    path: Path,
) -> tuple[CalibrationRecord, ...]:
    """The strengths that meet each target KL at each layer; kept in `path`, and measured only where it has none.

    A file of another direction is not read but replaced. Raises SystemExit where a target is not met.
    """
    kept = sk.load_vector(path) if path.is_file() else vector
    records = list(kept.metadata.calibration or ()) if kept.digest == vector.digest else []
    missing = [
        place
        for place in itertools.product(layers, targets)
        if place not in {(record.layer, record.target_kl) for record in records}
    ]
    lm = model() if missing else None
    for layer, kl in missing:
        assert lm is not None
        found = sk.calibrate(lm, vector.at(layer), kl=kl)
        if not found.records():
            raise SystemExit(
                f"{vector.name} does not meet a KL of {kl} at layer {layer}: {found.layers[0].reason}"
            )
        records += found.records()
        vector.with_calibration(records).save(path)  # one by one, so that a stopped run goes on
    return tuple(records)


def cells_table(
    run: sk.Run,
    vectors: Mapping[str, sk.SteeringVector],
    records: Mapping[Place, CalibrationRecord],
    cells: Mapping[tuple[Place, bool], Cell],
) -> str:
    """One line a calibrated cell."""
    rows = {row.cell: row for row in run.summary()}
    plain = next(row for row in rows.values() if row.role == "unsteered")
    lines = [f"| | | unsteered | | | | {' | '.join(level(plain, m) for m in MAIN_METRICS * 2)} |"]
    for place, record in records.items():
        kl, layer, name = place
        dose = vectors[name].relative_dose(layer, record.strength)
        low, high = record.interval or (record.measured_kl, record.measured_kl)
        found = [rows[cells[place, gated].id] for gated in (False, True)]
        values = " | ".join(change(row, metric) for row in found for metric in MAIN_METRICS)
        lines.append(
            f"| {kl:g} | {layer} | {name} | {record.strength:.3f} | {record.measured_kl:.3f} [{low:.3f}, {high:.3f}] | "
            f"{dose:.3f} | {values} |"
        )
    headings = ["target KL", "layer", "vector", "strength", "measured KL", "relative dose"]
    headings += [f"{metric}, {when}" for when in ("ungated", "gated") for metric in MAIN_METRICS]
    return table(headings, lines)


def differences(run: sk.Run, layers: Sequence[int], cells: Mapping[tuple[Place, bool], Cell]) -> str:
    """The learned vector's metrics minus the mean difference's, paired."""
    outcomes = run.outcomes
    number = {cell: i for i, cell in enumerate(outcomes.cells)}
    weights = resampling_weights(int(outcomes.groups.max()) + 1)
    lines = []
    for kl, layer, gated in itertools.product(TARGETS, layers, (False, True)):
        mean, learned = (number[cells[(kl, layer, name), gated].id] for name in VECTORS)
        values = []
        for metric in MAIN_METRICS:
            pair = outcomes.values[metric][[mean, learned]]
            (_, found) = bootstrap_changes(pair, 0, outcomes.groups, weights)
            values.append(f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" if found else "–")
        lines.append(f"| {kl:g} | {layer} | {'gated' if gated else 'ungated'} | {' | '.join(values)} |")
    return table(["target KL", "layer", "", *MAIN_METRICS], lines)


if __name__ == "__main__":
    main()
