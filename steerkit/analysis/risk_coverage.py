"""Selective answering: how often a model that may refuse is wrong when it does answer.

Coverage is the share of completions that answer, risk the share of errors among those (El-Yaniv & Wiener 2010;
Geifman & El-Yaniv 2017, arXiv 1705.08500). An answer to an unanswerable question is an error, as is a wrong one
to an answerable question. Completions that cannot be judged (no label, or no reference answer) are left out.

Two kinds of evidence, in one picture:
- *points*: each cell as it is; it answers where it did not abstain.
- *curves*: what a gate read before answering (lower: more willing to answer) decides who answers: the unsteered
  model answers the completions below a threshold, and the rest are refused. A cell has one where it has one gate, or
  several that agree.
  Where the unsteered model abstains by itself it does not answer at any threshold, so that a curve ends in the
  unsteered model's point.

The area under a curve (AURC) is the mean risk over the coverages k/n that it reaches, k = 1, 2, … answers.
Completions that tie in their score enter together, at the mean risk of all their orders. Random refusal
has the unsteered model's own risk at every coverage; the oracle refuses errors first. Intervals are 95%
percentile intervals of a bootstrap over groups of items, all quantities from the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerkit.analysis.outcomes import Outcomes
from steerkit.core.bootstrap import RESAMPLES, Estimate, Floats, Integers, interval, ratio, resampling_weights
from steerkit.runs.cells import RunCell

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class OperatingPoint:
    """A cell as it is: the share of completions that it answers, and the errors among them (None: no answer)."""

    cell: str
    role: str
    coverage: Estimate
    risk: Estimate | None


@dataclass(frozen=True)
class RiskCoverageCurve:
    """Refusing by a score. `coverage`, `risk` and `threshold` `[n_thresholds]` rise with the threshold.

    At each threshold, the completions whose score is at most that are answered. `area`, that of
    `random_order` and that of the `oracle` are mean risks; `gain` is `random_order` minus `area`, paired.
    Of `n` completions `n_answers` are answered at the end, `n_errors` of them wrongly.
    """

    cell: str
    n: int
    n_answers: int
    n_errors: int
    coverage: Floats
    risk: Floats
    threshold: Floats
    area: Estimate
    random_order: Estimate
    oracle: Estimate
    gain: Estimate

    def oracle_curve(self) -> tuple[Floats, Floats]:
        """Coverage and risk, each `[n_answers]`, of refusing errors first."""
        k = np.arange(1, self.n_answers + 1)
        return k / self.n, np.maximum(0, k - (self.n_answers - self.n_errors)) / k


@dataclass(frozen=True)
class RiskCoverage:
    """All points of a run, and the curves, those with the same scores once; `n` completions were judged."""

    points: tuple[OperatingPoint, ...]
    curves: tuple[RiskCoverageCurve, ...]
    n: int


def risk_coverage(
    outcomes: Outcomes, cells: Mapping[str, RunCell], resamples: int = RESAMPLES, seed: int = 0
) -> RiskCoverage | None:
    """Return points and curves of a run; None where nothing can be judged or no question is unanswerable."""
    records = _judged(outcomes)
    if not records.unanswerable.any():
        return None
    weights = resampling_weights(int(records.group.max()) + 1, resamples, seed)
    roles = [cells[cell].role for cell in outcomes.cells]
    members = [np.flatnonzero(records.cell == number) for number in range(len(roles))]
    points = tuple(
        _point(outcomes.cells[number], role, records, members[number], weights)
        for number, role in enumerate(roles)
        if len(members[number])
    )
    base = members[roles.index("unsteered")] if "unsteered" in roles else np.array([], np.int64)
    curves: dict[bytes, RiskCoverageCurve] = {}
    for cell, role, here in zip(outcomes.cells, roles, members, strict=True):
        read = here[~np.isnan(records.gate[here])] if role != "random" else here[:0]
        _, there, beside = np.intersect1d(records.place[read], records.place[base], return_indices=True)
        answered = records.answered[base[beside]]  # by the unsteered model
        score, asked = records.gate[read[there[answered]]], base[beside[answered]]
        same = score.tobytes() + records.place[asked].tobytes()
        if len(score) and same not in curves:
            curves[same] = risk_coverage_curve(
                score, records.wrong[asked], records.group[asked], weights, of=len(there), cell=cell
            )
    return RiskCoverage(points, tuple(curves.values()), max(map(len, members)))


@dataclass(frozen=True)
class _Judged:
    """What the completions that can be judged did, `[n]` each. `place` numbers the pairs of item and sample."""

    cell: Integers
    place: Integers
    group: Integers
    unanswerable: Booleans
    answered: Booleans
    wrong: Booleans
    gate: Floats


def _judged(outcomes: Outcomes) -> _Judged:
    """Leave out the completions of which there is no saying whether they were right to answer."""
    unanswerable = outcomes.should_abstain[outcomes.item]
    abstained, correct = outcomes.scores["abstained"], outcomes.scores["correct"]
    known = (unanswerable == 1) | ((unanswerable == 0) & ~np.isnan(correct))
    kept = np.flatnonzero(known & ~np.isnan(abstained))
    answered = abstained[kept] == 0
    sample, item = outcomes.sample[kept], outcomes.item[kept]
    return _Judged(
        cell=outcomes.cell[kept],
        place=item * (1 + int(sample.max(initial=0))) + sample,
        group=np.unique(outcomes.groups[item], return_inverse=True)[1],
        unanswerable=unanswerable[kept] == 1,
        answered=answered,
        wrong=answered & ((unanswerable[kept] == 1) | (correct[kept] == 0)),
        gate=outcomes.gate[kept],
    )


def risk_coverage_curve(
    score: Floats,
    wrong: NDArray[Any],
    groups: Integers,
    weights: Floats,
    *,
    of: int | None = None,
    cell: str = "",
) -> RiskCoverageCurve:
    """The curve of answers with `score` `[n]` (lower: answered sooner), `wrong` `[n]` and group number `[n]`.

    `weights` `[resamples, n_groups]` is how often each group is drawn. Coverage counts the answers among `of`
    completions, by default `n`.
    """
    order = np.argsort(score, kind="stable")
    score, wrong, groups = score[order], np.asarray(wrong, np.float64)[order], groups[order]
    ends = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # the last of each run of ties
    answers = (ends + 1).astype(np.float64)
    errors = np.cumsum(wrong)[ends]
    drawn = np.array([_areas(wrong, ends, multiplicity) for multiplicity in weights[:, groups]])
    whole = _areas(wrong, ends, np.ones(len(score)))
    estimates = [_estimate(value, column, len(score)) for value, column in zip(whole, drawn.T, strict=True)]
    n = of or len(score)
    counts = (n, len(score), int(wrong.sum()))
    return RiskCoverageCurve(cell, *counts, answers / n, errors / answers, score[ends], *estimates)


def _areas(wrong: Floats, ends: Integers, multiplicity: Floats) -> tuple[float, float, float, float]:
    """AURC by score, in random order, of the oracle, and random minus score, each item counted as often as drawn."""
    answers = np.concatenate([[0.0], np.cumsum(multiplicity)[ends]])
    errors = np.concatenate([[0.0], np.cumsum(multiplicity * wrong)[ends]])
    total, bad = answers[-1], errors[-1]
    if total == 0:
        return np.nan, np.nan, np.nan, np.nan
    k = np.arange(1, int(total) + 1)
    # Within a tie, errors grow evenly: the mean over all orders.
    area = float(np.mean(np.interp(k, answers, errors) / k))
    oracle = float(np.mean(np.maximum(0.0, k - (total - bad)) / k))
    return area, bad / total, oracle, bad / total - area


def _point(cell: str, role: str, records: _Judged, here: Integers, weights: Floats) -> OperatingPoint:
    answered, wrong, there = (
        np.bincount(records.group[here], what, minlength=weights.shape[1])
        for what in (records.answered[here], records.wrong[here], np.ones(len(here)))
    )
    n, answers = len(here), int(answered.sum())
    coverage = _estimate(answers / n, ratio(weights @ answered, weights @ there), n)
    risk = None
    if answers:
        risk = _estimate(wrong.sum() / answers, ratio(weights @ wrong, weights @ answered), answers)
    return OperatingPoint(cell, role, coverage, risk)


def _estimate(value: float, drawn: Floats, n: int) -> Estimate:
    return Estimate(float(value), *interval(drawn), n)
