"""The second reasoner's measurements: which items, which controls, and what counts as reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.reasoning_tax import second_reasoner as study
from experiments.reasoning_tax.setting import Setting
from steerkit.runs.record import Record
from steerkit.suites.brevity_templates import LEVELS as SUITE
from tests.conftest import save_model
from tests.experiments.sums import records
from tests.models.test_adapters import random_factors, write
from tests.tiny import tiny_model


def test_five_hundred_answerable_problems_a_level_of_every_template() -> None:
    items = list(study.evaluated(study.ASKED))
    assert len(items) == len({item.prompt for item in items}) == 3 * 500
    assert not any(item.should_abstain for item in items)
    asked = {study._suite_template(item.id) for item in items}
    assert asked == {f"{level}-{place}" for level in study.LEVELS for place in range(len(SUITE[level]))}


def thinking(some: Sequence[Record], tokens: int = 120, open_: int = 0) -> list[Record]:
    """The records with chains of so many tokens, the first `open_` of them never closed."""
    return [
        replace(
            record,
            item=f"brevity-2-{place:04d}a",
            completion="So" if place < open_ else "So\n</think>\nThe answer is 3.",
            scores={**record.scores, "thinking_tokens": tokens},
        )
        for place, record in enumerate(some)
    ]


ALL, HALF, NONE = range(20), range(10), ()


@pytest.mark.parametrize(
    ("right", "tokens", "open_", "reached"),
    [(ALL, 120, 0, "yes"), (HALF, 120, 0, "no"), (ALL, 99, 0, "no"), (ALL, 120, 1, "no")],
)
def test_a_level_is_reached_by_gain_length_and_closing_together(
    right: Sequence[int], tokens: int, open_: int, reached: str
) -> None:
    chains = thinking(list(records(right, 5)), tokens, open_)
    plain = thinking(list(records(HALF, 5)), tokens=0)
    written = {study.CHAINS: chains, **dict.fromkeys(study.CONTROLS, plain)}
    *_, line = study._gains(written, {2: "brevity-2-"}, study._suite_template).splitlines()
    assert line.startswith("| 2 | 20 | ")
    assert line.endswith(f" | {reached} |")


def test_the_gain_is_over_the_better_control() -> None:
    right, wrong = thinking(list(records(ALL, 5))), thinking(list(records(NONE, 5)))
    written = {study.CHAINS: right, **dict.fromkeys(study.CONTROLS, wrong), study.CONTROLS[-1]: right}
    *_, line = study._gains(written, {2: "brevity-2-"}, study._suite_template).splitlines()
    assert "+0.00 [+0.00, +0.00]" in line
    assert line.endswith(" | no |")


def test_the_page_on_a_tiny_model_resumes_and_leaves_out_what_has_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096
    base = save_model(lm, tmp_path / "base")
    for name in (study.THINKING, study.HALFWAY, study.ANSWERING):
        write(tmp_path / "adapters" / name, base, random_factors(lm.hf))
    monkeypatch.setattr(study, "TOKENS", 4)
    monkeypatch.setattr(study, "FIRST", str(tmp_path / "adapters" / study.THINKING))
    setting = Setting(
        tmp_path / "adapters", tmp_path / "runs", None, "float32", limit=4, base=str(base), tokens=4
    )
    page = tmp_path / "page.md"
    study.measure(setting, study.PARTS, page)
    written = page.read_text()
    assert "## What the chains are worth" in written
    assert "SelfAware" not in written
    rows = [
        {
            "question_id": n,
            "question": f"What is {n}?",
            "answerable": bool(n % 2),
            "answer": ["1"] if n % 2 else None,
        }
        for n in range(80)
    ]
    (tmp_path / "selfaware").mkdir()
    (tmp_path / "selfaware" / "SelfAware.json").write_text(json.dumps({"example": rows}))
    study.measure(replace(setting, data=tmp_path), study.PARTS, page)
    assert page.read_text().startswith(written.rstrip())
    assert "| second reasoner | 4 |" in page.read_text()
