"""The page of evidence: what it quotes of ours stands in the table that it links to, and its commands can be meant."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.command_line import steerkit

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = re.findall(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)]+)\)", TEXT)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
QUOTED = [(said, target) for said, target in LINKS if NUMBER.search(said)]
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()
]


def test_the_page_quotes_our_tables() -> None:
    assert len(QUOTED) > 10


@pytest.mark.parametrize(("said", "target"), sorted(set(QUOTED)))
def test_each_number_of_ours_stands_in_the_file_that_it_links_to(said: str, target: str) -> None:
    text = (PAGE.parent / target).read_text(encoding="utf-8")
    numbers = set(NUMBER.findall(text))
    missing = [number for number in NUMBER.findall(said) if number not in numbers]
    assert not missing, f"{target} does not have {missing}"


def test_each_paper_is_an_arxiv_number_of_a_month_that_there_was() -> None:
    found = re.findall(r"\b(\d{2})(\d{2})\.(\d{5})\b", TEXT)
    assert len(set(found)) > 20
    assert all(17 <= int(year) <= 26 and 1 <= int(month) <= 12 for year, month, _ in found)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_verbs_and_options_that_there_are(command: str) -> None:
    words = shlex.split(command)[1:]
    verb = [word for word in words[:2] if not word.startswith("-") and re.fullmatch(r"[a-z]+", word)]
    told = steerkit(*verb, "--help").out
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in told, f"{' '.join(verb)} has no {option}"
