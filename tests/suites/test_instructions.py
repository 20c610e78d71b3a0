from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from steerkit.suites.brevity_templates import LEVELS
from steerkit.suites.constraints import SENTENCES, question_and_constraints
from steerkit.suites.instructions import CONFLICTS, VALUES, generate
from steerkit.suites.suite import load_suite

SUITE = load_suite("instructions")


def test_the_built_in_suite_never_changes() -> None:
    assert SUITE.digest == "b62d8056940b5b3ae1e077fd820a30c55090332af7be81320fefabfb65842a7e"


def test_every_problem_stands_there_plain_and_under_one_to_three_constraints() -> None:
    by_id = {item.id: item for item in SUITE}
    counts: Counter[int] = Counter()
    for item in SUITE:
        twin = by_id[str(item.twin)]
        assert twin.twin == item.id
        assert twin.answers == item.answers
        question, constraints = question_and_constraints(item.prompt)
        if item.id.endswith("r"):
            assert question == twin.prompt
            counts[len(constraints)] += 1
        else:
            assert constraints == ()
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > len(SUITE) / 2 * 0.25
    assert Counter(item.should_abstain for item in SUITE) == {False: len(SUITE)}


def test_constraints_of_one_prompt_come_from_different_groups_and_do_not_contradict() -> None:
    group_of = {kind: number for number, group in enumerate(VALUES) for kind in group}
    assert set(group_of) == set(SENTENCES)
    for item in SUITE:
        question, constraints = question_and_constraints(item.prompt)
        kinds = [constraint.kind for constraint in constraints]
        assert len({group_of[kind] for kind in kinds}) == len(kinds)
        assert not any(frozenset(pair) in CONFLICTS for pair in combinations(kinds, 2))
        assert not ({"repeat", "no-commas"} <= set(kinds) and "," in question)
        avoided = [constraint.value for constraint in constraints if constraint.kind == "avoid-word"]
        assert not set(avoided) & set(question.lower().replace(".", " ").split())


def test_its_problems_are_not_those_of_the_brevity_suite() -> None:
    brevity = {item.prompt for item in load_suite("brevity")}
    plain = [item.prompt for item in SUITE if item.id.endswith("a")]
    assert sum(prompt in brevity for prompt in plain) < 0.1 * len(plain)


def test_levels_can_be_named() -> None:
    assert {item.scenario[:7] for item in load_suite("instructions:1+3") if item.scenario} == {
        "level-1",
        "level-3",
    }


@given(st.integers(0, 10**6), st.integers(1, 12), st.sets(st.sampled_from(sorted(LEVELS)), min_size=1))
def test_a_larger_suite_begins_with_a_smaller_one(seed: int, per_level: int, levels: set[int]) -> None:
    larger = {item.id: item for item in generate(seed, per_level + 3, levels)}
    assert all(larger[item.id] == item for item in generate(seed, per_level, levels))
