"""An engine: `steerkit sweep --engine parrot`, `sk.sweep(Parrot(lm), …)`. Of a model it needs the words alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import steerkit as sk

if TYPE_CHECKING:
    from steerkit import Intervention, LanguageModel, Request, ScoreRequest
    from steerkit.engines.base import ContinuationScore
    from steerkit.engines.catalogue import EngineOptions


class Parrot:
    """Says the prompt back: at strength n its first n words in capitals, and n exclamation marks behind it."""

    name, dtype, batch_size = "parrot", "float32", 1

    def __init__(self, lm: LanguageModel) -> None:
        self.model = lm

    def supports(self, intervention: Intervention) -> str | None:
        """Return why a parrot cannot do this; None for a steering."""
        return None if intervention.kind == "steering" else "a parrot can only be steered"

    def check(self, request: Request) -> None:
        """Raise MisuseError for what is no steering."""
        for reason in filter(None, map(self.supports, request.interventions)):
            raise sk.SteerkitError(reason)

    def generate(self, requests: Iterable[Request]) -> Iterator[sk.Completion]:
        """Say each prompt back."""
        for request in requests:
            self.check(request)
            words = str(request.prompt).split()
            loud = max(0, round(sum(each.strength for each in request.interventions)))
            text = " ".join([*map(str.upper, words[:loud]), *words[loud:]]) + "!" * loud
            ids = tuple(self.model.renderer.encode(text))
            yield sk.Completion(request, text, ids, "stop", prompt_tokens=len(ids))

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Refuse: a parrot has no probabilities."""
        raise sk.SteerkitError(f"a parrot scores no texts, and not these {len(requests)}")


@sk.engine("parrot", takes=("device",))
def parrot(options: EngineOptions) -> Parrot:
    """Say prompts back, the louder the more they are steered."""
    return Parrot(sk.load_model(options.model, device=options.device, dtype=options.dtype))
