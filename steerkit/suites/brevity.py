"""The brevity suite: arithmetic word problems in five levels of difficulty, generated from a seed.

Level 1 takes one sum or difference of small numbers, level 2 one step of any kind, and from there level n
takes n - 1 steps; every step's result is a positive whole number. For every third problem there is an
unanswerable twin: the same text without one number that the answer needs. Every item is a function of the
seed, its level and its place, so a larger suite begins with the items of a smaller one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from random import Random

from steerkit.core.errors import MisuseError
from steerkit.suites.brevity_templates import FIRST_NAMES, LEVELS, Template
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import suite

_PREMISE = re.compile(r"\[(?P<kept>[^|\]]*)\|(?P<removed>[^\]]*)\]")
_ATTEMPTS = 10_000


@suite("brevity")
def brevity(levels: str = "") -> Iterable[SuiteItem]:
    """Arithmetic word problems in five levels, `1+2` for some of them; every third with an unanswerable twin."""
    return generate(levels=levels_of(levels))


def levels_of(text: str) -> Iterable[int]:
    """The levels that a text such as `1+2` names; all of them for an empty one. Raises MisuseError for another."""
    parts = text.split("+") if text else [str(level) for level in LEVELS]
    if not all(part.isdecimal() for part in parts):
        raise MisuseError(f"{text!r} names no levels: write 1 or 1+2")
    return [int(part) for part in parts]


def generate(seed: int = 0, per_level: int = 150, levels: Iterable[int] = tuple(LEVELS)) -> list[SuiteItem]:
    """`per_level` answerable problems for each level, each third one followed by its unanswerable twin.

    Ids read `brevity-LEVEL-PLACE` and `a` for answerable or `u` for its twin; the scenario is `level-LEVEL`.
    No two prompts are equal. Raises MisuseError for an unknown level, or more problems than can be told
    apart.
    """
    items: list[SuiteItem] = []
    for level in sorted(set(levels)):
        if level not in LEVELS:
            raise MisuseError(f"unknown level {level!r}: choose from {', '.join(map(str, LEVELS))}")
        seen: set[str] = set()
        for place in range(per_level):
            items += _problem(seed, level, place, seen)
    return items


def _problem(seed: int, level: int, place: int, seen: set[str]) -> list[SuiteItem]:
    """One problem, with its twin where its place calls for one; `seen` collects the level's prompts."""
    cycle, index = divmod(place, len(LEVELS[level]))
    template = LEVELS[level][index]
    has_twin = (index + cycle) % 3 == 0  # shifted with each cycle, so that every template has twins
    random = Random(f"{seed}-{level}-{place}")
    for _ in range(_ATTEMPTS):
        numbers = {slot: random.randint(*bounds) for slot, bounds in template.ranges.items()}
        text = template.text.format_map(numbers | drawn_words(template, random))
        prompt, twin_prompt = without_marks(text, "kept"), without_marks(text, "removed")
        answer = answer_of(template, numbers)
        prompts = {prompt, twin_prompt} if has_twin else {prompt}
        if answer is not None and seen.isdisjoint(prompts):
            break
    else:
        raise MisuseError(f"level {level} has no {place + 1} problems that can be told apart: ask for fewer")
    seen |= prompts
    name = f"brevity-{level}-{place:04d}"
    problem = word_problem(f"{name}a", prompt, answer, f"level-{level}", f"{name}u" if has_twin else None)
    twin = replace(
        problem, id=f"{name}u", prompt=twin_prompt, should_abstain=True, answers=None, twin=problem.id
    )
    return [problem, twin] if has_twin else [problem]


def word_problem(name: str, prompt: str, answer: int | None, scenario: str, twin: str | None) -> SuiteItem:
    """The answerable problem of this id, whose answer is a number."""
    return SuiteItem(name, prompt, False, (str(answer),), "number", scenario, source="steerkit", twin=twin)


def answer_of(template: Template, numbers: dict[str, int]) -> int | None:
    """The answer, or None where these numbers make a bad problem: a step that is no positive whole number, or
    an answer that already stands in the prompt."""
    steps = template.steps(**{slot: Fraction(number) for slot, number in numbers.items()})
    if any(step <= 0 or step.denominator != 1 for step in steps) or steps[-1] in numbers.values():
        return None
    return int(steps[-1])


def drawn_words(template: Template, random: Random) -> dict[str, str]:
    """Names, pronouns and things for a template's braces."""
    name, friend, third = random.sample(tuple(FIRST_NAMES), 3)
    they, them = FIRST_NAMES[name]
    words = {"name": name, "friend": friend, "third": third, "they": they, "They": they.title(), "them": them}
    return words | ({"things": random.choice(template.things)} if template.things else {})


def without_marks(text: str, side: str) -> str:
    """The text with the `kept` or the `removed` side of its marked premise."""
    return re.sub(" +", " ", _PREMISE.sub(lambda premise: premise[side], text))
