"""Selective answering: how often a model that may refuse is wrong when it does answer.

Coverage is the share of completions that answer, risk the share of errors among those (El-Yaniv & Wiener 2010;
Geifman & El-Yaniv 2017, arXiv 1705.08500). An answer to an unanswerable question is an error, as is a wrong one
to an answerable question. Completions that cannot be judged (no label, or no reference answer) are left out.

Two kinds of evidence, in one picture:
- *points*: each cell as it is; it answers where it did not abstain.
- *curves*: what a gate read before answering (lower: more willing to answer) decides who answers: the unsteered
  model answers the completions below a threshold, and the rest are refused. It is `gate_probability` in a
  record's scores, or the record's `gate_probabilities` where the cell has one gate, or several that agree.
  Where the unsteered model abstains by itself it does not answer at any threshold, so that a curve ends in the
  unsteered model's point.

The area under a curve (AURC) is the mean risk over the coverages k/n that it reaches, k = 1, 2, … answers.
Completions that tie in their score enter together, at the mean risk of all their orders. Random refusal
has the unsteered model's own risk at every coverage; the oracle refuses errors first. Intervals are 95%
percentile intervals of a bootstrap over groups of items, all quantities from the same draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.core.bootstrap import RESAMPLES, Estimate, Floats, Integers, interval, ratio, resampling_weights
from steerkit.core.errors import InputError
from steerkit.runs.directory import Record

SCORE = "gate_probability"
Place = tuple[str, int]  # item, sample


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


@dataclass(frozen=True)
class _Outcome:
    """What one completion did."""

    group: str
    answered: bool
    wrong: bool
    score: float | None


def risk_coverage(
    records: Iterable[Record], resamples: int = RESAMPLES, seed: int = 0
) -> RiskCoverage | None:
    """Points and curves of a run's records; None where nothing can be judged or no question is unanswerable.

    Raises InputError for a score that is no number.
    """
    cells: dict[str, dict[Place, _Outcome]] = {}
    roles: dict[str, str] = {}
    unanswerable = False
    for record in records:
        outcome = _outcome(record)
        if outcome is not None:
            cells.setdefault(record["cell"], {})[record["item"], record["sample"]] = outcome
            roles[record["cell"]] = record["role"]
            unanswerable = unanswerable or record["should_abstain"] is True
    if not unanswerable:
        return None
    names = sorted({outcome.group for cell in cells.values() for outcome in cell.values()})
    groups = {name: number for number, name in enumerate(names)}
    weights = resampling_weights(len(groups), resamples, seed)
    points = tuple(
        _point(cell, roles[cell], list(outcomes.values()), groups, weights)
        for cell, outcomes in cells.items()
    )
    base: Mapping[Place, _Outcome] = next(
        (cells[cell] for cell, role in roles.items() if role == "unsteered"), {}
    )
    curves: dict[tuple[Any, ...], RiskCoverageCurve] = {}
    for cell, outcomes in cells.items():
        scored = {
            place: outcome.score
            for place, outcome in sorted(outcomes.items())
            if outcome.score is not None and place in base and base[place].answered
        }
        if scored and roles[cell] != "random" and (same := tuple(scored.items())) not in curves:
            numbers = np.array([groups[base[place].group] for place in scored])
            wrong = np.array([base[place].wrong for place in scored])
            judged = sum(place in base for place, outcome in outcomes.items() if outcome.score is not None)
            curves[same] = risk_coverage_curve(
                np.array(list(scored.values())), wrong, numbers, weights, of=judged, cell=cell
            )
    return RiskCoverage(points, tuple(curves.values()), max(map(len, cells.values())))


def risk_coverage_curve(
    score: Floats, wrong: Any, groups: Integers, weights: Floats, *, of: int | None = None, cell: str = ""
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


def _point(
    cell: str, role: str, outcomes: list[_Outcome], groups: Mapping[str, int], weights: Floats
) -> OperatingPoint:
    number = [groups[outcome.group] for outcome in outcomes]
    answered = np.bincount(number, [o.answered for o in outcomes], minlength=len(groups))
    wrong = np.bincount(number, [o.wrong for o in outcomes], minlength=len(groups))
    there = np.bincount(number, minlength=len(groups)).astype(np.float64)
    drawn_answered, drawn_wrong, drawn = weights @ answered, weights @ wrong, weights @ there
    coverage = _estimate(answered.sum() / there.sum(), ratio(drawn_answered, drawn), int(there.sum()))
    risk = None
    if answered.sum():
        risk = _estimate(
            wrong.sum() / answered.sum(), ratio(drawn_wrong, drawn_answered), int(answered.sum())
        )
    return OperatingPoint(cell, role, coverage, risk)


def _outcome(record: Record) -> _Outcome | None:
    """What the record's completion did; None where there is no saying whether it was right to."""
    scores, unanswerable = record["scores"], record["should_abstain"]
    if unanswerable is None or (unanswerable is False and scores["correct"] is None):
        return None
    answered = not scores["abstained"]
    score = _score(record)
    return _Outcome(record["group"], answered, answered and (unanswerable or not scores["correct"]), score)


def _score(record: Record) -> float | None:
    """What the gate read of the record's item; None where there was none, or several that differ."""
    read = set(record.get("gate_probabilities") or ())
    score = record["scores"].get(SCORE, read.pop() if len(read) == 1 else None)
    if score is not None and not (isinstance(score, int | float) and np.isfinite(score)):
        raise InputError(
            f"the record of cell {record['cell']!r} and item {record['item']!r}: what the gate read is no number"
        )
    return score


def _estimate(value: float, drawn: Floats, n: int) -> Estimate:
    return Estimate(float(value), *interval(drawn), n)
