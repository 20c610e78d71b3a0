"""Stand-ins for a model: one believes the last number that its chain gives it, one always says the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from steerkit.chains.chains import CUE
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest
from steerkit.models.markers import DEFAULT


class Reader:
    """Answers with the last number of what it is given, 0 where there is none; asked to go on, it says so.

    A reference answer costs it as many nats as numbers are missing in its chain: 3 minus how many it has.
    """

    name, dtype, batch_size = "reader", "float32", 1

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.requests: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.requests.append(request)
            yield self._complete(request)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        return [
            ContinuationScore(
                r, (*[0.0] * 5, -max(0.0, 3 - len(re.findall(r"\d+", r.continuation.split(CUE)[0]))))
            )
            for r in requests
        ]

    def answer(self, start: str) -> str:
        return ["0", *re.findall(r"\d+", start)][-1]

    def _complete(self, request: Request) -> Completion:
        if not request.interventions:  # a paraphrase is asked for
            text = "Put otherwise: " + str(request.prompt).split("\n\n")[1]
            ids = tuple(self.renderer.encode(text))
        else:
            *_, edit = request.interventions
            start = edit.begin
            added = f" {self.answer(start)}." if start.endswith(CUE) else self._goes_on(start)
            encoded = self.renderer.encode_pair("?", start)
            ids = (*encoded.ids[encoded.prompt_length :], *self.renderer.encode(added))
            text = start + added
        return Completion(request, text, ids, "stop", 1)

    def _goes_on(self, start: str) -> str:
        line = f"So it is {self.answer(start)}."
        return (
            f"{line}\n{DEFAULT.closing}\nThat's it."
            if DEFAULT.opening in start
            else f"{line} The answer is 99."
        )


class Stubborn(Reader):
    """Always 7, whatever it is given; and 7 costs it nothing."""

    def answer(self, _start: str) -> str:
        return "7"

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        return [ContinuationScore(r, (-1.0,) * 9) for r in requests]
