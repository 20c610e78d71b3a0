"""The instructions suite: word problems whose solution has to follow one to three constraints.

The problems are the answerable ones of `steerkit.suites.brevity`, from another seed. Each stands there twice, plain
and under its constraints, as twins: the price of following them is a paired difference, and both fall in one split.
Constraints are drawn from different groups of the four (length, words, format, affix) and never contradict each
other or the problem. Every item is a function of the seed, its level and its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from random import Random

from steerkit.suites import brevity
from steerkit.suites.brevity_templates import LEVELS
from steerkit.suites.constraints import Constraint, has_word, with_constraints
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import suite

SEED, PER_LEVEL, MOST_CONSTRAINTS = 1, 60, 3

# Four groups, of which at most one constraint each is drawn.
VALUES: tuple[dict[str, tuple[str, ...]], ...] = (
    {"at-most-words": ("20", "30", "40"), "at-least-words": ("30", "40", "50")},
    {
        "lower-case": ("",),
        "upper-case": ("",),
        "no-commas": ("",),
        "include-word": ("therefore", "indeed", "clearly", "finally"),
        "avoid-word": ("equals", "total", "because", "now"),
    },
    {"bullets": ("2", "3", "4"), "json": ("",)},
    {
        "begins-with": ("Let me see.", "Here we go.", "This is how it works."),
        "ends-with": ("That is all.", "Nothing more to say.", "Thank you for reading."),
        "quoted": ("",),
        "repeat": ("",),
    },
)
CONFLICTS = {
    *(
        frozenset(("json", other))
        for other in ("begins-with", "ends-with", "quoted", "repeat", "at-least-words")
    ),
    frozenset(("bullets", "quoted")),
    frozenset(("repeat", "at-most-words")),
}


@suite("instructions", scorers=["instructions", "answers", "lengths", "degeneration"])
def instructions(levels: str = "") -> Iterable[SuiteItem]:
    """Word problems, plain and under one to three constraints on the response; `1+2` for some levels."""
    return generate(levels=brevity.levels_of(levels))


def generate(
    seed: int = SEED, per_level: int = PER_LEVEL, levels: Iterable[int] = tuple(LEVELS)
) -> list[SuiteItem]:
    """`per_level` problems for each level, each followed by its twin under constraints.

    Ids read `instructions-LEVEL-PLACE` and `a` for the plain problem or `r` under constraints; the scenario is
    `level-LEVEL`, or `level-LEVEL, N rules`. Raises MisuseError as `brevity.generate` does.
    """
    items: list[SuiteItem] = []
    for problem in brevity.generate(seed, per_level, levels):
        if problem.should_abstain:
            continue
        name = problem.id.replace("brevity", "instructions").removesuffix("a")
        constraints = _draw(problem.prompt, Random(f"{seed}-{name}"))
        plain = replace(problem, id=f"{name}a", twin=f"{name}r")
        number = f"{len(constraints)} rule{'s' * (len(constraints) > 1)}"
        ruled = replace(
            plain,
            id=f"{name}r",
            twin=plain.id,
            prompt=with_constraints(problem.prompt, constraints),
            scenario=f"{problem.scenario}, {number}",
        )
        items += [plain, ruled]
    return items


def _draw(question: str, random: Random) -> tuple[Constraint, ...]:
    """One to three constraints that can be followed together, drawn until they can."""
    wanted = random.randint(1, MOST_CONSTRAINTS)
    while True:
        groups = random.sample(VALUES, wanted)
        kinds = [random.choice(tuple(group)) for group in groups]
        constraints = tuple(
            Constraint(kind, random.choice(group[kind])) for group, kind in zip(groups, kinds, strict=True)
        )
        if _can_be_followed(question, constraints):
            return constraints


def _can_be_followed(question: str, constraints: tuple[Constraint, ...]) -> bool:
    kinds = {constraint.kind for constraint in constraints}
    if any(frozenset(pair) in CONFLICTS for pair in combinations(kinds, 2)):
        return False
    avoided = [constraint.value for constraint in constraints if constraint.kind == "avoid-word"]
    # Also where the question need not be repeated: that would be a trap.
    if any(has_word(question, word) for word in avoided):
        return False
    return not ({"repeat", "no-commas"} <= kinds and "," in question)
