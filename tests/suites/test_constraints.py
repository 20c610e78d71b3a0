from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.suites.constraints import (
    NUMBERED,
    SENTENCES,
    Constraint,
    question_and_constraints,
    with_constraints,
)

LINE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@st.composite
def constraints(draw: st.DrawFn) -> Constraint:
    kind = draw(st.sampled_from(sorted(SENTENCES)))
    if "{}" not in SENTENCES[kind]:
        return Constraint(kind)
    return Constraint(kind, str(draw(st.integers(0, 999))) if kind in NUMBERED else draw(LINE))


@given(st.text(min_size=1), st.lists(constraints(), min_size=1, max_size=4))
def test_a_prompt_gives_back_the_question_and_the_constraints_it_was_made_of(
    question: str, some: list[Constraint]
) -> None:
    assert question_and_constraints(with_constraints(question, some)) == (question, tuple(some))


@given(st.text())
def test_a_prompt_without_constraints_is_all_question(prompt: str) -> None:
    assert question_and_constraints(prompt) == (prompt, ())


def test_there_are_at_least_ten_kinds_of_constraints() -> None:
    assert len(SENTENCES) >= 10


@pytest.mark.parametrize(
    ("kind", "value"), [("polite", ""), ("json", "x"), ("bullets", ""), ("bullets", "two"), ("ends-with", "")]
)
def test_constraints_that_cannot_be_meant_are_refused(kind: str, value: str) -> None:
    with pytest.raises(MisuseError):
        Constraint(kind, value)
