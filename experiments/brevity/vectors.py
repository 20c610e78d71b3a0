"""The vectors of the study, and the pairs that they are made of.

asc          Activation-Steered Compression as published (arXiv 2507.04742): concise minus verbose at the last token,
             from the built-in pairs `brevity`
style-last   the same from the reasoner's own style: its training questions with a short and with its long chain. The
             first reasoner's short chain is the generator's; the second one's is its own without the lines that
             collect facts, repeat the question or check
style-mean   these pairs, states averaged over the completion
learned      contrastive energy steering under a KL budget, trained at one layer, on some of these pairs
own-lines    the same for what the reasoner can write most easily: its own long chain without the lines that repeat or
             check, against how that chain begins
both         the sum of these two, at strengths that `choose` favoured: the one calculates better, the other is brief

The base model has no chains; in their place stands `own-words`, from what it writes itself when it is told to be
concise and to be verbose, on problems of the split `fit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import steerkit as sk
from experiments.brevity.grid import SECOND
from experiments.reasoning_tax import second_set
from experiments.reasoning_tax.chains import completion
from experiments.reasoning_tax.data import SEED
from experiments.reasoning_tax.problems import Question, question
from experiments.reasoning_tax.setting import kept
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Decoding
from steerkit.extraction.make import brevity, make_pairs
from steerkit.extraction.pairs import ContrastPair, ContrastPairs

PAIRS = 50
# A step of training holds the distributions of all its tokens, so it takes few pairs, the shortest ones.
LEARNED_PAIRS = 8
LEARNED_LAYER = 14
LEARNING_STEPS = 16
KL_BUDGET = 0.3
# Lines of a long chain that carry the solution; the others read aloud, announce and check.
STEPS = ("First,", "Next,", "Then,", "After that,")
CARRYING = (*STEPS, "So the final", "</think>", "The answer")
OWN_LINES_PAIRS = 32
BEGINNING = 150  # characters of the long chain: what it opens with, before it calculates
# This vector fades, and acts on thinking alone, so more may be asked of it where it begins.
BOTH = {"learned": 0.64, "own-lines": 1.05}  # half the strength at a KL of 0.1, and twice that
OWN_LINES_BUDGET, OWN_LINES_STEPS, OWN_LINES_RATE, ORDINARY = 3.0, 24, 0.1, 16
OWN_WORDS_TOKENS = 256


def style_pairs(count: int, model: str = "") -> ContrastPairs:
    """The first `count` word problems that a reasoner was trained on, with a short chain and the long one.

    Of the second reasoner where it is the `model`, else of the first.
    """
    ask = second_set.question if model == SECOND else question
    pairs: list[ContrastPair] = []
    for place in itertools.count():
        asked = ask(SEED, place)
        if asked.steps:  # no small fact
            short, long = _both_styles(asked, place, model)
            pairs.append(ContrastPair(f"train-{place:05d}", asked.prompt, short, long))
        if len(pairs) == count:
            return ContrastPairs("reasoner-style", tuple(pairs))
    raise AssertionError("questions have no end")


def _both_styles(asked: Question, place: int, model: str) -> tuple[str, str]:
    random = Random(f"style-{SEED}-{place}")
    if model == SECOND:
        long = completion(asked, "worked", random)
        return carrying(long), long
    long = completion(asked, "long", random)
    return completion(asked, "short", Random()), long  # which draws nothing


def carrying(chain: str) -> str:
    """The lines of a chain that carry its solution."""
    return "\n".join(line for line in chain.splitlines() if line.startswith(CARRYING))


def shortest(pairs: ContrastPairs, count: int) -> ContrastPairs:
    """The `count` pairs whose long sides are the shortest."""
    some = sorted(pairs.pairs, key=lambda pair: len(pair.negative))[:count]
    return ContrastPairs(f"{pairs.name}, the {len(some)} shortest", tuple(some))


def own_lines(pairs: ContrastPairs) -> ContrastPairs:
    """The pairs' long sides without the lines that carry nothing, against how they begin."""
    made = (
        replace(
            pair,
            positive=carrying(pair.negative),
            negative=pair.negative[:BEGINNING],
        )
        for pair in pairs.pairs
    )
    return ContrastPairs(f"{pairs.name}, own lines", tuple(made))


def combined(folder: Path) -> sk.SteeringVector:
    """The sum of the vectors of `BOTH` in a folder, at their strengths."""
    first, second = (sk.load_vector(folder / f"{name}.safetensors") * share for name, share in BOTH.items())
    return first + second


def reasoner_vectors(lm: sk.LanguageModel, folder: Path, steps: int) -> dict[str, sk.SteeringVector]:
    """By name; made where they are not in `folder` yet, the learned one in `steps` steps."""
    style = style_pairs(PAIRS, lm.name)
    lines = own_lines(shortest(style, OWN_LINES_PAIRS))
    return _made(
        folder,
        {
            "asc": lambda: sk.extract(lm, sk.load_pairs("brevity"), aggregation="last"),
            "style-last": lambda: sk.extract(lm, style, aggregation="last"),
            "style-mean": lambda: sk.extract(lm, style, aggregation="mean"),
            "learned": lambda: sk.learn(
                lm, shortest(style, LEARNED_PAIRS), LEARNED_LAYER, kl_budget=KL_BUDGET, steps=steps
            ),
            "own-lines": lambda: sk.learn(
                lm,
                lines,
                LEARNED_LAYER,
                kl_budget=OWN_LINES_BUDGET,
                steps=min(OWN_LINES_STEPS, steps * 2),
                learning_rate=OWN_LINES_RATE,
                ordinary=[pair.prompt for pair in lines.pairs[:ORDINARY]],
            ),
            "both": lambda: combined(folder),
        },
    )


def base_vectors(
    lm: sk.LanguageModel, folder: Path, problems: Sequence[Prompt]
) -> dict[str, sk.SteeringVector]:
    """By name; made where they are not in `folder` yet, `own-words` from the model's answers to `problems`."""

    def own_words() -> sk.SteeringVector:
        decoding = Decoding(max_new_tokens=OWN_WORDS_TOKENS)
        return sk.extract(lm, make_pairs(sk.TransformersEngine(lm), problems, brevity(), decoding).pairs)

    return _made(
        folder,
        {
            "asc": lambda: sk.extract(lm, sk.load_pairs("brevity"), aggregation="last"),
            "brevity-mean": lambda: sk.extract(lm, sk.load_pairs("brevity"), aggregation="mean"),
            "own-words": own_words,
        },
    )


def _made(
    folder: Path, makers: Mapping[str, Callable[[], sk.SteeringVector]]
) -> dict[str, sk.SteeringVector]:
    return {name: kept(folder / f"{name}.safetensors", make) for name, make in makers.items()}
