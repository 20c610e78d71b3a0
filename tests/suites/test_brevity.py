from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.suites.brevity import generate
from steerkit.suites.brevity_templates import LEVELS, Template
from steerkit.suites.suite import load_suite

SUITE = load_suite("brevity")
TEMPLATES = [
    pytest.param(level, template, id=f"{level}: {template.text[:40]}")
    for level, templates in LEVELS.items()
    for template in templates
]


def test_the_built_in_suite_never_changes() -> None:
    assert SUITE.digest == "f5c3c076d636c9ae43e487150f35477e80b1136394e4104cbe39aa3a8ab91735"


def test_each_level_has_its_problems_and_twins_for_a_third_of_them() -> None:
    sizes = Counter((item.scenario, item.should_abstain) for item in SUITE)
    assert sizes == {
        (f"level-{level}", twin): 50 if twin else 150 for level in LEVELS for twin in (False, True)
    }


def test_no_two_prompts_are_equal() -> None:
    assert len({item.prompt for item in SUITE}) == len(SUITE)


def test_twins_differ_and_only_the_unanswerable_one_has_no_answer() -> None:
    by_id = {item.id: item for item in SUITE}
    for item in SUITE:
        assert (item.answers is None) == item.should_abstain == item.id.endswith("u")
        if item.twin:
            twin = by_id[item.twin]
            assert twin.twin == item.id
            assert twin.prompt != item.prompt


def test_every_template_of_a_level_has_a_twin_in_the_built_in_suite() -> None:
    for level, templates in LEVELS.items():
        places = [
            int(item.id[10:14]) for item in SUITE if item.id.startswith(f"brevity-{level}") and item.twin
        ]
        assert {place % len(templates) for place in places} == set(range(len(templates)))


def test_an_answer_does_not_stand_in_its_own_prompt() -> None:
    for item in SUITE:
        if item.answers:
            assert item.answers[0] not in re.findall(r"\d+", item.prompt)


@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        ("Samir has 4 stamps. Keiko gives him 2 more.", 4 + 2),
        ("There were 8 people on a bus, and 4 more got on.", 8 + 4),
        ("Greta shares 35 lemons equally among 7 friends", 35 / 7),
        ("A ribbon is 40 centimeters long. Ada cuts it into 8 pieces", 40 / 8),
        ("Ines buys 6 mugs that cost 4 dollars each. She pays with 47 dollars.", 47 - 6 * 4),
        ("Walter and Greta share the cost of a meal equally. The food costs 38 dollars", (38 + 18) / 2),
        ("Elena has 9 coins. Keiko has three times as many", (9 + 27 + 18) / 9),
        ("A rectangular garden is 10 meters long and 10 meters wide.", (10 + 10) * 2 * 3 + 71),
    ],
)
def test_answers_are_those_worked_out_by_hand(opening: str, answer: float) -> None:
    item = next(item for item in SUITE if item.prompt.startswith(opening))
    assert item.answers == (str(int(answer)),)


@pytest.mark.parametrize(("level", "template"), TEMPLATES)
def test_a_problem_takes_as_many_steps_as_its_level_says(level: int, template: Template) -> None:
    numbers = {slot: Fraction(low) for slot, (low, _) in template.ranges.items()}
    assert len(template.steps(**numbers)) == max(1, level - 1)


@pytest.mark.parametrize("template", [template for templates in LEVELS.values() for template in templates])
def test_a_twin_lacks_a_number_that_the_answer_needs(template: Template) -> None:
    kept, removed = re.findall(r"\[([^|]*)\|([^\]]*)\]", template.text)[0]
    (slot,) = re.findall(r"\{([a-e])\}", kept)
    assert slot in template.ranges
    assert not re.search(r"\{[a-e]\}|\d", removed)
    numbers = {name: Fraction(low) for name, (low, _) in template.ranges.items()}
    other = numbers | {slot: numbers[slot] + 1}
    assert template.steps(**numbers)[-1] != template.steps(**other)[-1]


@given(st.integers(0, 10**6), st.integers(1, 25), st.sets(st.sampled_from(sorted(LEVELS)), min_size=1))
def test_a_larger_suite_begins_with_a_smaller_one(seed: int, per_level: int, levels: set[int]) -> None:
    smaller = generate(seed, per_level, levels)
    larger = {item.id: item for item in generate(seed, per_level + 3, levels)}
    assert all(larger[item.id] == item for item in smaller)


def test_no_placeholder_or_double_blank_is_left_in_a_prompt() -> None:
    assert not [item.prompt for item in SUITE if re.search(r"[{}\[\]|]|  | [.,?]", item.prompt)]


def test_an_unknown_level_and_too_many_problems_are_refused() -> None:
    with pytest.raises(MisuseError, match="unknown level 6: choose from 1, 2, 3, 4, 5"):
        generate(levels=[6])
    with pytest.raises(MisuseError, match="level 1 has no"):
        generate(per_level=10_000, levels=[1])
