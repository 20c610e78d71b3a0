"""`gate compare`: detectors and fitted probes on sets of labelled questions, within and across, beside words alone.

A detector, registered or a probe's file, is judged on each set as it is. The recipe of `gate fit` and words alone
(TF-IDF) are fitted on each set: within it they are judged cross-fitted, layer and calibration chosen anew in each fold;
on another set, the fit on all of the first. Cost is counted: rows that passed the first decoder block, a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steerkit.core.errors import MisuseError
from steerkit.core.progress import shows_progress
from steerkit.core.prompts import Message, Prompt
from steerkit.core.registry import GATES
from steerkit.core.sites import RESID_POST, SiteName
from steerkit.extraction.capture import Progress
from steerkit.extraction.detection import Draws, Floats
from steerkit.extraction.gate_fit import FOLDS, States, cross_fitted
from steerkit.extraction.held_out import fit_words
from steerkit.extraction.pairs import Example, LabelledPrompts
from steerkit.extraction.probe_fit import expected_calibration_error, fit_layers, prompt_states
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.probe import Probe
from steerkit.interventions.probe_report import Measured
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded
from steerkit.models.sites import hidden_in
from steerkit.suites.splits import hash_position

RECIPE, WORDS = "gate fit", "words alone"


@dataclass(frozen=True)
class Comparison:
    """A detector on a set: AUROC, recall at 5% and 10% false positives, calibration error, and what it costs.

    `fitted_on` is the set that it was fitted on here; None for one that was given as it is. `in_sample` says that a
    probe that was given had been fitted on these very questions, and looks better than it is. The cuts of the recalls
    are those of the set itself. `passes` are forward passes a prompt.
    """

    detector: str
    fitted_on: str | None
    tested_on: str
    auroc: Measured
    recall_5: Measured
    recall_10: Measured
    ece: float
    passes: float
    in_sample: bool = False


@shows_progress("comparing gates")
def compare_gates(
    lm: LanguageModel,
    sets: Sequence[LabelledPrompts],
    detectors: Sequence[str | Probe] = (),
    *,
    site: SiteName = RESID_POST,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Judge detectors, and what is fitted on each set, on every set. `progress` counts detectors and sets.

    Raises MisuseError for an unknown detector or two sets of one name; as `probe_fit.fit_probe` for the sets.
    """
    check_loaded(lm)
    check_comparison(sets, detectors)
    for probe in (each for each in detectors if isinstance(each, Probe)):
        probe.check(lm)
    done, total = 0, len(sets) * (2 + len(detectors))
    found: list[Comparison] = []
    states = [prompt_states(lm, data, site=site) for data in sets]
    examples = [data.examples for data in sets]
    for place, data in enumerate(sets):
        found += _fitted_on(place, sets, states, examples, seed)
        done += 2
        if progress:
            progress(done, total)
        for detector in detectors:
            scores, probability, passes = _given(lm, detector, data, states[place], site)
            name = detector if isinstance(detector, str) else detector.name
            fair = judged(name, None, data.name, data.examples, scores, probability, passes, seed)
            seen = isinstance(detector, Probe) and detector.metadata.data_digest == data.digest
            found.append(replace(fair, in_sample=seen))
            done += 1
            if progress:
                progress(done, total)
    return found


def at_most(data: LabelledPrompts, n: int | None) -> LabelledPrompts:
    """At most `n` questions, whole groups of them in a fixed random order. Raises MisuseError where none fits."""
    if n is None or n >= len(data):
        return data
    sizes = Counter(each.group for each in data)
    kept: set[str] = set()
    left = n
    for group in sorted(sizes, key=lambda group: hash_position("order", group)):
        if sizes[group] > left:
            break
        kept.add(group)
        left -= sizes[group]
    if not kept:
        raise MisuseError(f"a limit of {n} leaves nothing of {data.name}: give more")
    return replace(data, prompts=tuple(each for each in data if each.group in kept))


def check_comparison(sets: Sequence[LabelledPrompts], detectors: Sequence[str | Probe]) -> None:
    """Refuse what needs no model to be refused; raises as `compare_gates` does."""
    for each in detectors:
        if isinstance(each, str):
            GATES[each]
    names = [data.name for data in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MisuseError(f"two sets are called {twice!r}: rename the file of one of them")


def judged(
    detector: str,
    fitted_on: str | None,
    tested_on: str,
    examples: Sequence[Example],
    scores: Floats,
    probability: Floats,
    passes: float,
    seed: int = 0,
    strata: NDArray[np.int_] | None = None,
) -> Comparison:
    """Judge scores `[n]`, NaN where there are none, and the probabilities `[n]` that go with them.

    The AUROC compares questions within their stratum `[n]` alone, as scores of different folds share no scale.
    """
    there = ~np.isnan(scores)
    draws = Draws.of([example for example, one in zip(examples, there, strict=True) if one], seed=seed)
    scores, probability = scores[there], probability[there]
    strata = None if strata is None else strata[there]
    return Comparison(
        detector,
        fitted_on,
        tested_on,
        draws.measured(scores, strata),
        draws.recall_within(scores, 0.05),
        draws.recall_within(scores, 0.1),
        ece=expected_calibration_error(probability, draws.positive),
        passes=passes,
    )


def _fitted_on(
    place: int,
    sets: Sequence[LabelledPrompts],
    states: Sequence[States],
    examples: Sequence[Sequence[Example]],
    seed: int,
) -> Iterator[Comparison]:
    """The recipe and words alone, fitted on one set and judged on all."""
    mine, name = examples[place], sets[place].name
    layers = fit_layers(states[place], mine, FOLDS, seed)
    words = fit_words(mine)
    crossed, words_crossed = cross_fitted(states[place], mine, FOLDS, seed)
    for other, data in enumerate(sets):
        strata = crossed.folds if other == place else None
        if other == place:
            scores, of_words = crossed.log_odds, words_crossed
        else:
            best = layers.best_layer
            of_layer = torch.from_numpy(states[other][:, best])
            scores = (of_layer @ layers.weight[best] + layers.bias[best]).double().numpy()
            of_words = words(examples[other])
        for detector, read, passes in ((RECIPE, scores, 1.0), (WORDS, of_words, 0.0)):
            yield judged(
                detector, name, data.name, examples[other], read, _sigmoid(read), passes, seed, strata
            )


def _given(
    lm: LanguageModel, detector: str | Probe, data: LabelledPrompts, states: States, site: SiteName
) -> tuple[Floats, Floats, float]:
    """Scores and probabilities `[n]` of a detector as it is, and the forward passes that it took a prompt."""
    if isinstance(detector, Probe):
        gate = ProbeGate(detector)
        read = states if detector.site == site else prompt_states(lm, data, site=detector.site)
        of_layer = torch.from_numpy(read[:, gate.layer])
        probability = detector.probability(gate.layer, of_layer).double().numpy()
        scores = detector.opening(gate.layer, of_layer).double().numpy()
        shut = np.isneginf(scores)
        lowest = scores[~shut].min(initial=0.0) - 1.0
        return np.where(shut, lowest, scores), np.where(shut, 0.0, probability), 1.0
    prompts = [_asked(example) for example in data.examples]
    with _counting(lm) as rows:
        found = np.array([float(p) for p in GATES[detector](prompts, lm)])
    return found, found, sum(rows) / len(prompts)


def _asked(example: Example) -> Prompt:
    """The prompt as a detector is given it, a system message before it where there is one."""
    if example.system is None:
        return example.prompt
    said = example.prompt
    turns: tuple[Message, ...] = ({"role": "user", "content": said},) if isinstance(said, str) else said
    return ({"role": "system", "content": example.system}, *turns)


@contextmanager
def _counting(lm: LanguageModel) -> Iterator[list[int]]:
    """Note the rows of every forward pass inside the block."""
    rows: list[int] = []

    def note(_block: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        rows.append(hidden_in((args, kwargs)).shape[0])

    handle = lm.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def _sigmoid(log_odds: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -log_odds))
