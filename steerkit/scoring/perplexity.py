"""How strange a steered completion is to the model that was not steered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Scores, scorer

if TYPE_CHECKING:
    from steerkit.engines.base import Completion, Engine


@scorer(
    "perplexity",
    metrics=[Metric("perplexity", "perplexity", "lower", unit="number", show="hidden")],
    needs="engine",
)
def perplexity(engine: Engine, completions: Sequence[Completion]) -> list[Scores]:
    """Give the perplexity of each completion under the unsteered model, given its prompt; None for an empty one.

    exp of the mean negative log-probability per token (in nats), in one batch of teacher-forced scoring.
    """
    from steerkit.engines.base import ScoreRequest  # heavy

    requests = [
        ScoreRequest(
            prompt=completion.request.prompt,
            continuation=completion.text,
            system=completion.request.system,
            key=place,
        )
        for place, completion in enumerate(completions)
        if completion.text
    ]
    perplexity_at: dict[object, float] = {}
    for score in engine.score(requests):
        if score.log_probabilities:
            perplexity_at[score.request.key] = math.exp(-score.total / len(score.log_probabilities))
    return [{"perplexity": perplexity_at.get(place)} for place in range(len(completions))]
