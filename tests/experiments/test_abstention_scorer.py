"""What the scorer's pages say is what the labels give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.abstention_scorer.measure import HERE, PHRASE_SCORER, errors, labelled, page, with_interval
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


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "vectors" / "abstain-smollm2-135m-instruct.md"])
def test_whoever_quotes_precision_and_recall_quotes_the_held_out_half(path: Path) -> None:
    found = seen("held-out")
    assert f"precision {found.precision:.2f} and recall {found.recall:.2f}" in as_one_line(path)


def test_a_page_of_many_errors_says_how_many_it_leaves_out() -> None:
    row = {"id": "x", "hard": False, "scenario": "s", "condition": "c", "prompt": "p", "completion": "a"}
    lines = errors([(row, True)] * 50).splitlines()
    assert lines[-1] == "- and 10 more"
    assert sum(line.startswith("- `x`") for line in lines) == 40
