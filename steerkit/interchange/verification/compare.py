"""Our side of a verification: the texts, and what our engine computes for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.engines import forward
from steerkit.engines.base import ScoreRequest
from steerkit.engines.catalogue import engine_for
from steerkit.engines.context import steer
from steerkit.engines.forward import right_padded
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel

QUESTIONS = (
    "Which city is the capital of France, and on which river does it lie?",
    "Who will win the world championship in the year 2090?",
    "A train leaves at noon and covers 60 miles an hour. When has it gone 150 miles?",
)
ANSWERS = ("Paris, on the Seine.", "I don't know: nobody can know that yet.", "At half past two.")
KEEP = 4  # last positions of each text whose logits are compared
EQUAL = 1e-4  # largest difference of float32 logits, or of a token's log-likelihood in nats
EQUAL_TO_SHIFT = 1e-5  # the same, relative to the largest shift in the logits
ALIKE = 0.98  # smallest cosine of two shifts in the logits


@dataclass(frozen=True)
class Ours:
    """The model that the interventions are for, on our engine."""

    lm: LanguageModel
    allow_mismatch: bool = False

    @functools.cached_property
    def texts(self) -> list[list[int]]:
        """The token ids of `QUESTIONS`, rendered."""
        return [self.lm.renderer.encode_prompt(question) for question in QUESTIONS]

    def logits(self, steerings: Sequence[Steering]) -> Tensor:
        """Logits of the last `KEEP` positions of each text under steering, `[texts * KEEP, vocabulary]` on the host."""
        with steer(self.lm, *steerings, allow_mismatch=self.allow_mismatch):
            return logits(self.lm, self.texts)

    def log_likelihoods(self, steerings: Sequence[Steering]) -> list[float]:
        """Log-likelihood in nats of each of `ANSWERS` under steering."""
        engine = engine_for(self.lm, allow_mismatch=self.allow_mismatch)
        pairs = zip(QUESTIONS, ANSWERS, strict=True)
        scored = engine.score([ScoreRequest(*pair, tuple(steerings)) for pair in pairs])
        return [score.total for score in scored]


def logits(lm: LanguageModel, texts: Iterable[Sequence[int]]) -> Tensor:
    """Logits of the last `KEEP` positions of each text, one text a pass, `[texts * KEEP, vocabulary]` on the host."""
    with torch.inference_mode():
        each = [forward.logits(lm, right_padded([ids], lm), KEEP)[0] for ids in texts]
        return torch.cat(each).float().cpu()


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two shifts, all positions and tokens as one vector."""
    return float(torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))
