"""What limits a gated steering: each part measured with the others made perfect, from the records alone.

A *perfect gate* lets a cell act on exactly the questions that should be abstained from. A *perfect actuator* abstains
wherever the gate opens, and changes nothing else. What a real gate reaches with a perfect actuator, and a real actuator
under a perfect gate, says which of the two stands between a result and its target. `by_kind` says which questions the
gate reads at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.analysis.outcomes import Outcomes
from steerkit.core.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    Integers,
    bootstrap_means,
    interval,
    ratio,
    resampling_weights,
)
from steerkit.core.errors import MisuseError

RECALL, OVER, ACCURACY = "abstention_recall", "over_abstention", "accuracy"
BUDGETS = (0.05, 0.15, 0.3)


@dataclass(frozen=True)
class Limit:
    """Abstention recall, over-abstention and accuracy of one imagined way to answer; None where nothing was judged."""

    recall: Estimate | None
    over_abstention: Estimate | None
    accuracy: Estimate | None


@dataclass(frozen=True)
class Limits:
    """What was measured, and what would be with one part perfect.

    `perfect_gate` is by cell (id), `perfect_actuator` by the threshold of the gate, and `best_threshold` with the
    threshold that has most recall within a share of over-abstention in hindsight, by that share.
    """

    unsteered: Limit
    perfect_gate: Mapping[str, Limit]
    perfect_actuator: Mapping[float, Limit]
    best_threshold: Mapping[float, Limit]


def limits(
    outcomes: Outcomes,
    unsteered: str,
    cells: Sequence[str],
    thresholds: Sequence[float] = (),
    budgets: Sequence[float] = BUDGETS,
) -> Limits:
    """Return the limits of ungated `cells` (ids) and of the gate that some cell of the outcomes was measured under.

    Intervals are 95%, by a bootstrap over groups of items. Raises MisuseError where a cell has no records, or the gates
    of the outcomes read one item differently: there is then more than one.
    """
    number = {cell: place for place, cell in enumerate(outcomes.cells)}
    if missing := [cell for cell in (unsteered, *cells) if cell not in number]:
        raise MisuseError(f"cell {missing[0]!r} has no records")
    nothing = np.full((len(outcomes.cells), len(outcomes.items)), np.nan)
    values = {name: outcomes.values.get(name, nothing) for name in (RECALL, OVER, ACCURACY)}
    plain = {name: each[number[unsteered]] for name, each in values.items()}
    wanted = outcomes.should_abstain == 1
    lines: dict[tuple[str, object], dict[str, Floats]] = {("unsteered", None): plain}
    for cell in cells:
        lines["gate", cell] = {
            name: np.where(wanted, each[number[cell]], plain[name]) for name, each in values.items()
        }
    read = readings(outcomes)
    if not np.isnan(read).all():
        for threshold in thresholds:
            lines["actuator", threshold] = _abstaining(plain, read >= threshold)
        for budget in budgets:
            lines["best", budget] = _abstaining(
                plain, read > _cut(read[outcomes.should_abstain == 0], budget)
            )
    found = dict(zip(lines, _estimated(outcomes, list(lines.values())), strict=True))

    def of(what: str) -> dict[object, Limit]:
        return {key: limit for (kind, key), limit in found.items() if kind == what}

    return Limits(found["unsteered", None], of("gate"), of("actuator"), of("best"))  # type: ignore[arg-type]


def readings(outcomes: Outcomes) -> Floats:
    """Return what the gate read of each item, `[n_items]`, NaN where it read none.

    Raises MisuseError where two readings of an item differ.
    """
    read = np.full(len(outcomes.items), np.nan)
    there = ~np.isnan(outcomes.gate)
    read[outcomes.item[there]] = outcomes.gate[there]
    if (read[outcomes.item[there]] != outcomes.gate[there]).any():
        raise MisuseError("the cells have several gates, which read an item differently: take those of one")
    return read


def _abstaining(plain: Mapping[str, Floats], fired: np.ndarray) -> dict[str, Floats]:
    """The unsteered model's outcomes with an abstention wherever the gate fired."""
    instead = {RECALL: 1.0, OVER: 1.0, ACCURACY: 0.0}
    return {
        name: np.where(fired & ~np.isnan(values), instead[name], values) for name, values in plain.items()
    }


def _cut(negatives: Floats, budget: float) -> float:
    """What at most the share `budget` of the readings of answerable items exceeds."""
    ordered = np.sort(negatives[~np.isnan(negatives)])[::-1]
    place = int(np.floor(budget * len(ordered) + 1e-9))
    return float(ordered[place]) if place < len(ordered) else -np.inf


def _estimated(outcomes: Outcomes, lines: Sequence[Mapping[str, Floats]]) -> list[Limit]:
    """Each line's three numbers with their intervals."""
    weights = resampling_weights(int(outcomes.groups.max()) + 1)
    columns = [
        bootstrap_means(np.stack([line[name] for line in lines]), outcomes.groups, weights)
        for name in (RECALL, OVER, ACCURACY)
    ]
    return [Limit(*estimates) for estimates in zip(*columns, strict=True)]


@dataclass(frozen=True)
class KindReading:
    """How a gate reads one kind of question: AUROC within the kind (None with one label alone), and when it opens.

    `opens` are the shares of questions to abstain from and of others that it opens for, None where there are none.
    """

    items: int
    auroc: Estimate | None
    opens: tuple[float | None, float | None]


def by_kind(
    outcomes: Outcomes, kinds: Sequence[str], threshold: float, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, KindReading]:
    """Return how the gate reads each kind of question; `kinds` `[n_items]` in the order of `outcomes.items`.

    Intervals are 95%, by a bootstrap over groups of items. Raises MisuseError as `readings` does.
    """
    read, wanted = readings(outcomes), outcomes.should_abstain
    weights = resampling_weights(int(outcomes.groups.max()) + 1, resamples, seed)[:, outcomes.groups]
    found: dict[str, KindReading] = {}
    for kind in sorted(set(kinds)):
        there = (np.array(kinds) == kind) & ~np.isnan(read)
        positive, negative = (np.flatnonzero(there & (wanted == label)) for label in (1, 0))
        opens, for_others = (
            float((read[side] >= threshold).mean()) if len(side) else None for side in (positive, negative)
        )
        auroc = _auroc(read, positive, negative, weights)
        found[kind] = KindReading(int(there.sum()), auroc, (opens, for_others))
    return found


def _auroc(read: Floats, positive: Integers, negative: Integers, weights: Floats) -> Estimate | None:
    """The chance that a positive is read above a negative, ties counting half, with its interval."""
    if not len(positive) or not len(negative):
        return None
    above, below = read[positive][:, None], read[negative][None]
    won = (above > below) + 0.5 * (above == below)
    wins = np.einsum("rp,rp->r", weights[:, positive], weights[:, negative] @ won.T)
    drawn = ratio(wins, weights[:, positive].sum(axis=1) * weights[:, negative].sum(axis=1))
    return Estimate(float(won.mean()), *interval(drawn), len(positive) + len(negative))
