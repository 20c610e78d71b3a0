"""A vector's card: what it does, what it was made of, what was measured of it, and its limits, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerkit.engines.base import steerings_of
from steerkit.interventions.probe import Probe
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import SteeringVector
from steerkit.report.markdown import markdown_table
from steerkit.report.tables import MISSING


def vector_card(
    vector: SteeringVector,
    *,
    does: str,
    examples: Sequence[str],
    written_by: str,
    facts: Mapping[str, str],
    sections: Mapping[str, str],
    limits: Sequence[str],
) -> str:
    """Return the card of a vector that is to be published.

    `does` is a sentence, `examples` are command lines, `written_by` names the script. `facts` stand in the first table
    beside what the file says of itself: model, method, held-out separability where it acts, and its gate. `sections`
    are texts by heading; a table of the calibrated strengths and the list of `limits` end the card.
    """
    metadata = vector.metadata
    origin = (
        f"{metadata.method} of {metadata.pairs_count} contrast pairs, aggregation `{metadata.aggregation}`"
    )
    rows = {
        "model": f"{metadata.model}, fingerprint `{metadata.fingerprint}` (other weights need `--allow-mismatch`)",
        "method": f"{origin}, site `{metadata.site}` of all layers",
        **facts,
    }
    layers = sorted({each for s in steerings_of(recommended_use(vector)) for each in s.layers})
    if metadata.separability is not None:
        for layer in layers:
            rows[f"held-out separability at layer {layer}"] = (
                f"AUROC {metadata.separability[layer]:.2f}; words alone {metadata.baseline_separability or 0:.2f}"
            )
    if vector.probe is not None:
        rows["gate"] = probe_sentence(vector.probe)
    if metadata.calibration:
        sections = {**sections, "Calibration": calibration_text(vector)}
    commands = "\n".join(f"$ {example}" for example in examples)
    parts = [
        f"# {vector.name}",
        f"{does} Loads by its name:",
        f"```console\n{commands}\n```",
        f"Written by `{written_by}`; do not edit.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]),
        *(f"## {heading}\n\n{text}" for heading, text in sections.items()),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits),
    ]
    return "\n\n".join(parts) + "\n"


def probe_sentence(probe: Probe) -> str:
    """Return a probe's own numbers: what it was fitted on, its AUROC, and how often its thresholds fire."""
    data = probe.metadata
    auroc = MISSING if data.auroc is None else f"{data.auroc[data.layer]:.3f}"
    words = MISSING if data.baseline_auroc is None else f"{data.baseline_auroc:.3f}"
    thresholds = "; ".join(
        f"budget {each.budget:g}: from {each.threshold:.3f} on, {each.choose_true_positive_rate:.2f} / "
        f"{each.choose_false_positive_rate:.2f}"
        for each in sorted(data.thresholds, key=lambda each: each.budget)
    )
    return (
        f"logistic probe of {data.data_count} questions; cross-fitted AUROC {auroc} at layer {data.layer} (words alone "
        f"{words}); opens on `choose` for questions that should be abstained from / others: {thresholds or MISSING}"
    )


def calibration_text(vector: SteeringVector) -> str:
    """Return the calibrated strengths of a vector: what they were measured on, and a line each."""
    records = sorted(vector.metadata.calibration or (), key=lambda record: (record.target_kl, record.layer))
    lines = []
    for record in records:
        low, high = record.interval or (record.measured_kl, record.measured_kl)
        own = MISSING if record.rollout_kl is None else f"{record.rollout_kl:.3f}"
        dose = vector.relative_dose(record.layer, record.strength)
        lines.append(
            [
                f"{record.target_kl:g}",
                record.layer,
                f"{record.strength:.3f}",
                f"{record.measured_kl:.3f} [{low:.3f}, {high:.3f}]",
                own,
                MISSING if dose is None else f"{dose:.3f}",
            ]
        )
    headings = ["target", "layer", "strength", "measured KL", "KL on its own roll-out", "relative dose"]
    return (
        f"KL(unsteered ‖ steered) in nats per token on {max(r.prompts for r in records)} prompts of `fit`, "
        "teacher-forced on the unsteered roll-out, with its 95% interval; beside it that on the steered model's own "
        "roll-out.\n\n" + markdown_table(headings, lines)
    )
