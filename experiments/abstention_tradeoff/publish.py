# ruff: noqa: E501  (the card is a Markdown table)
"""Publish the response contrast with its gate and calibration, and write its card from the run directories.

    python -m experiments.abstention_tradeoff.publish [--runs FOLDER] [--threads 2]

Needs the runs that `run.py` made. Measures the calibrated strengths; everything else is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import steerkit as sk
from experiments.abstention_tradeoff.run import (
    BUDGETS,
    HERE,
    METRICS,
    MODEL,
    TOKENS,
    change,
    described,
    level,
)
from steerkit.sweeps.run import open_run

NAME = "abstain-smollm2-135m-instruct"
LAYER, STRENGTH = 14, 1.0
TARGETS = (0.1, 0.5)
CALIBRATED_LAYERS = (8, 12, 14, 16)
PROMPTS = 16


def main() -> None:
    """Write the vector and its card to `vectors/`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / MODEL)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    response = sk.load_vector(asked.runs / "response.safetensors").renamed(NAME)
    probe = sk.load_probe(asked.runs / "probe.safetensors")
    lm = sk.load_model(MODEL)
    items = sk.load_suite("abstention").split("fit").limit(PROMPTS)
    found = [
        sk.calibrate(lm, response, CALIBRATED_LAYERS, target_kl=kl, prompts=[item.prompt for item in items])
        for kl in TARGETS
    ]
    vector = response.with_calibration([record for one in found for record in one.records()])
    folder = Path("vectors")
    vector.with_probe(probe).save(folder / f"{NAME}.safetensors")
    (folder / f"{NAME}.md").write_text(card(vector, probe, asked.runs, found), encoding="utf-8")


def card(vector: sk.SteeringVector, probe: sk.Probe, runs: Path, calibrations: list[sk.Calibration]) -> str:
    """Data, method, layer, strength, every measured number, limits."""
    metadata = vector.metadata
    assert metadata.separability is not None
    assert metadata.agreement is not None
    report = {row.cell: row for row in open_run(runs / "report").summary()}
    plain = next(row for row in report.values() if row.role == "unsteered")
    gates = [sk.ProbeGate(probe, t.layer, t.threshold) for t in probe.metadata.thresholds]
    measured = [f"| unsteered | {' | '.join(level(plain, m) for m in METRICS)} |"]
    for gate in [None, *gates]:
        row = report[_cell_id(vector.renamed("response"), gate)]
        label = "every question" if gate is None else f"gate, probability {gate.threshold:.3f}"
        measured.append(f"| {label} | {' | '.join(change(row, m) for m in METRICS)} |")
    doses = [
        f"| {one.target_kl:g} | {layer.layer} | {layer.strength:.3f} | {layer.at_strength.kl.mean:.3f} | "
        f"{layer.at_strength.relative_dose:.3f} | {_formula(layer.published)} | {_formula(layer.fisher)} |"
        for one in calibrations
        for layer in one
        if layer.strength is not None and layer.at_strength is not None
    ]
    return f"""# {NAME}

Makes SmolLM2-135M-Instruct say that it does not know. Loads by its name:

```console
$ steerkit generate --steer {NAME}@layer={LAYER},strength={STRENGTH:g} "Who won the football World Cup in 2086?"
$ steerkit generate --steer {NAME}@layer={LAYER},strength={STRENGTH:g},gate={NAME} "Who wrote Hamlet?"
```

Written by `experiments/abstention_tradeoff/publish.py`; do not edit.

| | |
|---|---|
| model | {metadata.model}, fingerprint `{metadata.fingerprint}` (the bundled 4-bit weights, dequantised; other weights need `--allow-mismatch`) |
| method | {metadata.method} of {metadata.pairs_count} contrast pairs (the built-in set `abstention`), aggregation `{metadata.aggregation}`, all layers |
| measured here | layer {LAYER}, strength {STRENGTH:g}, scope `completion`: in the middle of the grid, picked by no rule; what the rules pick is in the experiment |
| held-out separability at layer {LAYER} | AUROC {metadata.separability[LAYER]:.2f}; words alone {metadata.baseline_separability:.2f}; agreement of pairs {metadata.agreement[LAYER]:.2f} |
| gate | logistic probe, {probe.metadata.data_count} questions of the suite's split `fit`; {described(probe)} |
| licence | Apache-2.0, as the model |

## Measured on the split `report`

Layer {LAYER}, strength {STRENGTH:g}, greedy, at most {TOKENS} tokens, bfloat16; change from the unsteered model with its 95% interval. The
thresholds were chosen on `choose` for false positive rates of {", ".join(f"{b:g}" for b in BUDGETS)}.

| steered | {" | ".join(METRICS)} |
|---|{"---|" * len(METRICS)}
{chr(10).join(measured)}

All actuators, layers and strengths: [experiments/abstention_tradeoff](../experiments/abstention_tradeoff/results.md).

## Calibration

KL(unsteered ‖ steered) in nats per token on {PROMPTS} prompts of `fit`, teacher-forced on the unsteered roll-out, float32.

| target | layer | strength | measured KL | relative dose | published bound (KL there) | Fisher form (KL there) |
|---|---|---|---|---|---|---|
{chr(10).join(doses)}

## Limits

- Without the gate it makes the model refuse what it knows; with it, it acts on few of the questions that it should.
  The gate is the limit, not the vector: see the experiment.
- The numbers above have no random control and are of one suite; SelfAware and UMWP are in the experiment, for the rules'
  picks.
- The gate was fitted on one suite and does not transfer: [does_the_gate_transfer](../experiments/does_the_gate_transfer/).
- Abstention is judged by phrase rules, precision 0.87 and recall 0.92 on a held-out labelled half:
  [abstention_scorer](../experiments/abstention_scorer/).
"""


def _cell_id(vector: sk.SteeringVector, gate: sk.ProbeGate | None) -> str:
    from steerkit.sweeps.grid import Cell

    return Cell((vector.at(LAYER, STRENGTH, gate=gate),)).id


def _formula(measured: object) -> str:
    if measured is None:
        return "–"
    return f"{measured.strength:.4f} ({measured.kl.mean:.1e})"  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
