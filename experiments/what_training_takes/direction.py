"""Is the direction still there, and what do steering and a policy add? Of the base and one model of each filter.

The direction is the mean difference of the built-in pairs `abstention`. Three questions:

1. How alike are the base's and a model's own, layer by layer (cosine)?
2. Does the base's vector still move the model, and does its own, each under a gate fitted on the model's own states?
3. Does the base's probe of the prompt still read the model's states (AUROC on `report`)?

The gate is a probe of the prompt, fitted on the suite's `fit`, whose threshold lets it open for 5% of the answerable
questions of `choose`. Behind it a vector acts, or a policy says "I don't know." in the model's place, which is known
without the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

import steerkit as sk
from experiments.reasoning_tax.gates import Reading, fitted, gated, reading, readings
from experiments.reasoning_tax.results import compared, number, table
from experiments.reasoning_tax.routing import abstention
from experiments.reasoning_tax.setting import PRIMARY, by_item, kept, records_of
from experiments.what_training_takes.study import CHOOSE, Study
from steerkit.extraction.pairs import labelled_prompts
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.suites.suite import Suite

LAYERS = (4, 8, 12, 16, 20, 24, 28)
# The cell that the built-in vector is recommended at (README).
LAYER, STRENGTH = 12, 0.75
FIT, STEERED = 300, 100  # how many questions a gate is fitted on, and how many are steered
METRICS = ("abstention_recall", "over_abstention", "accuracy", "tokens")
SAYS = "policy under the gate"


@dataclass(frozen=True)
class Split:
    """A suite's items of the splits that fit, set a threshold, and report."""

    fit: Suite
    choose: Suite
    report: Suite


def split_of_suite(study: Study, suite: str) -> Split:
    """The items that are used here."""
    whole = sk.load_suite(study.reference(suite))
    sizes = {"fit": FIT, "choose": CHOOSE[suite], "report": STEERED}
    return Split(**{name: whole.split(name).limit(study.size(size)) for name, size in sizes.items()})


def vectors(study: Study, models: Mapping[str, sk.LanguageModel]) -> dict[str, sk.SteeringVector]:
    """Each model's own mean difference of the built-in pairs, made once."""
    pairs = sk.load_pairs("abstention")
    return {
        name: kept(study.out / "vectors" / f"abstain-{name}.safetensors", lambda lm=lm: sk.extract(lm, pairs))
        for name, lm in models.items()
    }


def cosines(found: Mapping[str, sk.SteeringVector]) -> str:
    """A line for each model: the cosine of its direction with the base's, layer by layer."""
    lines = [f"| | {' | '.join(f'layer {layer}' for layer in LAYERS)} |", "|---" * (len(LAYERS) + 1) + "|"]
    base, *others = found
    for name in others:
        values = (cosine(found[base], found[name], layer) for layer in LAYERS)
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return "\n".join(lines)


def cosine(first: sk.SteeringVector, second: sk.SteeringVector, layer: int) -> float:
    """Of two vectors' directions at a layer."""
    a, b = (vector.direction[layer].double() for vector in (first, second))
    return float(a @ b / (a.norm() * b.norm()))


def added(study: Study, suite: str, models: Mapping[str, sk.LanguageModel]) -> Iterator[str]:
    """The parts on one suite as it is: what probes read, and a table for each model of what acts under its gate."""
    items = split_of_suite(study, suite)
    own = vectors(study, models)
    probes = {
        name: fitted(lm, study.out / "probes" / name / f"{suite}.safetensors", labelled_prompts(items.fit))
        for name, lm in models.items()
    }
    yield f"### {suite}: does the prompt's state still say it?"
    yield transfer(models, probes, items.report)
    for name, lm in models.items():
        under = reading(lm, probes[name], items.choose, items.report)
        yield f"### {suite}, {name}"
        yield table(compared(acting(study, suite, name, lm, own, under, items)), METRICS)


def transfer(models: Mapping[str, sk.LanguageModel], probes: Mapping[str, sk.Probe], report: Suite) -> str:
    """AUROC on `report` of the base's probe and of each model's own, on each model's states."""
    labels = np.array([bool(item.should_abstain) for item in report])
    lines = ["| states of | the base's probe | its own probe |", "|---|---|---|"]
    base = next(iter(models))
    for name, lm in models.items():
        areas = []
        for probe in (probes[base], probes[name]):
            read = readings(lm, probe, report)
            areas.append(roc_auc_score(labels, [read[item.id] for item in report]))
        lines.append(f"| {name} | {areas[0]:.3f} | {areas[1]:.3f} |")
    return "\n".join(lines)


def acting(
    study: Study,
    suite: str,
    name: str,
    lm: sk.LanguageModel,
    own: Mapping[str, sk.SteeringVector],
    under: Reading,
    items: Split,
) -> dict[str, list[Record]]:
    """The model's records as it is, then under each vector, ungated and gated, and under the policy."""
    base = next(iter(own))
    used = {"its own vector": own[name]} | ({} if name == base else {"the base's vector": own[base]})
    used["a random direction"] = own[name].random_control()
    cells = {label: Cell((vector.at(LAYER, STRENGTH),)) for label, vector in used.items()}
    if suite != PRIMARY:  # where the policy alone, which costs nothing, is looked at
        cells = {}
    else:
        run = study.setting.measured(
            lm,
            list(cells.values()),
            study.out / "steered" / suite / name,
            study.reference(suite),
            "report",
            study.size(STEERED),
        )
    asked = {item.id for item in items.report}
    whole = by_item(iter(study.plain(name, suite)["as it is"]))
    plain = {item: record for item, record in whole.items() if item in asked}
    gate = under.gates[0]
    found: dict[str, list[Record]] = {"as it is": list(plain.values())}
    for label, cell in cells.items():
        written = by_item(records_of(run, cell))
        found[f"{label}, ungated"] = list(written.values())
        found[f"{label}, under the gate"] = list(gated(cell, written, plain, under, gate))
    reply = tuple(lm.renderer.encode("I don't know."))
    found[SAYS] = [
        abstention(item, reply) if under.fires(gate, item.id) else plain[item.id] for item in items.report
    ]
    return found


def section(study: Study, names: Sequence[str]) -> str:
    """The whole section; the first of `names` is the base."""
    models = {name: study.model(name) for name in names}
    parts = [
        "## Is the direction still there?",
        "Cosine of each model's mean difference of the built-in pairs with the base's:",
        cosines(vectors(study, models)),
        f"Below, vectors act at layer {LAYER}, strength {number(STRENGTH)}, on the whole completion; the gate lets "
        'through 5% of the answerable questions of `choose`, and the policy says "I don\'t know." behind it. Suites '
        "as they are, of ours the policy alone; in parentheses the change from the same model as it is.",
    ]
    for suite in CHOOSE:
        parts += added(study, suite, models)
    return "\n\n".join(parts)
