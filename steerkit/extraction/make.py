"""Contrast pairs from the user's own model: asked twice for the same prompt, once each way.

The completions are the model's own words, so the pairs hold nothing that the model would not write. The
instruction that brought a completion about is not kept in the pair: its prompt stands there without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steerkit.core.errors import InputError
from steerkit.core.progress import shows_progress
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Completion, Decoding, Engine, Request
from steerkit.extraction.pairs import ContrastPair, ContrastPairs

GREEDY = Decoding(max_new_tokens=256)

Progress = Callable[[int, int], None]
Fault = Callable[[Completion, Completion], str | None]
"""Takes the positive and the negative completion; says why they show no contrast, or None where they do."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to ask for each side (a system instruction, or None for the plain prompt), and how to tell."""

    name: str
    positive_system: str | None
    negative_system: str | None
    fault: Fault


@dataclass(frozen=True, slots=True)
class MadePairs:
    """The pairs that show the contrast, and for each dropped prompt its place among the prompts and why."""

    pairs: ContrastPairs
    dropped: tuple[tuple[int, str], ...]

    def __repr__(self) -> str:
        return f"MadePairs({self.pairs!r}, {len(self.dropped)} dropped)"


def brevity(ratio: float = 0.6) -> Behaviour:
    """Concise (positive) against verbose; the concise side has at most `ratio` times the other's tokens."""

    def fault(concise: Completion, verbose: Completion) -> str | None:
        if concise.tokens <= ratio * verbose.tokens:
            return None
        return f"the concise side has {concise.tokens} tokens, the verbose one {verbose.tokens}"

    return Behaviour(
        "brevity",
        "Solve the problem with as few words as you can: only the calculation and the result.",
        "Solve the problem slowly. Explain every step in full sentences, check it, then state the result.",
        fault,
    )


def abstention(abstains: Callable[[str], bool]) -> Behaviour:
    """Abstaining (positive) against the plain answer, as the predicate `abstains` tells them apart."""

    def fault(abstaining: Completion, answering: Completion) -> str | None:
        if not abstains(abstaining.answer):
            return "the model answered although it was told to abstain"
        if abstains(answering.answer):
            return "the model abstained by itself"
        return None

    return Behaviour(
        "abstention",
        "You cannot know the answer to this question. Say so in your own words, and say what is missing. "
        "Do not guess.",
        None,
        fault,
    )


@shows_progress("making pairs")
def make_pairs(
    engine: Engine,
    prompts: Iterable[Prompt],
    behaviour: Behaviour,
    decoding: Decoding = GREEDY,
    *,
    progress: Progress | None = None,
) -> MadePairs:
    """Complete every prompt both ways and keep those where the contrast came about.

    A pair is dropped where a side is empty, was cut off at the token limit, or fails the behaviour's test.
    `progress` is called with the completions there and those asked for. Raises InputError where no pair is
    left.
    """
    prompts = list(prompts)
    systems = {"positive": behaviour.positive_system, "negative": behaviour.negative_system}
    requests = [
        Request(prompt, decoding=decoding, system=system, key=(index, side))
        for index, prompt in enumerate(prompts)
        for side, system in systems.items()
    ]
    completions: dict[object, Completion] = {}
    for completion in engine.generate(requests):
        completions[completion.request.key] = completion
        if progress is not None:
            progress(len(completions), len(requests))
    pairs, dropped = [], []
    for index, prompt in enumerate(prompts):
        positive, negative = completions[index, "positive"], completions[index, "negative"]
        fault = _unusable(positive) or _unusable(negative) or behaviour.fault(positive, negative)
        if fault:
            dropped.append((index, fault))
        else:
            name = f"{behaviour.name}-{index:03d}"
            pairs.append(ContrastPair(name, prompt, positive.text.strip(), negative.text.strip()))
    if not pairs:
        raise InputError(
            f"none of the {len(prompts)} prompts gave a pair that shows {behaviour.name}"
            + (f"; the first: {dropped[0][1]}" if dropped else "")
        )
    return MadePairs(ContrastPairs(behaviour.name, tuple(pairs)), tuple(dropped))


def _unusable(completion: Completion) -> str | None:
    if completion.finish == "length":
        return f"a completion was cut off at {completion.tokens} tokens"
    return None if completion.text.strip() else "a completion is empty"
