"""How strange a steered completion is to the model that was not steered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steerkit.engines.base import Completion, Engine, ScoreRequest


def perplexities(engine: Engine, completions: Sequence[Completion]) -> list[float | None]:
    """The perplexity of each completion under the unsteered model, given its prompt, in the order given.

    exp of the mean negative log-probability per token, in one batch of teacher-forced scoring; None for an
    empty completion.
    """
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
    return [perplexity_at.get(place) for place in range(len(completions))]
