# ruff: noqa: E501  (the card is a Markdown table)
"""Publish the response contrast with its gate and calibration, and write its card from the run directories.

    python -m experiments.abstention_tradeoff.publish [--runs FOLDER] [--threads 2]

Needs the runs that `run.py` made, and takes those of `longer.py` where they are. The cell that the card is about is
what `RULE` picks on `choose` among the gated cells of the vector; its threshold becomes the gate's default. Strengths
are calibrated where FOLDER does not hold them yet; everything else is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import steerkit as sk
from experiments.abstention_tradeoff.cells import RULES, choices, controls, gates_of, grid
from experiments.abstention_tradeoff.equal_kl import TARGETS, calibrated
from experiments.abstention_tradeoff.longer import LONGER
from experiments.abstention_tradeoff.run import BUDGETS, HERE, LAYERS, MODEL, PUBLIC, SEEDS, TOKENS, fitted
from experiments.abstention_tradeoff.tables import METRICS, across, change, described, level, table
from steerkit.interventions.steering import Steering
from steerkit.runs.cells import Cell

NAME = "abstain-smollm2-135m-instruct"
RULE = "bounded"
CALIBRATED_LAYERS = (8, 12, 14, 16)


def main() -> None:
    """Write the vector and its card to `vectors/`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / MODEL)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(MODEL)
    vectors, probe = fitted(lm, LAYERS[MODEL], asked.runs)
    cells, _ = grid(vectors, LAYERS[MODEL], probe)
    picked = choices(sk.open_run(asked.runs / "choose").summary(), cells)[RULE, "response", True]
    if picked is None:
        raise SystemExit(
            f"no gated cell meets the rule {RULES[RULE]!r} on choose: there is nothing to publish"
        )
    (chosen,) = picked.interventions
    assert isinstance(chosen, Steering)
    records = calibrated(
        lambda: lm,
        vectors["response"],
        CALIBRATED_LAYERS,
        TARGETS,
        asked.runs / "calibrated-response.safetensors",
    )
    vector = vectors["response"].renamed(NAME).with_calibration(records)
    folder = Path("vectors")
    published = vector.with_probe(leading(probe, chosen)).recommending(chosen)
    published.save(folder / f"{NAME}.safetensors")
    (folder / f"{NAME}.md").write_text(card(vector, probe, chosen, asked.runs), encoding="utf-8")


def leading(probe: sk.Probe, chosen: Steering) -> sk.Probe:
    """The probe with the chosen threshold as its default."""
    assert isinstance(chosen.gate, sk.ProbeGate)
    first = chosen.gate.threshold
    thresholds = sorted(probe.metadata.thresholds, key=lambda t: t.threshold != first)
    return replace(probe, metadata=probe.metadata.model_copy(update={"thresholds": tuple(thresholds)}))


def card(vector: sk.SteeringVector, probe: sk.Probe, chosen: Steering, runs: Path) -> str:
    """Data, method, the chosen cell, every measured number, limits."""
    metadata = vector.metadata
    assert metadata.separability is not None
    assert metadata.agreement is not None
    (layer,), strength = chosen.layers, chosen.strength
    assert isinstance(chosen.gate, sk.ProbeGate)
    return f"""# {NAME}

Makes SmolLM2-135M-Instruct say that it does not know. Loads by its name:

```console
$ steerkit generate --steer {NAME} "Who won the football World Cup in 2086?"
$ steerkit generate --steer {NAME}@layer={layer},strength={strength:g} "Who wrote Hamlet?"
```

The name alone is the cell that is measured below, gate included; with a layer and without a gate it acts on every question.

Written by `experiments/abstention_tradeoff/publish.py`; do not edit.

| | |
|---|---|
| model | {metadata.model}, fingerprint `{metadata.fingerprint}` (the bundled 4-bit weights, dequantised; other weights need `--allow-mismatch`) |
| method | {metadata.method} of {metadata.pairs_count} contrast pairs (the built-in set `abstention`), aggregation `{metadata.aggregation}`, site `{metadata.site}` of all layers |
| chosen | layer {layer}, strength {strength:g}, scope `completion`, gate from probability {chosen.gate.threshold:.3f} on: what the rule `{RULES[RULE]}` picks on the split `choose` among this vector's gated cells (layers {" and ".join(map(str, LAYERS[MODEL]))}, four strengths, five thresholds) |
| held-out separability at layer {layer} | AUROC {metadata.separability[layer]:.2f}; words alone {metadata.baseline_separability:.2f}; agreement of pairs {metadata.agreement[layer]:.2f} |
| gate | logistic probe, {probe.metadata.data_count} questions of the suite's split `fit`; {described(probe)} |
| licence | Apache-2.0, as the model |

## Measured on the split `report`

Layer {layer}, strength {strength:g}, greedy, at most {TOKENS} tokens, bfloat16; change from the unsteered model with its 95% interval. The
thresholds were chosen on `choose` for false positive rates of {", ".join(f"{b:g}" for b in BUDGETS)}. Bold: the chosen cell.
Random directions of the same norm: mean over the seeds (smallest to largest).

{on_report(chosen, probe, runs)}

All actuators, layers and strengths: [experiments/abstention_tradeoff](../experiments/abstention_tradeoff/results.md).

## Elsewhere

The chosen cell on sets that took no part in fitting or choosing.

{elsewhere(chosen, runs)}

## Calibration

KL(unsteered ‖ steered) in nats per token on {max(r.prompts for r in metadata.calibration or ())} prompts of `fit`, teacher-forced on the unsteered roll-out, float32, with
its 95% interval; beside it that on the steered model's own roll-out.

{calibration(vector)}

`steerkit calibrate --vector {NAME} --layers {layer} --target-kl 0.1` measures one of them again.

## Limits

- Without the gate it makes the model refuse what it knows; with it, it acts on few of the questions that it should.
  The gate is the limit, not the vector: see the experiment.
- The gate was fitted on one suite and does not transfer: [does_the_gate_transfer](../experiments/does_the_gate_transfer/).
- Abstention is judged by phrase rules, precision 0.87 and recall 0.92 on a held-out labelled half:
  [abstention_scorer](../experiments/abstention_scorer/).
"""


def on_report(chosen: Steering, probe: sk.Probe, runs: Path) -> str:
    """The chosen cell, its random controls, and the other thresholds."""
    measured = sk.open_run(runs / "report").summary()
    plain = next(row for row in measured if row.role == "unsteered")
    rows = {row.cell: row for row in measured if row.n_items == plain.n_items}
    lines = [line("unsteered", [level(plain, m) for m in METRICS])]
    assert isinstance(chosen.gate, sk.ProbeGate)
    others = [gate for gate in gates_of(probe) if gate.threshold != chosen.gate.threshold]
    for gate in [chosen.gate, None, *others]:
        cell = Cell((replace(chosen, gate=gate),))
        label = f"gate, probability {gate.threshold:.3f}" if gate else "every question"
        mark = "**" if gate is chosen.gate else ""
        lines.append(line(f"{mark}{label}{mark}", [change(rows[cell.id], m) for m in METRICS]))
        random = [rows[control.id] for control in controls([cell], SEEDS) if control.id in rows]
        if len(random) > 1:
            values = [across(random, m) for m in METRICS]
            lines.append(line(f"random directions, {label}: {len(random)}", values))
    return table(["steered", *METRICS], lines)


def elsewhere(chosen: Steering, runs: Path) -> str:
    """The unsteered model and the chosen cell on each public set, at each length that was measured."""
    lines = []
    for name in PUBLIC:
        for folder, tokens in ((name, TOKENS), (f"{name}-{LONGER}", LONGER)):
            if (runs / folder / "run.json").is_file():
                rows = {row.cell: row for row in sk.open_run(runs / folder).summary()}
                for label, cell in (("unsteered", Cell()), ("chosen", Cell((chosen,)))):
                    values = [change(rows[cell.id], m) for m in METRICS]
                    lines.append(line(f"{name} | {rows[cell.id].n_items} | {tokens} | {label}", values))
    return table(["set", "items", "tokens at most", "steered", *METRICS], lines)


def calibration(vector: sk.SteeringVector) -> str:
    """One line a calibrated strength."""
    lines = []
    for record in sorted(vector.metadata.calibration or (), key=lambda r: (r.target_kl, r.layer)):
        low, high = record.interval or (record.measured_kl, record.measured_kl)
        own = "–" if record.rollout_kl is None else f"{record.rollout_kl:.3f}"
        lines.append(
            f"| {record.target_kl:g} | {record.layer} | {record.strength:.3f} | "
            f"{record.measured_kl:.3f} [{low:.3f}, {high:.3f}] | {own} | "
            f"{vector.relative_dose(record.layer, record.strength):.3f} |"
        )
    headings = ["target", "layer", "strength", "measured KL", "KL on its own roll-out", "relative dose"]
    return table(headings, lines)


def line(label: str, values: Sequence[str]) -> str:
    """A table's line."""
    return f"| {label} | {' | '.join(values)} |"


if __name__ == "__main__":
    main()
