"""Answers that were once judged wrongly, one test a row: numbers, texts and LaTeX as models write them."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from steerkit.scoring.answers import is_correct

_HERE = Path(__file__).parent
_ROWS = [
    json.loads(line)
    for name in ("answers.jsonl", "answers_more.jsonl", "answers_second.jsonl")
    for line in (_HERE / name).read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row['kind']}-{row['id']}") for row in _ROWS])
def test_an_answer_is_judged_rightly(row: dict[str, Any]) -> None:
    if row["kind"] == "latex":
        pytest.importorskip("math_verify")
    assert is_correct(row["text"], row["answers"], row["kind"]) is row["expected"]


def test_latex_is_judged_in_a_thread_too() -> None:
    pytest.importorskip("math_verify")
    judged: list[bool] = []

    def judge() -> None:
        judged.extend(is_correct(r"Hence \boxed{x + 1}.", [answer], "latex") for answer in ("1 + x", "1 + y"))

    thread = Thread(target=judge)
    thread.start()
    thread.join()
    assert judged == [True, False]
