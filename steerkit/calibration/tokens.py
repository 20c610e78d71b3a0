"""From the divergence of every token to a mean and a 95th percentile, each with an interval over prompts.

Tokens are pooled: a long roll-out counts for more than a short one. The tokens of one prompt are not
independent, so the bootstrap resamples prompts, the same way at every strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from steerkit.core.bootstrap import Floats, Integers, interval, resampling_weights

Statistic = Literal["mean", "p95"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
PERCENTILE = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Nats per token. Intervals are 95% percentile intervals; None with a single prompt."""

    mean: float
    mean_interval: Interval | None
    p95: float
    p95_interval: Interval | None

    def value(self, statistic: Statistic) -> float:
        """The mean or the 95th percentile."""
        return self.mean if statistic == "mean" else self.p95

    def interval(self, statistic: Statistic) -> Interval | None:
        """The interval of the mean or of the 95th percentile."""
        return self.mean_interval if statistic == "mean" else self.p95_interval


def pool(per_prompt: Sequence[Floats]) -> TokenStatistics:
    """Statistics over the tokens of all prompts, `[token]` for each prompt."""
    prompts = len(per_prompt)
    tokens = np.concatenate(per_prompt)
    owners = np.repeat(np.arange(prompts), [len(part) for part in per_prompt])
    order = np.argsort(tokens, kind="stable")
    once = np.ones((1, prompts))
    mean, p95 = _mean(per_prompt, once)[0], _percentile(tokens[order], owners[order], once)[0]
    if prompts < 2:
        return TokenStatistics(float(mean), None, float(p95), None)
    counts = resampling_weights(prompts)
    return TokenStatistics(
        float(mean),
        interval(_mean(per_prompt, counts)),
        float(p95),
        interval(_percentile(tokens[order], owners[order], counts)),
    )


def _mean(per_prompt: Sequence[Floats], counts: Floats) -> Floats:
    sums = np.array([part.sum() for part in per_prompt])
    lengths = np.array([len(part) for part in per_prompt])
    means: Floats = (counts @ sums) / (counts @ lengths)
    return means


def _percentile(tokens: Floats, owners: Integers, counts: Floats) -> Floats:
    """The smallest token value that 95% of the tokens do not exceed, in each resample `[resample, prompt]`."""
    below = np.cumsum(counts[:, owners], axis=1)
    found: Floats = tokens[(below >= PERCENTILE * below[:, -1:]).argmax(axis=1)]
    return found
