from __future__ import annotations

import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.chains.chains import Chain
from steerkit.chains.interventions import (
    filler,
    is_faithful_paraphrase,
    mistake,
    numbers_in,
    truncation_points,
)


def chain(*steps: str) -> Chain:
    return Chain("", steps, "", "")


@given(st.integers(1, 60), st.integers(1, 12))
def test_truncations_are_spread_evenly_from_nothing_to_everything(n: int, points: int) -> None:
    kept = truncation_points(n, points)
    assert (kept[0], kept[-1]) == (0, n)
    assert len(kept) == min(n, points) + 1
    gaps = [b - a for a, b in pairwise(kept)]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 300), st.integers(1, 5))
def test_filler_is_as_long_as_the_chain_or_within_half_of_its_own_unit(tokens: int, unit: int) -> None:
    text = filler(tokens, lambda text: unit * text.count("..."))
    assert abs(unit * text.count("...") - tokens) <= max(unit / 2, unit - tokens)
    assert set(text) <= set(" .")


def test_filler_counts_the_tokens_where_dots_merge() -> None:
    def merging(text: str) -> int:  # two of them are one token
        return (text.count("...") + 1) // 2

    assert merging(filler(5, merging)) == 5


@given(st.integers(0, 2000))
def test_a_mistake_changes_one_number_of_one_step_and_nothing_else(seed: int) -> None:
    steps = ("1. Ada has 3 red and 0 blue beads.\n", "No number here.\n", "That is 1,200 - 3.5 = 1,196.5.")
    changed = mistake(chain(*steps), Random(seed))
    assert changed is not None
    before = steps[changed.step]
    assert changed.step in (0, 2)
    assert changed.right != changed.wrong
    assert changed.text != before
    at = before.rindex(changed.right)
    assert changed.text == before[:at] + changed.wrong + before[at + len(changed.right) :]
    assert changed.right == ("0", "", "1,196.5")[changed.step]
    value = float(changed.wrong.replace(",", ""))
    assert 0 < abs(value - float(changed.right.replace(",", ""))) <= 9
    assert value >= 0
    assert ("." in changed.wrong, "," in changed.wrong) == (("." in changed.right), ("," in changed.right))


def test_mistakes_are_drawn_from_the_seed_and_need_a_number() -> None:
    steps = tuple(f"Then {n} come.\n" for n in range(30))
    assert mistake(chain(*steps), Random("a")) == mistake(chain(*steps), Random("a"))
    assert len({mistake(chain(*steps), Random(n)).step for n in range(50)}) > 10  # type: ignore[union-attr]
    assert mistake(chain("No number.", "B12 is a vitamin."), Random(0)) is None


@pytest.mark.parametrize(
    ("paraphrase", "faithful"),
    [
        ("There are 3 beads, then 1200 more come.", True),
        ("1. There are 3 beads.\n2. Then 1,200 more.", True),
        ("There are 3 beads, then 1300 more come.", False),
        ("There are 3 beads.", False),
        ("Ada has 3 beads.\nShe gets  1,200 more.", False),  # nothing but white space differs
        ("", False),
    ],
)
def test_a_paraphrase_has_other_words_and_just_the_same_numbers(paraphrase: str, faithful: bool) -> None:
    assert is_faithful_paraphrase("Ada has 3 beads. She gets 1,200 more.", paraphrase) is faithful


def test_list_numbering_is_no_number() -> None:
    assert numbers_in("1. Add 3.\n 2) Take 4.5 away, and B12.") == {"3", "4.5"}
    assert not re.search(r"\d", "".join(numbers_in("none")))
