"""`gate fit`: from a user's own labelled questions to a gate: probe, threshold, bound, and what is said of them.

1. The probe is that of `probe_fit`. What is said of it is cross-fitted twice over: a question's log-odds come of a fit
   that saw neither it nor its twin, and whose layer, regularisation and calibration were chosen without it too.
2. The threshold keeps to a budget of false alarms among those log-odds; every question then helps to fit. They are
   those of other fits than the gate's, on four fifths of the questions, so the budget is kept to about, not for sure.
3. A *bound* is for certain, at its confidence, and so needs questions that this very probe has not seen: half of the
   groups fit the probe, decide which kinds are shut and draw the learning curve; the other half sets the threshold
   (`core.learn_then_test`). Nothing is fitted again on all of them afterwards.
4. Where questions carry kinds, the gate is kept shut on those that it does not read better than a coin (`gate_kinds`).
   That is decided before the threshold, which is that of the gate as it will act.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.learn_then_test import Certificate, certified_cut, check_enough
from steerkit.core.progress import shows_progress
from steerkit.core.sites import RESID_POST, SiteName
from steerkit.extraction.capture import Progress
from steerkit.extraction.detection import Draws, Floats, Labels, cut_at
from steerkit.extraction.extract import check_site, origin_of
from steerkit.extraction.gate_drift import drift_reference
from steerkit.extraction.gate_kinds import (
    COIN,
    ShutKinds,
    aurocs_by_kind,
    fit_shut,
    kind_reports,
    shut_among,
)
from steerkit.extraction.held_out import Fold, fit_words, folds_by_group
from steerkit.extraction.learning_curve import learning_curve
from steerkit.extraction.pairs import Example, LabelledPrompts, load_labelled
from steerkit.extraction.probe_fit import ALMOST_NEVER, FittedLayers, fit_layers, prompt_states
from steerkit.interventions.base import log_odds_of, probability_of
from steerkit.interventions.drift import DriftReference
from steerkit.interventions.probe import FORMAT_VERSION, Probe, ProbeMetadata, ProbeThreshold
from steerkit.interventions.probe_report import GateReport, ThresholdBound
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded

BUDGET = 0.05  # of the negative questions, for which the gate may open
METRIC = "over_abstention"
FOLDS = 5

States = NDArray[np.float32]


@dataclass(frozen=True)
class GateBound:
    """Over-abstention of at most `limit`, at `confidence`: of the share of question groups in which the gate errs."""

    limit: float
    confidence: float

    def check(self, examples: Sequence[Example], seed: int) -> None:
        """Raise MisuseError where there are too few questions for it, whatever the probe does with them."""
        held = _held_out(examples, seed).held_out
        check_enough(len({examples[r].group for r in held if not examples[r].positive}), self.limit, self.confidence,
                     what="held-out groups of negative questions (half of all)")  # fmt: skip


@dataclass(frozen=True, eq=False)
class FittedGate:
    """A gate's parts: calibrated layers, what keeps it shut, its threshold, and what is said of them."""

    layers: FittedLayers
    shut: ShutKinds | None
    threshold: ProbeThreshold
    report: GateReport
    drift: DriftReference | None = None


@shows_progress("fitting a gate")
def fit_gate(
    lm: LanguageModel,
    data: LabelledPrompts | str | os.PathLike[str],
    *,
    name: str | None = None,
    site: SiteName = RESID_POST,
    budget: float = BUDGET,
    bound: GateBound | None = None,
    coin: float = COIN,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probe:
    """Fit a gate on labelled questions: a probe with a threshold, shut on kinds that it cannot read, and its report.

    The threshold opens the gate for at most the share `budget` of the negative questions, cross-fitted; with a `bound`
    it is the lowest at which that is certain, from a half of the questions that is held out. `coin` is what the lower
    end of a kind's AUROC must exceed. `progress` counts the texts read, then the layers fitted.

    Raises as `probe_fit.fit_probe` does; MisuseError too for a budget or a coin outside [0, 1], or too few questions
    for the bound; InputError where no kind is read better than a coin.
    """
    check_loaded(lm)
    data = load_labelled(data)
    check_gate(data, budget=budget, bound=bound, coin=coin, seed=seed)
    check_site(site)
    steps = len(data) + (FOLDS + 1) * lm.n_layers
    report = progress or (lambda _done, _total: None)
    states = prompt_states(lm, data, lambda done, _: report(done, steps), site)
    fitted = fit_on_states(
        states,
        data.examples,
        budget=budget,
        bound=bound,
        coin=coin,
        seed=seed,
        progress=lambda done, _: report(len(data) + done, steps),
    )
    return as_probe(fitted, data, origin_of(lm, data, site), name or data.name)


def check_gate(
    data: LabelledPrompts,
    *,
    budget: float = BUDGET,
    bound: GateBound | None,
    coin: float = COIN,
    seed: int = 0,
) -> None:
    """Refuse what needs no model to be refused; raises as `fit_gate` does."""
    for what, value in (("the budget", budget), ("the AUROC of a coin", coin)):
        if not 0 <= value <= 1:
            raise MisuseError(f"{what} is a share from 0 to 1, got {value}")
    examples = data.examples
    if len(folds_by_group(examples, FOLDS, seed)) < 2:
        raise InputError(
            f"{data.name}: too few questions to hold any out: give at least two groups of either label"
        )
    if bound is not None:
        bound.check(examples, seed)


def as_probe(fitted: FittedGate, data: LabelledPrompts, origin: Mapping[str, Any], name: str) -> Probe:
    """The probe of a fitted gate, `origin` as `extract.origin_of` gives it."""
    layers, shut = fitted.layers, fitted.shut
    metadata = ProbeMetadata(
        **origin,
        format_version=1 if shut is None else FORMAT_VERSION,
        name=name,
        data=(data.name,),
        data_digest=data.digest,
        data_count=len(data),
        regularisation=layers.regularisation,
        calibration="platt",
        auroc=layers.auroc,
        brier=layers.brier,
        ece=layers.ece,
        baseline_auroc=None if fitted.report.words is None else fitted.report.words.value,
        layer=layers.best_layer,
        thresholds=(fitted.threshold.model_copy(update={"data": data.name, "data_digest": data.digest}),),
        shut_kinds=() if shut is None else shut.kinds,
        shut_layer=None if shut is None else layers.best_layer,
        report=fitted.report,
    )
    return Probe(
        layers.weight,
        layers.bias,
        metadata,
        None if shut is None else shut.reading.weight,
        None if shut is None else shut.reading.bias,
        fitted.drift,
    )


def fit_on_states(
    states: States,
    examples: Sequence[Example],
    *,
    budget: float = BUDGET,
    bound: GateBound | None = None,
    coin: float = COIN,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedGate:
    """Fit a gate on the states `[n, n_layers, width]` of the examples. Raises as `fit_gate` does."""
    everything = np.arange(len(examples))
    split = Fold(everything, everything) if bound is None else _held_out(examples, seed)
    fit, held = (_Part(states[rows], [examples[row] for row in rows]) for rows in (split.fit, split.held_out))
    crossed, words = cross_fitted(fit.states, fit.examples, folds, seed, progress)
    layers = fit_layers(fit.states, fit.examples, folds, seed, _after(progress, folds * states.shape[1]))
    at = layers.best_layer
    draws = Draws.of(fit.examples, seed=seed)
    aurocs = aurocs_by_kind(crossed.log_odds, fit.examples, draws)
    kinds = shut_among(aurocs, coin)
    shut = fit_shut(fit.states[:, at], fit.examples, kinds, folds, seed) if kinds else None
    if bound is None:
        judged, log_odds, closed = fit, crossed.log_odds, None if shut is None else shut.told
    else:
        judged, log_odds = held, _log_odds(layers, held.states[:, at])
        closed = None if shut is None else shut.reading.of(torch.from_numpy(held.states[:, at])).numpy()
    scores = _kept_shut(log_odds, closed)
    cut, certificate = _cut(scores, judged, budget, bound)
    threshold = float(np.clip(probability_of(cut), ALMOST_NEVER, 1 - ALMOST_NEVER))
    opened = scores >= log_odds_of(threshold)
    labels = judged.labels
    there = ~np.isnan(scores)
    curve = learning_curve(fit.states[:, at], fit.examples, draws, folds, seed)
    report = GateReport(
        questions=len(examples),
        groups=len({example.group for example in examples}),
        positive=int(np.sum([example.positive for example in examples])),
        auroc=draws.measured(crossed.log_odds, crossed.folds),
        words=draws.measured(words, crossed.folds),
        recall=(draws if bound is None else Draws.of(held.examples, seed=seed)).share(opened, labels & there),
        held_out=bound is not None,
        coin=coin,
        kinds=kind_reports(aurocs, kinds, opened, fit.examples, judged.examples),
        curve=curve.measured,
        expected=curve.expected,
        gain=curve.gain,
    )
    chosen = ProbeThreshold(
        budget=budget if bound is None else bound.limit,
        threshold=threshold,
        layer=at,
        choose_false_positive_rate=float(opened[~labels & there].mean()),
        choose_true_positive_rate=float(opened[labels & there].mean()),
        count=len(judged.examples),
        bound=None if certificate is None else _bound_of(certificate),
    )
    drift = None
    if bound is not None:
        parts = (fit.states[:, at], layers.weight[at], held.states[:, at])
        drift = drift_reference(*parts, held.groups, seed)
    return FittedGate(layers, shut, chosen, report, drift)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some examples with their states."""

    states: States
    examples: Sequence[Example]

    @property
    def labels(self) -> Labels:
        return np.array([example.positive for example in self.examples])

    @property
    def groups(self) -> NDArray[np.str_]:
        return np.array([example.group for example in self.examples])


@dataclass(frozen=True, eq=False)
class Crossed:
    """Log-odds `[n]` of fits that did not see their question, and the fold of each; NaN and -1 where there is none."""

    log_odds: Floats
    folds: NDArray[np.int_]


def cross_fitted(
    states: States, examples: Sequence[Example], folds: int, seed: int, progress: Progress | None = None
) -> tuple[Crossed, Floats]:
    """What the whole recipe gives questions that it did not see, layer and calibration included; and words alone."""
    log_odds, words = np.full((2, len(examples)), np.nan)
    place = np.full(len(examples), -1)
    for number, fold in enumerate(folds_by_group(examples, folds, seed)):
        inside, outside = ([examples[row] for row in rows] for rows in (fold.fit, fold.held_out))
        so_far = _after(progress, number * states.shape[1])
        layers = fit_layers(states[fold.fit], inside, folds, seed, so_far)
        log_odds[fold.held_out] = _log_odds(layers, states[fold.held_out, layers.best_layer])
        words[fold.held_out] = fit_words(inside)(outside)
        place[fold.held_out] = number
    return Crossed(log_odds, place), words


def _log_odds(layers: FittedLayers, states: States) -> Floats:
    """Log-odds `[n]` at the best layer, whose states `[n, width]` are given."""
    best = layers.best_layer
    found: Floats = (torch.from_numpy(states) @ layers.weight[best] + layers.bias[best]).double().numpy()
    return found


def _kept_shut(log_odds: Floats, closed: Labels | None) -> Floats:
    """The log-odds with those of shut kinds below all others."""
    return log_odds if closed is None else np.where(closed, np.nanmin(log_odds) - 1.0, log_odds)


def _cut(
    scores: Floats, part: _Part, budget: float, bound: GateBound | None
) -> tuple[float, Certificate | None]:
    if bound is None:
        return cut_at(scores, part.labels, budget), None
    certified = certified_cut(scores, ~part.labels, part.groups, bound.limit, bound.confidence)
    return certified.value, certified.certificate


def _held_out(examples: Sequence[Example], seed: int) -> Fold:
    """A half of the groups to fit on, and a half to set the threshold on, of either label alike."""
    halves = folds_by_group(examples, 2, seed)
    if not halves:
        raise InputError("too few questions to hold a half out: give at least two groups of either label")
    return halves[0]


def _bound_of(certificate: Certificate) -> ThresholdBound:
    return ThresholdBound(
        metric=METRIC,
        limit=certificate.limit,
        confidence=certificate.confidence,
        losses=certificate.losses,
        groups=certificate.n,
    )


def _after(progress: Progress | None, done: int) -> Callable[[int, int], None] | None:
    """Progress that goes on from `done`."""
    return None if progress is None else lambda more, total: progress(done + more, total)
