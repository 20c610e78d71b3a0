"""Kinds of question on which a probe is a coin, and what tells them, so that a gate stays shut there.

A kind is open where the lower end of the 95% interval of its cross-fitted AUROC is above a stated level: few questions
of a kind are no evidence that the probe reads it. Whether a *new* prompt is of a shut kind is read from the same state
by one more logistic regression, with its cut so low that at most the share `MISTAKEN` of the shut kinds' questions,
cross-fitted, are taken for others. That costs recall on open kinds that look like them, and the report says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steerkit.core.errors import InputError
from steerkit.extraction.detection import Draws, Floats, Labels
from steerkit.extraction.held_out import folds_by_group
from steerkit.extraction.pairs import Example
from steerkit.extraction.probe_fit import chosen_regularisation, cut_within, fit_logistic
from steerkit.interventions.probe import ShutReading
from steerkit.interventions.probe_report import KindReport, Measured

COIN = 0.55  # AUROC that the lower end of a kind's interval must exceed
MISTAKEN = 0.05
OTHER = "other"  # questions without a kind, among others that have one


@dataclass(frozen=True, eq=False)
class ShutKinds:
    """The kinds on which a gate is kept shut, what tells them, and which questions it tells, cross-fitted `[n]`."""

    kinds: tuple[str, ...]
    reading: ShutReading
    told: Labels


def kinds_of(examples: Sequence[Example]) -> NDArray[np.str_]:
    """The kind of each example, `OTHER` where it has none."""
    return np.array([example.kind or OTHER for example in examples])


def aurocs_by_kind(scores: Floats, examples: Sequence[Example], draws: Draws) -> dict[str, Measured | None]:
    """AUROC within each kind; None where a side is missing. Empty where there are fewer than two kinds.

    A kind without negative questions is compared with those that have no kind.
    """
    kinds = kinds_of(examples)
    found: dict[str, Measured | None] = {}
    for kind in np.unique(kinds):
        mine = kinds == kind
        if not (mine & ~draws.positive).any():
            mine = mine | ((kinds == OTHER) & ~draws.positive)
        both = np.unique(draws.positive[mine & ~np.isnan(scores)]).size == 2
        found[str(kind)] = draws.measured(scores, np.where(mine, 0, -1)) if both else None
    return found if len(found) > 1 else {}


def shut_among(aurocs: dict[str, Measured | None], coin: float) -> tuple[str, ...]:
    """The kinds that are not shown to be read better than a coin. Raises InputError where all are."""
    shut = tuple(kind for kind, auroc in aurocs.items() if auroc is None or auroc.low <= coin)
    if aurocs and len(shut) == len(aurocs):
        read = ", ".join(f"{kind} {auroc or 'has one label alone'}" for kind, auroc in aurocs.items())
        raise InputError(
            f"the lower end of the AUROC is above {coin:g} on no kind of question ({read}): a gate would never open; "
            "give more questions, or leave their kinds out"
        )
    return shut


def fit_shut(
    states: NDArray[np.float32], examples: Sequence[Example], shut: tuple[str, ...], folds: int, seed: int
) -> ShutKinds:
    """What tells questions of the kinds `shut` from others by the states `[n, width]`.

    Raises InputError where there are too few to hold any out.
    """
    of_shut = np.isin(kinds_of(examples), shut)
    relabelled = [replace(each, positive=bool(one)) for each, one in zip(examples, of_shut, strict=True)]
    splits = folds_by_group(relabelled, folds, seed)
    if not splits:
        raise InputError(
            f"too few questions of {', '.join(shut)} to tell them from others: give more, or leave kinds out"
        )
    everything = np.arange(len(examples))
    c = chosen_regularisation(states[:, None], relabelled, everything, seed)
    scores = np.full(len(examples), np.nan)
    for fold in splits:
        weight, bias = fit_logistic(states[fold.fit], of_shut[fold.fit], c)
        scores[fold.held_out] = states[fold.held_out] @ weight + bias
    there = ~np.isnan(scores)
    # `cut_within` keeps negatives below a cut; here shut questions are kept above one.
    cut = cut_within(-scores[there], ~of_shut[there], MISTAKEN)
    weight, bias = fit_logistic(states, of_shut, c)
    reading = ShutReading(torch.from_numpy(weight).float(), torch.tensor([bias + cut], dtype=torch.float32))
    return ShutKinds(shut, reading, ~(-scores >= cut))


def kind_reports(
    aurocs: dict[str, Measured | None],
    shut: tuple[str, ...],
    opened: Labels,
    examples: Sequence[Example],
    judged: Sequence[Example],
) -> tuple[KindReport, ...]:
    """What is said of each kind: counts among `examples`, and how often the gate `opened` `[n]` on those `judged`."""
    kinds, labels = kinds_of(examples), np.array([each.positive for each in examples])
    judged_kinds, judged_labels = kinds_of(judged), np.array([each.positive for each in judged])

    def share(kind: str, label: bool) -> float | None:
        of = (judged_kinds == kind) & (judged_labels == label)
        return float(opened[of].mean()) if of.any() else None

    return tuple(
        KindReport(
            kind=kind,
            positive=int((labels & (kinds == kind)).sum()),
            negative=int((~labels & (kinds == kind)).sum()),
            auroc=auroc,
            shut=kind in shut,
            opens=(share(kind, True), share(kind, False)),
        )
        for kind, auroc in aurocs.items()
    )
