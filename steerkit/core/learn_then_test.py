"""Learn-then-test: choose among candidates, and bound the risk of what was chosen at a stated confidence.

Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052, with exact binomial p-values and fixed-sequence testing:
the order of the candidates is fixed before the data are seen, each is tested at the full level, and the first that
fails ends the sequence. Then with probability at least `confidence` over the draw of the data, the risk of *every*
candidate that passed is at most `limit`, so the best of them may be taken by whatever criterion, on the same data.

What is counted are groups, not items. Twins (an item and its altered copy) share their wording and mostly their fate;
they are not exchangeable with strangers, and n twins are worth fewer than n items. A group loses where any of its
items loses, so its loss is 0 or 1 and the binomial test is exact. The bounded risk is therefore the share of *groups*
with a loss, in the population of which the groups are a random sample. Where every group has the same number of items,
the share of items that lose is at most that; where large groups lose more often than small ones, it may be more. (One
item drawn from each group would bound the mean of the share within groups: less is said, and data are thrown away.)

Nothing here holds for questions of another kind than those that were counted: see `steerkit.core.two_sample`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv

from steerkit.core.bootstrap import Floats
from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number, check_whole

Booleans = NDArray[np.bool_]
LEAST_SHARE = 1e-9  # what is nearer to 0 would take more groups than can be counted


@dataclass(frozen=True)
class Certificate:
    """A risk of at most `limit` at `confidence`, from `losses` among `n` groups with the p-value `p_value`.

    `level` is what the p-value had to be at most: 1 - confidence, shared among the sequences that were tested.
    """

    limit: float
    confidence: float
    losses: int
    n: int
    p_value: float
    level: float


@dataclass(frozen=True)
class CertifiedCut:
    """The lowest cut that is certified: firing at scores from `value`, or from anything higher, keeps the bound."""

    value: float
    certificate: Certificate


def binomial_p_value(losses: ArrayLike, n: ArrayLike, limit: float) -> Floats:
    """Return the exact p-value of the hypothesis that the risk is above `limit`, `losses` of `n` groups having lost.

    P(Binomial(n, limit) ≤ losses), elementwise: small where so few losses would be rare if the risk were the limit.
    1 without any groups. Raises MisuseError for a limit outside (0, 1), or counts that are not 0 ≤ losses ≤ n.
    """
    limit = _share("the limit", limit)
    lost, of = np.asarray(losses, np.float64), np.asarray(n, np.float64)
    if not np.all((lost >= 0) & (lost <= of) & (lost % 1 == 0) & (of % 1 == 0)):
        raise MisuseError(f"losses are whole numbers from 0 to the number of groups, got {losses!r} of {n!r}")
    p_value: Floats = np.asarray(bdtr(lost, of.astype(np.int64), limit), np.float64)
    return p_value


def smallest_n(limit: float, confidence: float, sequences: int = 1) -> int:
    """Return the least number of groups without a loss that certifies a risk of at most `limit` at `confidence`.

    With fewer no data whatever give the bound. 29 for 10% at 95%, 59 for 5%. The level is shared among `sequences`.
    Raises MisuseError for a limit or a confidence outside (0, 1).
    """
    level = level_of(confidence, sequences)
    n = max(1, math.floor(math.log(level) / math.log1p(-_share("the limit", limit))) - 1)
    while binomial_p_value(0, n, limit) > level:
        n += 1
    return n


def most_losses(n: int, limit: float, confidence: float) -> int:
    """Return the most losses among `n` groups that certify a risk of at most `limit`; -1 below `smallest_n`."""
    p_values = binomial_p_value(np.arange(check_whole("the number of groups", n, 0) + 1), n, limit)
    return int(np.searchsorted(p_values, level_of(confidence), side="right")) - 1


def risk_upper_bound(losses: int, n: int, confidence: float) -> float:
    """Return the upper end of the one-sided Clopper–Pearson interval: the least limit that these counts certify.

    For one candidate that was fixed beforehand; of a chosen one it says too little. 1 where every group lost.
    """
    level = level_of(confidence)
    binomial_p_value(losses, n, 0.5)  # refuses what cannot be counted
    return 1.0 if losses == n else float(betaincinv(losses + 1, n - losses, 1 - level))


def group_losses(lost: ArrayLike, groups: ArrayLike) -> Booleans:
    """Return whether any item of each group lost, `[n_groups]` in the groups' order, from items and groups `[n]`."""
    values, group = np.asarray(lost, bool), np.asarray(groups)
    if values.shape != group.shape or values.ndim != 1:
        raise MisuseError(f"each item has a group: got {values.shape} losses and {group.shape} groups")
    names, place = np.unique(group, return_inverse=True)
    return np.bincount(place, values, minlength=len(names)) > 0


def fixed_sequence(p_values: Sequence[float] | Floats, level: float) -> int:
    """Return how many candidates pass, first to last: those before the first p-value that is above `level`."""
    failed = np.flatnonzero(~(np.asarray(p_values, np.float64) <= level))
    return int(failed[0]) if len(failed) else len(p_values)


def level_of(confidence: float, sequences: int = 1) -> float:
    """Return the level at which each of several sequences is tested: 1 - confidence, shared equally (Bonferroni)."""
    return (1 - _share("the confidence", confidence)) / check_whole("the number of sequences", sequences, 1)


def certify(losses: int, n: int, limit: float, confidence: float, sequences: int = 1) -> Certificate | None:
    """Return the certificate of one candidate; None where the counts do not give it.

    Of a candidate in a sequence it holds only if those before it in the sequence passed.
    """
    p_value, level = float(binomial_p_value(losses, n, limit)), level_of(confidence, sequences)
    return Certificate(limit, confidence, losses, n, p_value, level) if p_value <= level else None


def certified_cut(
    scores: ArrayLike, negative: ArrayLike, groups: ArrayLike, limit: float, confidence: float
) -> CertifiedCut:
    """Return the lowest cut at which at most the share `limit` of groups has a negative item at or above it.

    `scores`, `negative` (whether nothing should fire) and `groups` are `[n]`; groups without a negative item do not
    count. The sequence tested is all cuts, from the highest down: the losses only grow along it, so the cuts that
    pass are those above the score of one group, and the family of all of them needs no grid (as in Bates et al. 2021,
    arXiv 2101.02703). The cut lies half way to the next score above, so that rounding moves no item across.

    Raises MisuseError where there are fewer groups than `smallest_n`, or a score is not finite.
    """
    values, group = np.asarray(scores, np.float64), np.asarray(groups)
    mask = np.asarray(negative, bool)
    if not values.shape == mask.shape == group.shape or values.ndim != 1:
        raise MisuseError("scores, labels and groups have one entry for each item")
    if not np.isfinite(values).all():
        raise MisuseError("a score is not finite: nothing can be bounded with it")
    _, place = np.unique(group[mask], return_inverse=True)
    n = int(place.max()) + 1 if len(place) else 0
    check_enough(n, limit, confidence)
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, place, values[mask])
    below = np.sort(highest)[::-1][most_losses(n, limit, confidence)]  # the highest group that must not fire
    above = values[values > below]
    cut = float((below + above.min()) / 2 if above.size else below + 1.0)
    certificate = certify(int((highest >= cut).sum()), n, limit, confidence)
    assert certificate is not None  # at most `most_losses` groups lie above `below`
    return CertifiedCut(cut, certificate)


def check_enough(n: int, limit: float, confidence: float, sequences: int = 1, what: str = "groups") -> None:
    """Raise MisuseError, naming the least number, where no data of `n` groups can give the bound."""
    least = smallest_n(limit, confidence, sequences)
    if n < least:
        raise MisuseError(
            f"{n} {what} cannot bound a risk at {limit:g} with {confidence:.10g} confidence: it takes at least {least} "
            "of them without a single loss; give more questions, or ask for a looser bound"
        )


def _share(what: str, value: Any) -> float:
    share = check_number(what, value)
    if not LEAST_SHARE <= share < 1:
        raise MisuseError(f"{what} is a share between 0 and 1, both left out, got {value}")
    return share
