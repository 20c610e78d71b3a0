"""What the scorer's pages say is what the labels give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.abstention_scorer.measure import HERE, PHRASE_SCORER, errors, labelled, page, with_interval
from experiments.abstention_scorer.replies import agreed, second_set, written
from steerkit.scoring.abstention import abstains
from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.reply import final_reply

TRADEOFF = HERE.parent / "abstention_tradeoff" / "README.md"
ROOT = HERE.parents[1]


def seen(half: str) -> Agreement:
    """The phrase rules against the labels of one half."""
    return agreement(
        (abstains(final_reply(row["completion"])), row["abstains"])
        for row in labelled()
        if row["half"] == half
    )


def as_one_line(path: Path) -> str:
    """A page's text without its line breaks."""
    return " ".join(path.read_text(encoding="utf-8").split())


def test_the_results_are_those_of_the_rules_as_they_are() -> None:
    rows = labelled()
    verdicts = [abstains(final_reply(row["completion"])) for row in rows]
    assert page(f"`{PHRASE_SCORER}`", rows, verdicts) == (HERE / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("half", ["develop", "held-out"])
def test_the_readmes_table_is_measured(half: str) -> None:
    found = seen(half)
    shares = (
        with_interval(found.both, found.both + found.first_only),
        with_interval(found.both, found.both + found.second_only),
    )
    cells = r" \| ".join(rf"\**{re.escape(text)}\**" for text in (half, *shares))
    row = rf"\| (now \(fitted on `develop`\))? ?\| {cells} \|"
    assert re.search(row, (HERE / "README.md").read_text(encoding="utf-8"))


def test_what_perfection_would_read_follows_from_the_held_out_half() -> None:
    found = seen("held-out")
    missed = found.second_only / (found.both + found.second_only)
    alarms = found.first_only / (found.first_only + found.neither)
    said = re.search(
        r"misses (\d+)% of abstentions and raises (\d+)% false alarms .*? would read about (0\.\d\d) and (0\.\d\d)",
        as_one_line(TRADEOFF),
    )
    assert said is not None
    assert said.groups() == (f"{missed:.0%}"[:-1], f"{alarms:.0%}"[:-1], f"{1 - missed:.2f}", f"{alarms:.2f}")


def test_the_card_quotes_the_held_out_half() -> None:
    found = seen("held-out")
    card = as_one_line(ROOT / "vectors" / "abstain-smollm2-135m-instruct.md")
    assert f"precision {found.precision:.2f} and recall {found.recall:.2f}" in card


@pytest.mark.parametrize(
    ("origin", "words"), [("generated", "precision {} and recall {}"), ("written", "{} and {} on")]
)
def test_the_readmes_quote_the_replies_that_were_kept_apart(origin: str, words: str) -> None:
    rows = [row for row in second_set() if row["kept_apart"] and agreed(row) and row["origin"] == origin]
    found = agreement((abstains(row["reply"]), row["abstains"][0]) for row in rows)
    page_of_limits = ROOT / "docs" / "what-it-does.md"
    assert words.format(f"{found.precision:.2f}", f"{found.recall:.2f}") in as_one_line(page_of_limits)
    shares = (
        with_interval(found.both, found.both + found.first_only),
        with_interval(found.both, found.both + found.second_only),
    )
    for page_of in ("README.md", "results-second-set.md"):
        assert all(share in as_one_line(HERE / page_of) for share in shares)


def test_the_second_set_has_what_it_says() -> None:
    kept = [row for row in second_set() if row["kept_apart"]]
    assert (len(second_set()), len(kept), len(written())) == (1632, 1017, 2713)
    fitted = {row["reply"].strip() for row in (*written(), *second_set()) if not row.get("kept_apart")}
    assert sum(row["reply"].strip() in fitted for row in kept) == 42
    assert "42 short replies" in as_one_line(HERE / "README.md")


def test_a_page_of_many_errors_says_how_many_it_leaves_out() -> None:
    row = {"id": "x", "hard": False, "scenario": "s", "condition": "c", "prompt": "p", "completion": "a"}
    lines = errors([(row, True)] * 50).splitlines()
    assert lines[-1] == "- and 10 more"
    assert sum(line.startswith("- `x`") for line in lines) == 40
