"""A prompt that is given as tokens is those tokens."""

from __future__ import annotations

import pytest

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from tests.tiny import random_vector


def test_a_prompt_given_as_tokens_is_the_rendered_one(tiny: LanguageModel) -> None:
    engine, cell = TransformersEngine(tiny), (random_vector(tiny).at(1),)
    ids = tuple(tiny.renderer.encode_prompt("why?", "Be brief."))
    asked = [
        Request("why?", cell, Decoding(6), "Be brief.", key="text"),
        Request("what it is called", cell, Decoding(6), key="tokens", prompt_ids=ids),
    ]
    text, tokens = sorted(engine.generate(asked), key=lambda c: str(c.request.key), reverse=True)
    engine.check(asked[1])
    assert (text.token_ids, text.text, text.prompt_tokens) == (tokens.token_ids, tokens.text, len(ids))


def test_a_text_given_as_tokens_is_scored_as_it_is(tiny: LanguageModel) -> None:
    engine, cell = TransformersEngine(tiny), (random_vector(tiny).at(1),)
    encoded = tiny.renderer.encode_pair("why?", "because")
    text, tokens = engine.score(
        [ScoreRequest("why?", "because", cell), ScoreRequest("", "", cell, encoded=encoded)]
    )
    assert text.log_probabilities == pytest.approx(tokens.log_probabilities)
    assert text.token_ids == tokens.token_ids


def test_given_tokens_take_no_edit_of_the_prompt() -> None:
    for more in ({"system": "Be brief."}, {"interventions": (PromptEdit(instruction="Or not."),)}):
        with pytest.raises(MisuseError, match="no edit of the prompt can act on it"):
            Request("x", prompt_ids=(1, 2), **more)  # type: ignore[arg-type]
    Request("x", (PromptEdit(begin="Sure"),), prompt_ids=(1, 2))
