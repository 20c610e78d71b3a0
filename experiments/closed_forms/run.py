"""Do the closed forms give the strength that meets a KL? Beside each, the KL that is measured at its strength.

    python -m experiments.closed_forms.run [--vector NAME] [--layers 8,12,14,16] [--targets 0.1,0.5] [--limit 16]

Everything is on items of `fit`, teacher-forced on the unsteered roll-outs. results.md is written anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import steerkit as sk
from experiments.closed_forms.derivatives import States
from experiments.closed_forms.forms import ClosedForms, closed_forms
from steerkit.calibration.calibrate import default_prompts
from steerkit.calibration.tokens import Statistic, pool
from steerkit.core.files import replacing
from steerkit.core.prompts import EncodedText, Prompt
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.divergence import divergences, roll_outs
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.table import Program
from steerkit.interventions.spec import parse_range

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
VECTOR = "abstain-smollm2-135m-instruct"
TOKENS = 64
NAMES = ("published", "exact", "fisher")


def unsteered(lm: sk.LanguageModel, prompts: Sequence[Prompt], tokens: int = TOKENS) -> list[EncodedText]:
    """The unsteered greedy roll-outs on which formulas and KL are evaluated."""
    requests = [Request(prompt, decoding=Decoding(max_new_tokens=tokens)) for prompt in prompts]
    return roll_outs(TransformersEngine(lm), requests)


def forms_at(
    states: States, vector: sk.SteeringVector, layer: int, kl: float, statistic: Statistic = "mean"
) -> ClosedForms:
    """The closed forms of a vector at one layer for a KL target."""
    found = states.derivatives(layer, vector.direction[layer])
    return closed_forms(found.slopes, found.curvatures, found.variances, kl, statistic)


def measured(
    lm: sk.LanguageModel,
    texts: Sequence[EncodedText],
    vector: sk.SteeringVector,
    layer: int,
    at: Sequence[float],
) -> list[float]:
    """The mean KL at each of the strengths `at`, in nats per token."""
    programs = [Program.of((vector.at(layer, strength),)) for strength in at]
    tables = [table.numpy() for table in divergences(lm, texts, programs)]
    return [pool([table[i] for table in tables]).mean for i in range(len(at))]


def table(
    lm: sk.LanguageModel,
    vector: sk.SteeringVector,
    layers: Sequence[int],
    targets: Sequence[float],
    limit: int,
) -> str:
    """One line a target and layer: the measured strength, then each formula's with the KL measured there."""
    prompts = default_prompts(limit=limit)
    texts = unsteered(lm, prompts)
    states = States(lm, texts)
    lines = [
        "| target | layer | measured strength | KL there | published bound | exact bound | Fisher form |",
        "|---|---|---|---|---|---|---|",
    ]
    for kl in targets:
        strengths = sk.calibrate(lm, vector.at(layers), kl=kl, prompts=prompts, tokens=TOKENS).strengths
        for layer in layers:
            forms = forms_at(states, vector, layer, kl)
            wanted = [strengths.get(layer, 0.0), *(getattr(forms, name) for name in NAMES)]
            there = measured(lm, texts, vector, layer, wanted)
            cells = [f"{strength:.4f} ({value:.1e})" for strength, value in zip(wanted, there, strict=True)]
            own = f"{wanted[0]:.3f} | {there[0]:.3f}" if layer in strengths else "not met | –"
            lines.append(f"| {kl:g} | {layer} | {own} | {' | '.join(cells[1:])} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--vector", default=VECTOR)
    parser.add_argument("--layers", default="8,12,14,16")
    parser.add_argument("--targets", default="0.1,0.5")
    parser.add_argument("--limit", type=int, default=16, help="prompts of the abstention suite's split fit")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    asked = parser.parse_args(arguments)
    lm = sk.load_model(asked.model, dtype="float32")
    vector = sk.load_vector(asked.vector)
    layers, targets = parse_range(asked.layers, int), parse_range(asked.targets, float)
    head = (
        "# Closed forms against measured KL\n\n"
        f"Written by `run.py`: {vector.name} on {lm.name}, {asked.limit} prompts of `fit`. KL(unsteered ‖ steered) in\n"
        "nats per token, teacher-forced on the unsteered roll-out, float32. In brackets: the KL measured at the\n"
        "strength that the formula gives.\n\n"
    )
    with replacing(asked.out, "the results") as scratch:
        scratch.write_text(head + table(lm, vector, layers, targets, asked.limit), encoding="utf-8")


if __name__ == "__main__":
    main()
