"""Detectors that let the model answer first: how sure it is of its own answer, or how far its answers disagree.

They are for models that know answers, of a billion parameters and up. On the bundled ones expect them to be worthless:
a model that knows next to nothing is as unsure of what can be answered as of what cannot. `steerkit gate compare`
measures it. Each costs a completion a prompt, or several, where a probe costs one forward pass.

They stand here and not beside `steerkit.interventions.detectors`, because they need the packed engine: all answers of
all prompts are one batch, and the samples of a prompt share it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from steerkit.core.prompts import Prompt
from steerkit.interventions.detectors import gate

if TYPE_CHECKING:
    from steerkit.engines.base import Completion, Decoding
    from steerkit.models import LanguageModel

ANSWER_TOKENS = 32
SAMPLES = 10  # as Farquhar et al. draw
SEED = 0  # a gate reads the same at each time


@gate("log-probability")
def log_probability(prompts: Sequence[Prompt], lm: LanguageModel) -> list[float]:
    """How unsure the model is of its greedy answer: 1 - exp(mean log-probability of its tokens)."""
    from steerkit.engines.base import Decoding

    found = []
    for (answer,) in _answers(prompts, lm, Decoding(ANSWER_TOKENS), 1, readers=("log-probability",)):
        read = [nats for nats in answer.readings[0].completion if nats is not None]
        found.append(1 - math.exp(min(sum(read) / len(read), 0.0)) if read else 1.0)
    return found


@gate("semantic-entropy")
def semantic_entropy(prompts: Sequence[Prompt], lm: LanguageModel) -> list[float]:
    """How far ten sampled answers disagree: entropy over groups of equal answers, as a share of its most.

    Discrete semantic entropy (Kuhn et al. 2023, arXiv 2302.09664; Farquhar et al. 2024, Nature 630), with answers
    taken for equal where they have the same words (`same_words`) instead of by an entailment model: ask for short
    answers.
    """
    from steerkit.engines.base import Decoding

    sampled = _answers(prompts, lm, Decoding(ANSWER_TOKENS, temperature=1.0, seed=SEED), SAMPLES)
    return [disagreement(each.answer for each in answers) for answers in sampled]


def disagreement(answers: Iterable[str]) -> float:
    """Entropy over groups of answers with the same words, as a share of log n: 0 where all agree, 1 where none do."""
    groups = Counter(map(same_words, answers))
    n = groups.total()
    nats = -sum(count / n * math.log(count / n) for count in groups.values())
    return min(nats / math.log(n), 1.0) if n > 1 else 0.0


def same_words(answer: str) -> str:
    """What two equal answers have in common: the first line's words, in small letters, without articles and signs."""
    lines = answer.strip().splitlines() or [""]
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", lines[0]).casefold())
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _answers(
    prompts: Sequence[Prompt],
    lm: LanguageModel,
    decoding: Decoding,
    samples: int,
    readers: tuple[str, ...] = (),
) -> list[list[Completion]]:
    """`samples` unsteered answers to each prompt, in order, from one packed batch."""
    from steerkit.engines.base import Request
    from steerkit.engines.transformers.engine import TransformersEngine

    asked = (
        Request(prompt, (), decoding, sample=sample, key=place, readers=readers)  # type: ignore[arg-type]  # by name
        for place, prompt in enumerate(prompts)
        for sample in range(samples)
    )
    found: list[list[Completion]] = [[] for _ in prompts]
    for completion in TransformersEngine(lm).generate(asked):
        found[completion.request.key].append(completion)  # type: ignore[call-overload]  # a place
    return found
