from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.core.registry import SCORERS, SUITES
from steerkit.core.texts import is_blank
from steerkit.suites.items import SuiteItem, save_items
from steerkit.suites.splits import SPLITS, split_of
from steerkit.suites.suite import Suite, load_suite, suite


def a_suite(groups: int) -> Suite:
    """Alternating twins and lone items over three scenarios."""
    items: list[SuiteItem] = []
    for number in range(groups):
        scenario = f"scenario-{number % 3}"
        if number % 2:
            items.append(SuiteItem(f"{number}", f"Lone {number}?", should_abstain=False, scenario=scenario))
        else:
            a, u = f"{number}a", f"{number}u"
            items.append(SuiteItem(a, f"Twin {a}?", should_abstain=False, scenario=scenario, twin=u))
            items.append(SuiteItem(u, f"Twin {u}?", should_abstain=True, scenario=scenario, twin=a))
    return Suite("made", tuple(items))


MADE = a_suite(400)


@given(
    st.text(min_size=1).filter(lambda text: not is_blank(text)),
    st.text(min_size=1).filter(lambda text: not is_blank(text)),
)
def test_twins_fall_in_one_split(first: str, second: str) -> None:
    if first != second:
        one, other = SuiteItem(first, "?", twin=second), SuiteItem(second, "?", twin=first)
        assert split_of(one) == split_of(other)


def test_splits_are_disjoint_and_leave_nothing_out() -> None:
    parts = [MADE.split(split) for split in SPLITS]
    assert sorted(item.id for part in parts for item in part) == sorted(item.id for item in MADE)


def test_a_quarter_fits_a_quarter_chooses_and_half_reports() -> None:
    shares = Counter(split_of(SuiteItem(str(number), "?")) for number in range(4000))
    assert shares["fit"] == pytest.approx(1000, abs=100)
    assert shares["choose"] == pytest.approx(1000, abs=100)


def test_no_item_changes_split_when_items_are_added() -> None:
    smaller = {item.id for item in a_suite(100).split("fit")}
    larger = {item.id for item in a_suite(200).split("fit")}
    assert smaller <= larger


def test_an_unknown_and_an_empty_split_are_refused() -> None:
    with pytest.raises(MisuseError, match="choose one of fit, choose, report"):
        MADE.split("test")  # type: ignore[arg-type]
    lone = Suite("lone", (SuiteItem("a", "?"),))
    empty = next(split for split in SPLITS if split != split_of(lone.items[0]))
    with pytest.raises(MisuseError, match="suite lone has no item in split"):
        lone.split(empty)


@given(st.integers(2, 700), st.integers(0, 50))
def test_a_limited_suite_keeps_whole_groups_and_grows_by_addition(n: int, more: int) -> None:
    limited = MADE.limit(n)
    ids = {item.id for item in limited}
    assert n - 1 <= len(limited) <= n or len(limited) == len(MADE)
    assert all(item.twin is None or item.twin in ids for item in limited)
    assert ids <= {item.id for item in MADE.limit(n + more)}


def test_a_limited_suite_is_a_mixture() -> None:
    limited = MADE.limit(60)
    scenarios = Counter(item.scenario for item in limited)
    assert len(scenarios) == 3
    assert max(scenarios.values()) - min(scenarios.values()) <= 3  # one round may have begun
    assert sum(item.should_abstain is True for item in limited) == 20


def test_a_limit_that_holds_no_group_is_refused() -> None:
    with pytest.raises(MisuseError, match="give at least 2"):
        MADE.limit(0)


def test_two_items_with_one_id_are_refused() -> None:
    with pytest.raises(MisuseError, match="suite twice has 2 items with the id 'a'"):
        Suite("twice", (SuiteItem("a", "Why?"), SuiteItem("a", "How?")))


def test_the_digest_tells_contents_apart_but_neither_names_nor_order() -> None:
    shuffled = Suite("other", MADE.items[::-1])
    assert shuffled.digest == MADE.digest
    assert MADE.limit(10).digest != MADE.digest
    assert len(MADE.digest) == 64


def test_the_abstention_suite_is_balanced_over_its_scenarios() -> None:
    suite = load_suite("abstention")
    abstain = [item for item in suite if item.should_abstain]
    assert len(suite) >= 600
    assert len(abstain) == pytest.approx(len(suite) / 2, rel=0.1)
    assert len({item.scenario for item in suite}) == 6
    assert all(item.answers for item in suite if not item.should_abstain)
    assert len({item.prompt for item in suite}) == len(suite)


def test_a_suite_in_a_file_is_named_after_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    save_items(MADE.items, path)
    suite = load_suite(path)
    assert (suite.name, suite.digest) == ("mine", MADE.digest)


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(MisuseError, match="unknown suite 'brevty': name one of") as refused:
        load_suite("brevty")
    known = ("abstention", "brevity", "instructions", "gsm8k", "svamp", "umwp", "selfaware", "twins")
    assert all(f"{name}, " in str(refused.value) for name in known)


def test_brevity_can_be_kept_to_some_levels() -> None:
    assert {item.scenario for item in load_suite("brevity:1+3")} == {"level-1", "level-3"}
    assert load_suite("brevity:2").digest != load_suite("brevity").digest
    for bad in ("brevity:", "brevity:hard", "brevity:1,2", "brevity:9"):
        with pytest.raises(MisuseError, match="level"):
            load_suite(bad)


def test_a_suite_says_which_scorers_suit_it() -> None:
    assert MADE.scorers == ("abstention", "lengths", "degeneration")
    assert MADE.split("choose").limit(10).scorers == MADE.scorers
    sums = Suite("sums", [SuiteItem("a", "1 + 1?", answers=("2",), kind="number")])
    assert sums.scorers == ("answers", "lengths", "degeneration")
    assert "abstention" in load_suite("brevity:1").scorers
    assert all(
        set(load_suite(name).scorers) <= set(SCORERS) for name in ("abstention", "instructions", "twins")
    )


def test_a_suite_is_taken_as_it_is() -> None:
    assert load_suite(MADE) is MADE
    assert repr(load_suite("brevity:1")).startswith("Suite(brevity:1: ")


def test_a_function_that_returns_items_is_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SUITES, "_things", dict(SUITES.items()))

    @suite("riddles", scorers=["answers"])
    def riddles() -> list[SuiteItem]:
        return [SuiteItem("egg", "A box without hinges, key or lid?", answers=("egg",))]

    @suite("echoes")
    def echoes(words: str = "a") -> list[SuiteItem]:
        return [SuiteItem(word, f"Say {word}.") for word in words.split("+")]

    assert load_suite("riddles") == Suite("riddles", riddles(), ("answers",))
    assert [item.id for item in load_suite("echoes:b+c")] == ["b", "c"]
    assert load_suite("echoes:b+c").name == "echoes:b+c"
    with pytest.raises(MisuseError, match="riddles takes no argument: leave out ':x'"):
        load_suite("riddles:x")
    with pytest.raises(MisuseError, match="'echoes:' names no words: give echoes:WORDS"):
        load_suite("echoes:")
    assert len(echoes()) == 1


def test_naming_the_suites_loads_nothing_heavy() -> None:
    program = """
import sys
from steerkit.core.registry import SCORERS, SUITES
assert list(SCORERS) and list(SUITES)
print(*sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "transformers"} & set(run.stdout.split())
