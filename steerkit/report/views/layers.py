"""Vectors and probes: their layers as charts, and what their metadata says."""

from __future__ import annotations

from steerkit.core.registry import VIEWS
from steerkit.engines.base import steerings_of
from steerkit.interventions.probe import Probe
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import SteeringVector
from steerkit.report.views.charts import layer_chart
from steerkit.report.views.parts import facts, frame, table


def vector_html(vector: SteeringVector) -> str:
    """Return a vector's layers: held-out separability, agreement of its pairs and its length, where they are known."""
    data = vector.metadata
    use = recommended_use(vector)
    marked = [layer for each in steerings_of(use) for layer in each.layers]
    charts = []
    if data.separability is not None:
        words = data.baseline_separability
        reference = None if words is None else ("words alone", words)
        charts.append(
            layer_chart(
                "held-out separability (AUROC)",
                data.separability,
                marked=marked,
                reference=reference,
                low=0.5,
                high=1.0,
            )
        )
    if data.agreement is not None:
        charts.append(
            layer_chart("agreement of the pairs (cosine)", data.agreement, marked=marked, low=0.0, high=1.0)
        )
    doses = [vector.relative_dose(layer, 1.0) for layer in range(vector.n_layers)]
    if all(dose is not None for dose in doses):
        lengths = [dose or 0.0 for dose in doses]
        charts.append(layer_chart("push at strength 1, share of the state", lengths, marked=marked, low=0.0))
    else:
        norms = vector.direction.norm(dim=-1).tolist()
        charts.append(layer_chart("length of the direction", norms, marked=marked, low=0.0))
    said = {
        "for": data.model,
        "made by": _made_by(vector),
        "recommended use": " ; ".join(map(str, use)),
        "gate": "" if vector.probe is None else repr(vector.probe),
        "fingerprint": data.fingerprint,
    }
    subtitle = f"steering vector, {vector.n_layers} layers, width {vector.d_model}{vector.where}"
    return frame(vector.name, subtitle, _charts(charts), facts(said), _calibration(vector))


def probe_html(probe: Probe) -> str:
    """Return a probe's held-out AUROC by layer, the thresholds on record and what it was fitted on."""
    data = probe.metadata
    charts = []
    if data.auroc is not None:
        words = data.baseline_auroc
        charts.append(
            layer_chart(
                "cross-fitted AUROC",
                data.auroc,
                marked=[data.layer],
                reference=None if words is None else ("words alone", words),
                low=0.5,
                high=1.0,
            )
        )
    if data.ece is not None:
        charts.append(layer_chart("calibration error (ECE)", data.ece, marked=[data.layer], low=0.0))
    said = {
        "for": data.model,
        "fitted on": f"{data.data_count} prompts of {', '.join(data.data)}" if data.data else "",
        "fires from": f"{data.threshold:.3f} on, at layer {data.layer}",
        "stays shut on": ", ".join(data.shut_kinds),
        "fingerprint": data.fingerprint,
    }
    subtitle = f"probe, {probe.n_layers} layers, width {probe.d_model}{probe.where}"
    return frame(probe.name, subtitle, _charts(charts), facts(said), _thresholds(probe))


def _made_by(vector: SteeringVector) -> str:
    data = vector.metadata
    pairs = f" of {data.pairs_count} pairs" if data.pairs_count else ""
    return f"{data.method}{pairs}, aggregation {data.aggregation}, scaling {data.scaling}"


def _calibration(vector: SteeringVector) -> str:
    records = sorted(vector.metadata.calibration or (), key=lambda each: (each.target_kl, each.layer))
    if not records:
        return ""
    rows = [
        [
            str(each.layer),
            each.scope,
            f"{each.target_kl:g}",
            f"{each.strength:+.3f}",
            f"{each.measured_kl:.3f}"
            + (f" [{each.interval[0]:.3f}, {each.interval[1]:.3f}]" if each.interval else ""),
        ]
        for each in records
    ]
    headings = ["layer", "scope", "KL asked for", "strength", "KL measured, nats per token"]
    return table(headings, rows, numbers=3)


def _thresholds(probe: Probe) -> str:
    if not probe.metadata.thresholds:
        return ""
    rows = [
        [
            str(each.layer),
            f"{each.budget:g}",
            f"{each.threshold:.3f}",
            f"{each.choose_true_positive_rate:.2f}",
            f"{each.choose_false_positive_rate:.2f}",
            str(each.count or ""),
        ]
        for each in probe.metadata.thresholds
    ]
    headings = ["layer", "budget", "fires from", "of positives", "of negatives", "items"]
    return table(headings, rows, numbers=5)


def _charts(drawn: list[str]) -> str:
    return f'<div class="sk-charts">{"".join(drawn)}</div>' if drawn else ""


VIEWS.add("vector", vector_html)
VIEWS.add("probe", probe_html)
