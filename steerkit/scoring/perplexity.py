"""How strange a steered completion is to the model that was not steered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Scores, scorer

if TYPE_CHECKING:
    from steerkit.engines.base import Completion, Engine


METRICS = (Metric("perplexity", "perplexity", "lower", unit="number", show="hidden"),)


@scorer("perplexity", metrics=METRICS, needs="engine")
def perplexity(engine: Engine, completions: Sequence[Completion]) -> list[Scores]:
    """Give the perplexity of each completion under the unsteered model, given its prompt; None for an empty one.

    exp of the mean negative log-probability per token (in nats), in one batch of teacher-forced scoring.
    """
    from steerkit.engines.base import ScoreRequest  # heavy

    requests = [
        ScoreRequest(each.request.prompt, each.text, system=each.request.system, key=place)
        for place, each in enumerate(completions)
        if each.text
    ]
    perplexity_at: dict[object, float] = {}
    for score in engine.score(requests):
        if score.log_probabilities:
            perplexity_at[score.request.key] = math.exp(-score.total / len(score.log_probabilities))
    return [{"perplexity": perplexity_at.get(place)} for place in range(len(completions))]
