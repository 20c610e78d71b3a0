"""What a pick is on the split that reports: against the unsteered model, a random direction and the best prompt.

The pick is *clearly better* where the objective's change from the unsteered model, and its difference to a random
direction of the same norm, are better than 0 by their whole 95% interval, and every bound of the rule is kept. A bound
is *broken* where its quantity is beyond the limit by its whole interval, *kept* where the estimate is within, and else
*not shown*. A prompt that does as well is said beside it; it does not make the vector worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from steerkit.analysis.choosing import Bound, Quantity, Rule
from steerkit.analysis.outcomes import Outcomes
from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate, Floats, bootstrap_means, resampling_weights

Held = Literal["kept", "not shown", "broken"]


@dataclass(frozen=True)
class BoundHeld:
    """A bound of the rule on `report`: its quantity's estimate, and whether it is kept."""

    bound: str
    estimate: Estimate
    held: Held


@dataclass(frozen=True)
class Verdict:
    """The pick on `report`: differences in the rule's objective, positive where the pick is better; and its bounds.

    `against_prompt` is None where no prompt competed. `metric` names the objective, `level` is the pick's own.
    """

    metric: str
    level: Estimate
    against_unsteered: Estimate
    against_random: Estimate
    against_prompt: Estimate | None
    bounds: tuple[BoundHeld, ...]

    @property
    def is_better(self) -> bool:
        """Whether the pick is clearly better than the unsteered model and a random direction, every bound kept."""
        gains = (self.against_unsteered.low, self.against_random.low)
        return min(gains) > 0 and all(each.held == "kept" for each in self.bounds)

    @property
    def beats_prompt(self) -> bool:
        """Whether it is clearly better than the best prompt too; True where none competed."""
        return self.against_prompt is None or self.against_prompt.low > 0

    def reasons(self) -> list[str]:
        """Return why the pick is not clearly better, in words; empty where it is."""
        said = []
        if not self.against_unsteered.low > 0:
            said.append("its change from the unsteered model may be nothing")
        if not self.against_random.low > 0:
            said.append("a random direction of the same norm may do as well")
        said += [f"the bound {each.bound} is {each.held}" for each in self.bounds if each.held != "kept"]
        return said

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        return {**asdict(self), "is_better": self.is_better, "beats_prompt": self.beats_prompt}


def verdict_of(report: Run, rule: Rule, pick: str, prompt: str | None) -> Verdict:
    """Return what the cell `pick` is on `report`, beside the random control there and the cell `prompt`."""
    outcomes = report.outcomes
    rows = {row.cell: row for row in report.summary()}
    unsteered = next(row.cell for row in rows.values() if row.role == "unsteered")
    random = next(row.cell for row in rows.values() if row.role == "random")
    objective = rule.objective

    def gain(other: str) -> Estimate:
        return difference(outcomes, objective.metric.name, pick, other, _sign(objective))

    return Verdict(
        metric=objective.metric.name,
        level=rows[pick].levels[objective.metric.name],
        against_unsteered=gain(unsteered),
        against_random=gain(random),
        against_prompt=None if prompt is None else gain(prompt),
        bounds=tuple(_held(bound, rows[pick]) for bound in rule.bounds),
    )


def difference(outcomes: Outcomes, metric: str, first: str, second: str, sign: float = 1.0) -> Estimate:
    """Return `sign` × (first − second) over the items that both cells have the metric on; n is 0 without any."""
    at = {name: number for number, name in enumerate(outcomes.cells)}
    values = outcomes.values[metric]
    return estimate(sign * (values[at[first]] - values[at[second]]), outcomes.groups)


def estimate(values: Floats, groups: Sequence[int] | np.ndarray) -> Estimate:
    """Return the mean of `values` `[n_items]` with its 95% interval over groups, NaN left out; n is 0 without any."""
    numbered = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    weights = resampling_weights(int(numbered.max()) + 1)
    found = bootstrap_means(np.asarray(values, np.float64)[None, :], numbered, weights)[0]
    return found or Estimate(float("nan"), float("nan"), float("nan"), 0)


def _sign(objective: Quantity) -> float:
    """What turns a difference of the objective's metric into one that is positive where it is better."""
    return objective.direction * (objective.sign or 1.0)


def _held(bound: Bound, row: Row) -> BoundHeld:
    quantity = bound.quantity
    found = (row.levels if quantity.sign is None else row.changes)[quantity.metric.name]
    if quantity.sign == -1.0:
        found = Estimate(-found.value, -found.high, -found.low, found.n)
    within, surely_beyond = (
        (found.value <= bound.limit, found.low > bound.limit)
        if bound.relation == "<="
        else (found.value >= bound.limit, found.high < bound.limit)
    )
    return BoundHeld(str(bound), found, "kept" if within else "broken" if surely_beyond else "not shown")
