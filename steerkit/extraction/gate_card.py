"""The card of a fitted gate: what it is, how well it reads and where, and what holds of its threshold, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.interventions.probe import Probe, ProbeThreshold
from steerkit.interventions.probe_report import GateReport, KindReport

DASH = "–"


def gate_card(probe: Probe) -> str:
    """Return the card of a probe that `gate fit` made, as Markdown; of another, what its metadata says of the fit."""
    metadata, report = probe.metadata, probe.metadata.report
    lines = [
        f"# {probe.name}",
        "",
        f"A gate for {metadata.model} (fingerprint `{metadata.fingerprint}`): a logistic probe of the state at the "
        f"last prompt token, {metadata.site} of layer {metadata.layer}. It opens for questions like the positive ones "
        f"of {', '.join(metadata.data) or 'its data'} ({metadata.data_count} questions, SHA-256 "
        f"`{metadata.data_digest}`).",
        "",
    ]
    if metadata.thresholds:
        lines += [*_threshold(metadata.thresholds[0], report), ""]
    if report is not None:
        lines += _report(report)
    lines += [
        "## What it does not say",
        "",
        "- A probe reads the kind of question that it was fitted on. On questions of another kind neither its scores "
        "nor its bound hold: `steerkit gate compare` measures it there.",
        "- Its probability is calibrated for the share of positive questions among those that fitted it.",
    ]
    return "\n".join(lines) + "\n"


def _threshold(chosen: ProbeThreshold, report: GateReport | None) -> Iterator[str]:
    yield f"It opens from the probability {chosen.threshold:.3f} on."
    yield ""
    rates = f"{chosen.choose_true_positive_rate:.0%} of the positive questions and "
    rates += f"{chosen.choose_false_positive_rate:.0%} of the negative ones"
    if chosen.bound is None:
        where = "cross-fitted" if report is not None else "where it was chosen"
        yield f"There it opens for {rates} ({where}; at most {chosen.budget:.0%} of the negative ones were allowed)."
        yield "This keeps to the budget about, without a guarantee: `--guarantee` gives one."
        return
    bound = chosen.bound
    yield f"There it opens for {rates}, on a half of the questions that took no part in the fit."
    yield (
        f"**Bound**: with {bound.confidence:.10g} confidence the share of question groups in which it opens for a "
        f"question that it should leave alone is at most {bound.limit:g} (`{bound}`; {bound.losses} of {bound.groups} "
        "held-out groups; exact binomial tests in a fixed order, arXiv 2110.01052). Where the gate stays shut nothing "
        "changes, so over-abstention rises by no more than that. It assumes that questions to come are drawn as those "
        "were, twins together as one group. `steerkit gate check` raises an alarm where questions are unlike those "
        "of the bound (a permutation test of the energy distance, p at most 0.01)."
    )


def _report(report: GateReport) -> Iterator[str]:
    fitted_on = "the half that fits" if report.held_out else "the questions"
    yield from ("## How well it reads", "")
    yield f"Cross-fitted on {fitted_on}; layer, regularisation and calibration are chosen anew in each fold."
    yield "Brackets are 95% intervals, by a bootstrap over groups of questions."
    yield ""
    yield from _table(("", "AUROC"), [("this probe", report.auroc), ("words alone (TF-IDF)", report.words)])
    yield f"Recall at the threshold: {report.recall}."
    yield ""
    if report.kinds:
        yield from _kinds(report)
    if report.curve:
        yield from _curve(report)


def _kinds(report: GateReport) -> Iterator[str]:
    yield from ("## By kind of question", "")
    shut = [each.kind for each in report.kinds if each.shut]
    if shut:
        yield (
            f"**Kept shut on: {', '.join(shut)}.** The lower end of the AUROC there is not above {report.coin:g}, so "
            "the gate would be a coin. A second reading of the same state tells these kinds; its cut lets at most 5% "
            "of their questions through to the threshold, and costs some recall on the others."
        )
    else:
        yield f"Open on every kind: the lower end of each AUROC is above {report.coin:g}."
    yield ""
    rows = [
        (*_counts(each), each.auroc, "shut" if each.shut else "open", *_opens(each)) for each in report.kinds
    ]
    columns = ("kind", "positive", "negative", "AUROC", "gate", "opens for positive", "opens for negative")
    yield from _table(columns, rows)


def _counts(kind: KindReport) -> tuple[str, int, int]:
    return kind.kind, kind.positive, kind.negative


def _opens(kind: KindReport) -> list[str | None]:
    return [None if share is None else f"{share:.0%}" for share in kind.opens]


def _curve(report: GateReport) -> Iterator[str]:
    yield from ("## How many more questions would help", "")
    rows = [
        (how, each.questions, each.auroc, each.words)
        for how, points in (("measured", report.curve), ("expected", report.expected))
        for each in points
    ]
    yield from _table(("", "questions that fit", "AUROC", "words alone"), rows)
    said = gain_said(report)
    if said:
        yield said
        yield ""


def gain_said(report: GateReport) -> str:
    """Return in a sentence what as many questions again would bring; nothing where too few sizes were measured."""
    if report.gain is None or not report.expected:
        return ""
    first, last = report.expected[0], report.expected[-1]
    signed = f"{report.gain.value:+.3f} [{report.gain.low:+.3f}, {report.gain.high:+.3f}]"
    return (
        f"{last.questions - first.questions} questions more are expected to change the AUROC by {signed} (a - b/√n "
        "through the measured sizes at this layer; the shape is an assumption, further ahead would be a guess)."
    )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(DASH if cell is None else _cell(cell) for cell in row)} |"
    yield ""


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
