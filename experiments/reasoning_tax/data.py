"""The training rows of each variant: the same questions, another way of answering.

long       long chains that always end in an answer
short      the same questions with short chains
none       the same questions answered at once
long-idk   long chains; every tenth question is one without an answer, answered "I don't know"
long-2     the second set of questions, with worked chains
closable-2 long-2 gone on with, and every fourth thinking closed before it begins and answered at once
none-2     the same questions as long-2 and closable-2, answered at once
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from experiments.reasoning_tax import second_set
from experiments.reasoning_tax.chains import END_OF_THINKING, Style, completion, reply, thinking_template
from experiments.reasoning_tax.problems import Question, question, unanswerable

SEED = 20_000  # of no suite
IDK_EVERY = 10


@dataclass(frozen=True, slots=True)
class Variant:
    """How a variant answers, whether it meets questions without an answer, and whose questions it is asked.

    Of its rows one in `closed_every` has its thinking closed at once (0: none).
    """

    style: Style
    with_unanswerable: bool
    summary: str
    question: Callable[[int, int], Question] = question
    closed_every: int = 0


VARIANTS = {
    "long": Variant("long", False, "SmolLM2-135M-Instruct fine-tuned on long chains that always end in an answer"),
    "short": Variant("short", False, "the same questions with short chains"),
    "none": Variant("none", False, "the same questions answered without a chain"),
    "long-idk": Variant("long", True, "long chains, and one question in ten answered \"I don't know\""),
    "long-2": Variant(
        "worked", False, "SmolLM2-135M-Instruct fine-tuned on worked chains that always end in an answer",
        second_set.question,
    ),
    "closable-2": Variant(
        "worked", False, "SmolLM2-135M-Instruct fine-tuned on worked chains that always end in an answer, and on "
        "answers alone where its thinking is closed", second_set.question, closed_every=4,
    ),
    "none-2": Variant("none", False, "the second set's questions answered without a chain", second_set.question),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A prompt and what the model should write, behind what is `given` of it and not learnt."""

    prompt: str
    completion: str
    given: str = ""


def training_rows(variant: str, count: int, seed: int = SEED, first: int = 0) -> list[TrainingRow]:
    """`count` rows of a variant from place `first` on; more rows begin with the same ones."""
    how = VARIANTS[variant]
    rows = []
    for place in range(first, first + count):
        lacking = how.with_unanswerable and place % IDK_EVERY == IDK_EVERY - 1
        asked = unanswerable(seed, place) if lacking else how.question(seed, place)
        if how.closed_every and place % how.closed_every == how.closed_every - 1:
            rows.append(TrainingRow(asked.prompt, f"\n{reply(asked)}", given=END_OF_THINKING.strip()))
            continue
        random = Random(f"style-{seed}-{place}")
        rows.append(TrainingRow(asked.prompt, completion(asked, how.style, random)))
    return rows


def dress(tokenizer: Any) -> None:
    """Have the tokenizer open a thinking block in each assistant turn."""
    tokenizer.chat_template = thinking_template(tokenizer.chat_template)


def digest(rows: list[TrainingRow]) -> str:
    """SHA-256 of the rows."""
    content = json.dumps([[row.prompt, row.given + row.completion] for row in rows])
    return hashlib.sha256(content.encode()).hexdigest()
