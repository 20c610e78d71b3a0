"""Publish the response contrast with its gate and calibration, and write its card from what `run.py` measured.

    python -m experiments.abstention_tradeoff.publish [--out FOLDER] [--data FOLDER] [--threads 2] [--dtype bfloat16]

The recommended use is what RULE picks on `choose` among the vector's gated cells. Only what the runs lack is measured.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import torch

import steerkit as sk
from experiments.abstention_tradeoff import run
from steerkit.report.card import vector_card
from steerkit.report.comparison import cells_table
from steerkit.runs.cells import Cell
from steerkit.sweeps.comparison import measure, under

RULE = "bounded"
TARGETS, CALIBRATED_LAYERS = (0.1, 0.5), (8, 12, 14, 16)  # nats a token
FOLDER = Path("vectors")
LIMITS = (
    "Without the gate it makes the model refuse what it knows; with it, it acts on fewer than half of the questions "
    "that it should. The gate is the limit, not the vector: see the experiment.",
    "The gate reads the kind of question. It tells apart questions whose subject is missing, that ask for an opinion, "
    "or for what changes or nobody recorded; where the answer hangs on one fact or number of the question (a false "
    "premise, a missing line of a passage) it hardly opens. Its threshold belongs to the suite that chose it: "
    "[does_the_gate_transfer](../experiments/does_the_gate_transfer/).",
    "Abstention is judged by phrase rules, precision 0.86 and recall 0.92 on a held-out labelled half: "
    "[abstention_scorer](../experiments/abstention_scorer/).",
)


def main() -> None:
    """Write the vector and its card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=run.HERE / "runs" / run.MODEL)
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(run.MODEL, dtype=asked.dtype)
    vectors, probe = run.fitted(lm, run.LAYERS[run.MODEL], asked.out)
    found = run.compared(lm, vectors, probe, run.LAYERS[run.MODEL], asked.out)
    chosen = found.picks[RULE][f"response, gated by {probe.name}"]
    if chosen is None:
        raise SystemExit(f"no gated cell meets the rule {run.RULES[RULE]!r}: there is nothing to publish")
    (acting,) = chosen.interventions
    assert isinstance(acting, sk.Steering)
    assert isinstance(acting.gate, sk.ProbeGate)
    own = acting.gate.threshold
    gates = [sk.ProbeGate(probe, each.layer, each.threshold) for each in probe.metadata.thresholds]
    others = [cell for gate in gates if (cell := under(Cell((acting.open,)), gate)).id != chosen.id]
    shown = [chosen, *found.controls[chosen.id], Cell((acting.open,)), *others]
    sections = {"Measured on the split `report`": cells_table(found.report, shown, run.METRICS)}
    for name, file in run.PUBLIC.items() if asked.data else ():
        there = measure([chosen], lm, run.public(name, asked.data / file), asked.out / name)
        sections[f"Measured on {name}"] = cells_table(there, [chosen], run.METRICS)
    records = {(each.layer, each.target_kl): each for each in vectors[0].metadata.calibration or ()}
    for layer, kl in itertools.product(CALIBRATED_LAYERS, TARGETS):
        if (layer, kl) not in records:
            (records[layer, kl],) = sk.calibrate(lm, vectors[0].at(layer), kl=kl).records()
    leading = sorted(probe.metadata.thresholds, key=lambda t: t.threshold != own)
    probe = replace(probe, metadata=probe.metadata.model_copy(update={"thresholds": tuple(leading)}))
    vector = vectors[0].renamed(run.PUBLISHED).with_calibration(list(records.values())).with_probe(probe)
    vector = vector.recommending(acting)
    vector.save(FOLDER / f"{vector.name}.safetensors")
    at = f"layer={acting.layers[0]},strength={acting.strength:g}"
    card = vector_card(
        vector,
        does="Makes SmolLM2-135M-Instruct say that it does not know.",
        examples=[
            f'steerkit generate --steer {vector.name} "Who won the football World Cup in 2086?"',
            f'steerkit generate --steer {vector.name}@{at} "Who wrote Hamlet?"',
        ],
        written_by="experiments/abstention_tradeoff/publish.py",
        facts={"chosen": f"{at}, by `{run.RULES[RULE]}` on `choose`", "licence": "Apache-2.0, as the model"},
        sections=sections,
        limits=LIMITS,
    )
    (FOLDER / f"{vector.name}.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
