"""The twins suite: word problems beside themselves with one thing changed (N and N-1).

Two kinds of pairs, from the templates of `steerkit.suites.brevity` and another seed:
- `number`: one number is another one, and so is the answer; names, things and all other numbers stay.
- `premise`: one number that the answer needs is gone, and nothing can be answered. These are the brevity suite's own
  twins.

Every item is a function of the seed, its level and its place. `steerkit.scoring.twins` says how much better
a model is on the first twin of a pair than on the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from random import Random

from steerkit.core.errors import MisuseError
from steerkit.suites import brevity
from steerkit.suites.brevity_templates import LEVELS, Template
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import suite

SEED, PER_LEVEL = 2, 45
_ATTEMPTS = 10_000


@suite("twins", scorers=["twins", "abstention", "answers", "lengths", "degeneration"])
def twins(levels: str = "") -> Iterable[SuiteItem]:
    """Word problems beside themselves with a number changed or a premise gone; `1+2` for some levels."""
    return generate(levels=brevity.levels_of(levels))


def generate(
    seed: int = SEED, per_level: int = PER_LEVEL, levels: Iterable[int] = tuple(LEVELS)
) -> list[SuiteItem]:
    """`per_level` pairs of each kind for each level.

    Ids read `number-LEVEL-PLACE` and `a`, or `n` with another number; `premise-LEVEL-PLACE` and `a`, or `u` without
    the premise. The scenario is `level-LEVEL, KIND`. No two prompts of a level and kind are equal. Raises MisuseError
    for an unknown level, or more pairs than can be told apart.
    """
    levels = sorted(set(levels))
    with_a_twin = [item for item in brevity.generate(seed, 3 * per_level, levels) if item.twin]
    items: list[SuiteItem] = []
    for level in levels:
        seen: set[str] = set()
        for place in range(per_level):
            items += _number_pair(seed, level, place, seen)
        of_level = (item for item in with_a_twin if item.scenario == f"level-{level}")
        items += map(_premise_twin, islice(of_level, 2 * per_level))
    return items


def _number_pair(seed: int, level: int, place: int, seen: set[str]) -> list[SuiteItem]:
    """A problem and the same with one number changed; `seen` collects the prompts of the level."""
    template = LEVELS[level][place % len(LEVELS[level])]
    random = Random(f"number-{seed}-{level}-{place}")
    name = f"number-{level}-{place:04d}"
    for _ in range(_ATTEMPTS):
        numbers = {slot: random.randint(*bounds) for slot, bounds in template.ranges.items()}
        slot = random.choice(tuple(numbers))
        changed = numbers | {slot: random.randint(*template.ranges[slot])}
        words = brevity.drawn_words(template, random)
        answers = [brevity.answer_of(template, values) for values in (numbers, changed)]
        prompts = [_text(template, {**values, **words}) for values in (numbers, changed)]
        if None not in answers and answers[0] != answers[1] and seen.isdisjoint(prompts):
            break
    else:
        raise MisuseError(f"level {level} has no {place + 1} pairs that can be told apart: ask for fewer")
    seen |= set(prompts)
    ids, scenario = (f"{name}a", f"{name}n"), f"level-{level}, number"
    return [
        brevity.word_problem(ids[0], prompts[0], answers[0], scenario, ids[1]),
        brevity.word_problem(ids[1], prompts[1], answers[1], scenario, ids[0]),
    ]


def _premise_twin(item: SuiteItem) -> SuiteItem:
    """A twin of the brevity suite under this suite's name."""
    own, other = (str(name).replace("brevity", "premise") for name in (item.id, item.twin))
    return replace(item, id=own, twin=other, scenario=f"{item.scenario}, premise")


def _text(template: Template, values: dict[str, object]) -> str:
    return brevity.without_marks(template.text.format_map(values), "kept")
