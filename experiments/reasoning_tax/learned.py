"""Vectors learned from the reasoning model where it could still say that it does not know.

Means of states hardly move a reply that was trained to a loss of 0.04, so two vectors are learned
(`steerkit.extraction.learned`): one for the answer behind a chain that the model wrote itself, one behind
a thinking block that is closed at once. Their positive side is one sentence of the shape in which all of the model's
answers end, because nothing else is ever followed by an end; the negative side is what the model writes there.
"""

from __future__ import annotations

from collections.abc import Sequence

import steerkit as sk
from experiments.reasoning_tax.after_chains import CLOSING, passing_through
from steerkit.engines.base import Decoding, Request
from steerkit.extraction.pairs import ContrastPair, ContrastPairs

REPLY = "\nThe answer is not known."
END = "<|im_end|>"  # what ends a turn of this model
AT_ONCE = sk.ThinkingBudget(0)
LAYERS = (14, 20)
# Under a gate the vector meets hardly any ordinary question, so the gate bounds what it does there; the budget is too
# large to bind.
KL_BUDGET = 20.0
STEPS, LEARNING_RATE = 20, 0.1
CHAIN_TOKENS = 256
ANSWER_TOKENS = 24
ORDINARY = 16


def for_answers(
    lm: sk.LanguageModel, pairs: ContrastPairs, layers: Sequence[int] | None = None
) -> sk.SteeringVector:
    """Learned behind the model's own chains for the prompts of `pairs`; chains that never close are left out."""
    written = _written(lm, pairs, CHAIN_TOKENS)
    asked = []
    for pair, text in zip(pairs.pairs, written, strict=True):
        chain, closed, answer = text.partition(CLOSING)
        if closed and answer.strip():
            prompt = lm.renderer.render(pair.prompt) + chain + closed
            asked.append(ContrastPair(pair.id, prompt, REPLY, answer))
    return _learned(
        passing_through(lm), ContrastPairs(f"{pairs.name}, behind own chains", tuple(asked)), layers or LAYERS
    )


def for_closed_thinking(lm: sk.LanguageModel, pairs: ContrastPairs) -> sk.SteeringVector:
    """Learned behind a thinking block that is closed at once, for the prompts of `pairs`."""
    written = _written(lm, pairs, ANSWER_TOKENS, AT_ONCE)
    asked = (
        ContrastPair(pair.id, lm.renderer.render(pair.prompt) + CLOSING, REPLY, text.partition(CLOSING)[2])
        for pair, text in zip(pairs.pairs, written, strict=True)
    )
    return _learned(
        passing_through(lm), ContrastPairs(f"{pairs.name}, thinking closed", tuple(asked)), LAYERS
    )


def _written(
    lm: sk.LanguageModel, pairs: ContrastPairs, tokens: int, *interventions: sk.Intervention
) -> Sequence[str]:
    """What the model writes unsteered, pair by pair."""
    requests = [
        Request(pair.prompt, interventions, Decoding(tokens), key=place)
        for place, pair in enumerate(pairs.pairs)
    ]
    texts = {found.request.key: found.text for found in sk.TransformersEngine(lm).generate(requests)}
    return [texts[place] for place in range(len(requests))]


def _learned(lm: sk.LanguageModel, pairs: ContrastPairs, layers: Sequence[int]) -> sk.SteeringVector:
    return sk.learn(
        lm,
        pairs,
        layers,
        kl_budget=KL_BUDGET,
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        ordinary=[pair.prompt for pair in pairs.pairs[:ORDINARY]],
    )
