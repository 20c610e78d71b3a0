"""Probing: labelled prompts in, a calibrated probe out, and the threshold that keeps to a budget.

At each layer the states at the last prompt token are standardised and given to an L2-regularised logistic
regression (Alain & Bengio 2016, arXiv 1610.01644). Everything that is said of the probe is cross-fitted: an
example's log-odds come from a fit that saw neither it nor its twin, and so does the calibration that they are
judged with (Platt 1999, "Probabilistic outputs for support vector machines"). The C of the regression is one for
all layers, chosen by folds within the examples at hand; thirty choices by a few hundred examples would be noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.progress import shows_progress
from steerkit.core.sites import RESID_POST, SiteName
from steerkit.engines.base import Decoding
from steerkit.extraction.capture import Progress
from steerkit.extraction.extract import check_site, origin_of, read_examples
from steerkit.extraction.held_out import Fold, auroc, folds_by_group, words_alone
from steerkit.extraction.own_completions import completion_states
from steerkit.extraction.pairs import Example, LabelledPrompts, labelled_prompts, load_labelled
from steerkit.interventions.base import log_odds_of
from steerkit.interventions.probe import COMPLETION, Probe, ProbeMetadata, ProbeThreshold
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded
from steerkit.suites.suite import Suite

# What the inner folds choose from. The states have hundreds of standardised coordinates, mostly more than there
# are examples to spare, so all of them shrink more than the customary C of 1.
REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1)
INNER_FOLDS = 3
INNER_LAYERS = 3  # evenly spread layers on which C is chosen
CALIBRATION_BINS = 10
# A coordinate that varies by less, relative to the mean size of the state's coordinates, only carries rounding.
ROUNDING = 1e-5
NOTHING_SAID = 1e-6  # nats: log-odds that differ by less come of states without a difference but rounding
ALMOST_NEVER = 1e-15  # the probability nearest to 0 or 1 that a threshold takes

Labels = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FittedLayers:
    """A probe's tensors, as in `Probe`, with what they reached per layer on examples that they had not seen."""

    weight: Tensor
    bias: Tensor
    regularisation: float
    auroc: tuple[float, ...]
    brier: tuple[float, ...]
    ece: tuple[float, ...]

    @property
    def best_layer(self) -> int:
        """The layer with the best cross-fitted AUROC."""
        return int(np.argmax(self.auroc))


@shows_progress("fitting a probe")
def fit_probe(
    lm: LanguageModel,
    data: LabelledPrompts | Suite | str | os.PathLike[str],
    *,
    name: str | None = None,
    written: Decoding | None = None,
    site: SiteName = RESID_POST,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probe:
    """Fit a probe for the label of `data` (of a suite: `should_abstain`) at a site of every layer's last prompt token.

    A suite is taken whole: give the split `fit`, which is what its name or a file of its items stands for. `folds`
    folds, drawn from `seed`, never divide twins. `name` defaults to the data's. `progress` counts the texts read, then
    the layers fitted.

    With `written` the model completes each prompt so, unsteered, and the probe is fitted on four tokens of each
    completion: for readers that look while a row is being written. Gates, which read prompts, refuse it.

    Raises MisuseError where the model is being steered or cannot take a text, InputError where a side is
    missing, too few groups are there to hold any out, or the model's states are not finite.
    """
    check_loaded(lm)
    data = labelled_prompts(data) if isinstance(data, Suite) else load_labelled(data)
    report = progress or (lambda _done, _total: None)
    steps = len(data) + lm.n_layers
    check_site(site)

    def reading(done: int, _: int) -> None:
        report(done, steps)

    examples = data.examples
    if written is None:
        states = prompt_states(lm, data, reading, site)
    else:
        states, examples = completion_states(lm, data, written, reading, site)
    fitted = fit_layers(states, examples, folds, seed, lambda done, _: report(len(data) + done, steps))
    words = words_alone(data.examples, folds_by_group(data.examples, folds, seed))
    metadata = ProbeMetadata(
        **origin_of(lm, data, site),
        name=name or data.name,
        data=(data.name,),
        data_digest=data.digest,
        data_count=len(data),
        aggregation="prompt" if written is None else COMPLETION,
        regularisation=fitted.regularisation,
        calibration="platt",
        auroc=fitted.auroc,
        brier=fitted.brier,
        ece=fitted.ece,
        baseline_auroc=words.auroc if words else None,
        layer=fitted.best_layer,
    )
    return Probe(fitted.weight, fitted.bias, metadata)


def choose_threshold(
    probe: Probe, lm: LanguageModel, data: LabelledPrompts | Suite, budget: float, *, layer: int | None = None
) -> ProbeThreshold:
    """The threshold that fires for most positive items and for at most the share `budget` of the negative ones.

    `data` should be the split `choose`: neither the items that fitted the probe nor those that report it.
    `layer` defaults to the probe's own. Raises MisuseError for a budget outside [0, 1], a layer that the
    model does not have or a probe of completions, ModelMismatchError where the probe is another model's, InputError
    where a side is missing.
    """
    return choose_thresholds(probe, lm, data, [budget], layer=layer)[0]


def choose_thresholds(
    probe: Probe,
    lm: LanguageModel,
    data: LabelledPrompts | Suite,
    budgets: Sequence[float],
    *,
    layer: int | None = None,
) -> list[ProbeThreshold]:
    """`choose_threshold` for each of several budgets; the model reads `data` once. Raises as that does."""
    for budget in budgets:
        if not 0 <= budget <= 1:
            raise MisuseError(f"the budget is a share of the answerable items, from 0 to 1, got {budget}")
    probe.check(lm)
    probe.check_prompts()
    layer = probe.metadata.layer if layer is None else layer
    probe.check_layer(layer)
    data = labelled_prompts(data) if isinstance(data, Suite) else data
    states = torch.from_numpy(prompt_states(lm, data, site=probe.site)[:, layer])
    log_odds = probe.logit(layer, states).double().numpy()
    labels = _labels(data.examples)
    return [_threshold_within(log_odds, labels, budget, layer, data) for budget in budgets]


def _threshold_within(
    log_odds: Scores, labels: Labels, budget: float, layer: int, data: LabelledPrompts
) -> ProbeThreshold:
    cut = cut_within(log_odds, labels, budget)
    # Past about 36 a double's probability is 1; the rates are those of the threshold that can be written down.
    threshold = float(np.clip(_sigmoid(np.array(cut)), ALMOST_NEVER, 1 - ALMOST_NEVER))
    fired = log_odds >= log_odds_of(threshold)
    return ProbeThreshold(
        budget=budget,
        threshold=threshold,
        layer=layer,
        choose_false_positive_rate=float(fired[~labels].mean()),
        choose_true_positive_rate=float(fired[labels].mean()),
        data=data.name,
        data_digest=data.digest,
        count=len(data),
    )


def prompt_states(
    lm: LanguageModel,
    data: LabelledPrompts,
    progress: Progress | None = None,
    site: SiteName = RESID_POST,
) -> NDArray[np.float32]:
    """Unsteered states at the last prompt token, `[n, n_layers, width]`, in the order of `data.examples`.

    Raises as `fit_probe` does.
    """
    if len({example.positive for example in data.examples}) < 2:
        raise InputError(f"{data.name}: there must be both positive and negative examples")
    _, activations, _ = read_examples(lm, data, "prompt", progress, site)
    return activations.states.cpu().numpy()


def fit_layers(
    states: NDArray[np.float32],
    examples: Sequence[Example],
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedLayers:
    """A calibrated logistic regression on the states `[n, n_layers, d_model]` of each layer.

    Raises InputError where the examples have too few groups of either label to hold any out.
    """
    splits = folds_by_group(examples, folds, seed)
    if len(splits) < 2:
        raise InputError(
            "too few examples to hold any out: a probe needs at least two groups of either label"
        )
    labels = _labels(examples)
    n_layers = states.shape[1]
    everything = np.arange(len(examples))
    c_of_fold = [chosen_regularisation(states, examples, fold.fit, seed) for fold in splits]
    c_of_all = chosen_regularisation(states, examples, everything, seed)
    weights, biases, aurocs, briers, eces = [], [], [], [], []
    for layer in range(n_layers):
        layer_states = states[:, layer]
        held_out = np.concatenate([fold.held_out for fold in splits])
        log_odds = np.full(len(examples), np.nan)
        for fold, c in zip(splits, c_of_fold, strict=True):
            weight, bias = fit_logistic(layer_states[fold.fit], labels[fold.fit], c)
            log_odds[fold.held_out] = layer_states[fold.held_out] @ weight + bias
        aurocs.append(float(np.mean([auroc(log_odds[f.held_out], labels[f.held_out]) for f in splits])))
        probability = _cross_calibrated(log_odds, labels, splits)
        briers.append(float(np.mean((probability - labels[held_out]) ** 2)))
        eces.append(expected_calibration_error(probability, labels[held_out]))
        slope, intercept = platt(log_odds[held_out], labels[held_out])
        weight, bias = fit_logistic(layer_states, labels, c_of_all)
        weights.append(slope * weight)
        biases.append(slope * bias + intercept)
        if progress:
            progress(layer + 1, n_layers)
    tensors = torch.from_numpy(np.stack(weights)).float(), torch.tensor(biases, dtype=torch.float32)
    return FittedLayers(*tensors, c_of_all, tuple(aurocs), tuple(briers), tuple(eces))


def chosen_regularisation(
    states: NDArray[np.float32], examples: Sequence[Example], rows: NDArray[np.intp], seed: int
) -> float:
    """The C of `REGULARISATIONS` with the least held-out log loss among `rows`, over a few layers together.

    The strongest regularisation where nothing can be held out.
    """
    inside = folds_by_group([examples[row] for row in rows], INNER_FOLDS, seed)
    layers = np.unique(np.linspace(0, states.shape[1] - 1, INNER_LAYERS + 2).round().astype(int)[1:-1])
    labels = _labels(examples)[rows]
    losses = np.zeros(len(REGULARISATIONS))
    for layer in layers:
        layer_states = states[rows, layer]
        for fold in inside:
            for place, c in enumerate(REGULARISATIONS):
                weight, bias = fit_logistic(layer_states[fold.fit], labels[fold.fit], c)
                log_odds = layer_states[fold.held_out] @ weight + bias
                losses[place] += np.logaddexp(0, np.where(labels[fold.held_out], -log_odds, log_odds)).mean()
    return REGULARISATIONS[int(np.argmin(losses))]


def fit_logistic(states: NDArray[np.float32], labels: Labels, c: float) -> tuple[Scores, float]:
    """Logistic regression on standardised `states` `[n, d_model]`; weight and bias for the states as they are.

    The loss is summed over the examples and C is its weight against half the squared norm of the standardised
    weight, the intercept left out, as in scikit-learn.
    """
    mean = states.mean(axis=0, dtype=np.float64)
    spread = states.std(axis=0, dtype=np.float64)
    spread[spread <= ROUNDING * np.sqrt(np.mean(mean**2))] = 1.0
    standardised = ((states - mean) / spread).astype(np.float32)
    # The penalty keeps the weight in the span of the examples: with fewer of them than coordinates, solve there.
    basis = np.linalg.qr(standardised.T)[0] if len(states) < states.shape[1] else None
    # Newton's method: a handful of passes, where lbfgs takes hundreds on states as correlated as these.
    model = LogisticRegression(C=c, solver="newton-cholesky")
    model.fit(standardised if basis is None else standardised @ basis, labels)
    coefficients = model.coef_[0] if basis is None else basis @ model.coef_[0]
    weight = coefficients.astype(np.float64) / spread
    return weight, float(model.intercept_[0] - weight @ mean)


def platt(log_odds: Scores, labels: Labels) -> tuple[float, float]:
    """Slope and intercept that turn scores into log-odds, by Platt's method with his smoothed targets.

    The targets (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2) keep the slope finite where the scores separate perfectly. Scores
    that are all the same get the slope 0.
    """
    positive, negative = labels.sum(), (~labels).sum()
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    if np.ptp(log_odds) < NOTHING_SAID:
        return 0.0, float(log_odds_of(target.mean()))
    twice = np.concatenate([log_odds, log_odds])[:, None]
    outcome = np.repeat([True, False], len(log_odds))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky")
    model.fit(twice, outcome, sample_weight=np.concatenate([target, 1 - target]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def expected_calibration_error(probability: Scores, labels: Labels) -> float:
    """Mean distance of confidence from outcome over ten equal bins of probability (arXiv 1706.04599)."""
    place = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(place, probability - labels, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def cut_within(scores: Scores, labels: Labels, budget: float) -> float:
    """The lowest cut with at most the share `budget` of the negatives at or above it.

    It lies half way between the highest negative score that must stay below it and the next score above, so
    that rounding moves no item across; above every score where the budget admits none.
    """
    negatives = np.sort(scores[~labels])[::-1]
    allowed = int(np.floor(budget * len(negatives) + 1e-9))
    if allowed == len(negatives):
        return float(scores.min() - 1.0)
    below = negatives[allowed]
    above = scores[scores > below]
    return float((below + above.min()) / 2 if above.size else below + 1.0)


def _cross_calibrated(log_odds: Scores, labels: Labels, splits: Sequence[Fold]) -> Scores:
    """Probabilities of the held-out examples, fold after fold, each calibrated on the other folds."""
    parts = []
    for fold in splits:
        others = np.concatenate([other.held_out for other in splits if other is not fold])
        slope, intercept = platt(log_odds[others], labels[others])
        parts.append(_sigmoid(slope * log_odds[fold.held_out] + intercept))
    return np.concatenate(parts)


def _sigmoid(log_odds: Scores) -> Scores:
    return np.exp(-np.logaddexp(0, -log_odds))


def _labels(examples: Iterable[Example]) -> Labels:
    return np.array([example.positive for example in examples])
