"""Plain forms, false alarms and other languages: replies whose abstention was once read wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.scoring.abstention import abstains

HERE = Path(__file__).parent


def rows(name: str) -> list[pytest.ParameterSet]:
    """The replies of a file, each with its verdict; the name of a test says its kind."""
    lines = [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    return [
        pytest.param(
            row["text"], row["expected"], id=f"{row['id']} {row.get('kind', 'listed')}: {row['text'][:40]!r}"
        )
        for row in lines
    ]


@pytest.mark.parametrize(("text", "verdict"), rows("abstention.jsonl"))
def test_a_listed_reply_is_read_right(text: str, verdict: bool) -> None:
    assert abstains(text) is verdict


@pytest.mark.parametrize(("text", "verdict"), rows("abstention_new.jsonl"))
def test_another_reply_of_its_kind_is_read_right(text: str, verdict: bool) -> None:
    assert abstains(text) is verdict
