from __future__ import annotations

import re
from collections import Counter
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.suites.brevity_templates import LEVELS
from steerkit.suites.suite import load_suite
from steerkit.suites.twins import PER_LEVEL, generate

SUITE = load_suite("twins")


def test_the_built_in_suite_never_changes() -> None:
    assert SUITE.digest == "d76327285bb54f98c1bdfd57b4e9e03eb3157ac0f842490560e5e4ea0145739d"


def test_each_level_has_as_many_pairs_of_either_kind() -> None:
    sizes = Counter((item.scenario, item.should_abstain) for item in SUITE)
    for level in LEVELS:
        assert sizes[f"level-{level}, number", False] == 2 * PER_LEVEL
        assert sizes[f"level-{level}, premise", False] == sizes[f"level-{level}, premise", True] == PER_LEVEL


def test_number_twins_differ_in_one_number_and_in_the_answer() -> None:
    by_id = {item.id: item for item in SUITE}
    for item in SUITE:
        twin = by_id[str(item.twin)]
        assert twin.twin == item.id
        if item.id.startswith("number"):
            assert item.answers != twin.answers
            words = zip_longest(item.prompt.split(), twin.prompt.split())
            changed = [pair for pair in words if pair[0] != pair[1]]
            assert len(changed) == 1
            assert all(re.search(r"\d", word) for word in changed[0])
        else:
            assert item.should_abstain is not twin.should_abstain


def test_an_answer_stands_in_neither_prompt_of_its_own_item() -> None:
    for item in SUITE:
        if item.answers:
            assert item.answers[0] not in re.findall(r"\d+", item.prompt)


@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        ("Dmitri has 6 postcards. Walter gives him 5 more.", "11"),
        ("Dmitri has 6 postcards. Walter gives him 2 more.", "8"),
        ("There are 8 mangoes in a bowl. Pedro eats 1 of them.", "7"),
        ("There are 10 mangoes in a bowl. Pedro eats 1 of them.", "9"),
    ],
)
def test_answers_are_those_worked_out_by_hand(opening: str, answer: str) -> None:
    assert next(item for item in SUITE if item.prompt.startswith(opening)).answers == (answer,)


def test_no_two_prompts_of_a_kind_are_equal() -> None:
    for kind in ("number", "premise"):
        prompts = [item.prompt for item in SUITE if item.id.startswith(kind)]
        assert len(set(prompts)) == len(prompts)


@given(st.integers(0, 10**6), st.integers(1, 10), st.sets(st.sampled_from(sorted(LEVELS)), min_size=1))
def test_a_larger_suite_has_all_items_of_a_smaller_one(seed: int, per_level: int, levels: set[int]) -> None:
    larger = {item.id: item for item in generate(seed, per_level + 3, levels)}
    smaller = generate(seed, per_level, levels)
    assert all(larger[item.id] == item for item in smaller)
    assert len(smaller) == 4 * per_level * len(levels)


def test_too_many_pairs_and_a_mistyped_level_are_refused() -> None:
    with pytest.raises(MisuseError, match="level 1 has no"):
        generate(per_level=5_000, levels=[1])
    with pytest.raises(MisuseError, match="'x' names no levels"):
        load_suite("twins:x")
