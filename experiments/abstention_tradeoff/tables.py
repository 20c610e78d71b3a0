"""How the study's results are written down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import steerkit as sk
from experiments.abstention_tradeoff.cells import Picked, controls, matched_strength
from steerkit.analysis.summary import Row
from steerkit.runs.cells import Cell

METRICS = ("abstention_recall", "over_abstention", "accuracy", "tokens", "truncated", "degenerate")
MAIN_METRICS = METRICS[:3]


def described(probe: sk.Probe) -> str:
    """The probe's own numbers in a sentence."""
    data = probe.metadata
    assert data.auroc is not None
    thresholds = "; ".join(
        f"budget {t.budget:g}: layer {t.layer}, fires for {t.choose_true_positive_rate:.2f} / "
        f"{t.choose_false_positive_rate:.2f}"
        for t in sorted(data.thresholds, key=lambda t: t.budget)
    )
    return (
        f"cross-fitted AUROC {data.auroc[data.layer]:.3f} at layer {data.layer} (words alone "
        f"{data.baseline_auroc:.3f}); on `choose`, for questions that should be abstained from / others: {thresholds}."
    )


def chosen_table(picked: Picked, rows: Sequence[Row], seeds: Iterable[int] = (0,)) -> str:
    """One line a choice, with its random controls behind it where those were measured."""
    plain = next(row for row in rows if row.role == "unsteered")
    by_id = {row.cell: row for row in rows if row.n_items == plain.n_items}
    lines = [f"| | unsteered | | {' | '.join(level(plain, m) for m in METRICS)} |"]
    seeds = list(seeds)
    for (rule, name, gated), cell in picked.items():
        label = f"{name}, {'gated' if gated else 'ungated'}"
        if cell is None:
            empty = " | ".join([""] * len(METRICS))
            lines.append(f"| {rule} | {label} | no cell meets the bounds | {empty} |")
            continue
        row = by_id[cell.id]
        lines.append(
            f"| {rule} | {label} | `{spec_of(row)}` | {' | '.join(change(row, m) for m in METRICS)} |"
        )
        random = [by_id[control.id] for control in controls([cell], seeds) if control.id in by_id]
        if random:
            values = " | ".join(across(random, m) for m in METRICS)
            lines.append(f"| | random directions of its norm: {len(random)} | `{spec_of(row)}` | {values} |")
    return table(["rule", "actuator", "cell", *METRICS], dict.fromkeys(lines))


def dose_table(
    vectors: Mapping[str, sk.SteeringVector],
    layers: Sequence[int],
    strengths: Sequence[float],
    gate: sk.ProbeGate,
    rows: Sequence[Row],
) -> str:
    """The response and the question contrast and a random direction, layer by layer at equal relative dose."""
    by_id = {row.cell: row for row in rows}
    response, question = vectors["response"], vectors["question"]
    lines = []
    for layer in layers:
        for strength in strengths:
            matched = matched_strength(question, response, layer, strength)
            for label, vector, own in (
                ("response", response, strength),
                ("question", question, matched),
                ("random", question.random_control(), matched),
            ):
                found = [by_id[Cell((vector.at(layer, own, gate=when),)).id] for when in (None, gate)]
                values = " | ".join(change(row, metric) for row in found for metric in MAIN_METRICS)
                lines.append(
                    f"| {layer} | {vector.relative_dose(layer, own):.3f} | {label} | {own:g} | {values} |"
                )
    headings = [f"{metric}, {when}" for when in ("ungated", "gated") for metric in MAIN_METRICS]
    return table(["layer", "relative dose", "direction", "strength", *headings], lines)


def grid_table(rows: Sequence[Row]) -> str:
    """Every cell."""
    lines = [
        f"| `{spec_of(row)}` | "
        + " | ".join(f"{row.levels[m].value:.2f}" if m in row.levels else "–" for m in METRICS)
        + " |"
        for row in rows
    ]
    return table(["cell", *METRICS], lines)


def table(headings: Sequence[str], lines: Iterable[str]) -> str:
    """A Markdown table from its lines."""
    return "\n".join([f"| {' | '.join(headings)} |", "|" + "---|" * len(headings), *lines])


def spec_of(row: Row) -> str:
    """What a row's cell does, in words for a table."""
    return shown(row.at.spec or "unsteered")


def shown(spec: str) -> str:
    """A spec as a table shows it: numbers to three digits, and without the scope, which is always the same."""
    spec = spec.replace(",scope=completion", "").replace("|", "/")
    return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", spec)


def level(row: Row, metric: str) -> str:
    """A metric with its interval."""
    if metric not in row.levels:
        return "–"
    e = row.levels[metric]
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def change(row: Row, metric: str) -> str:
    """A metric and its change from the unsteered model, with the change's interval."""
    if metric not in row.levels:
        return "–"
    if row.role == "unsteered":
        return level(row, metric)
    e = row.changes[metric]
    return f"{row.levels[metric].value:.2f} ({e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}])"


def across(rows: Sequence[Row], metric: str) -> str:
    """The mean over some cells, and the smallest and largest of them."""
    values = [row.levels[metric].value for row in rows if metric in row.levels]
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "–"
