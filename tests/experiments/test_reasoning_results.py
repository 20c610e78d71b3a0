"""The reasoning study's tables and its router, on records made by hand, and the whole of it on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.reasoning_tax import run
from experiments.reasoning_tax.results import compared, table
from experiments.reasoning_tax.routing import AT_ONCE, Items, abstention, labels_of_help, routed, section
from steerkit.engines.base import Completion, Request
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite
from steerkit.sweeps.grid import Cell
from steerkit.sweeps.runner import make_record
from steerkit.sweeps.store import Record
from tests.conftest import save_model
from tests.models.test_adapters import random_factors, write
from tests.tiny import tiny_model

ITEMS = tuple(
    SuiteItem(f"brevity-1-{n:04d}a", f"What is {n} and 1?", False, (str(n + 1),), "number") for n in range(20)
)
SUITE = Suite("sums", ITEMS)
PLAIN = Cell()


def records(right: range, tokens: int, cell: Cell = PLAIN) -> Iterator[Record]:
    """Each item's record: the answer where its number is in `right`, else a wrong one."""
    for n, item in enumerate(ITEMS):
        text = f"The answer is {n + 1 if n in right else 999}."
        completion = Completion(Request(item.prompt), text, tuple(range(tokens)), "stop", 5)
        yield make_record(cell, item, 0, completion, score_completion(item, completion))


def test_models_are_compared_item_by_item_with_the_first_one() -> None:
    rows = compared({"z": records(range(10), 8), "a": records(range(5, 20), 4)})
    assert list(rows) == ["z", "a"]
    assert rows["z"].levels["accuracy"].value == pytest.approx(0.5)
    assert rows["a"].changes["accuracy"].value == pytest.approx(0.25)
    assert rows["a"].changes["tokens"].value == rows["a"].changes["tokens"].low == -4
    lines = table(rows).splitlines()
    assert lines[2].startswith("| z | 20 | 0.50 [")
    assert lines[3].startswith("| a | 20 | 0.75 (+0.25 [")


def by_item(some: Iterator[Record]) -> dict[str, Record]:
    return {record["item"]: record for record in some}


def test_a_route_takes_each_items_record_from_the_way_that_it_goes() -> None:
    think, answer = by_item(records(range(20), 50)), by_item(records(range(5), 3, Cell(decoration=AT_ONCE)))
    items = Items(SUITE, think, answer, {}, {}, reply=(1, 2, 3, 4, 5))
    route = {item.id: ("think", "answer", "abstain")[n % 3] for n, item in enumerate(ITEMS)}
    found = by_item(routed(items, route))
    assert len(found) == len(ITEMS)
    for n, item in enumerate(ITEMS):
        scores = found[item.id]["scores"]
        assert scores["tokens_total"] == (50, 3, 5)[n % 3]
        assert scores["abstained"] == (n % 3 == 2)
        assert scores["correct"] == (n % 3 == 0 or (n % 3 == 1 and n < 5))


def test_an_abstention_is_one_whatever_the_item() -> None:
    twin = SuiteItem("x", "What is some number and 1?", True)
    assert abstention(twin, (1, 2))["scores"]["abstained"]
    assert abstention(twin, (1, 2))["scores"]["correct"] is None


def test_thinking_helps_where_it_turns_wrong_into_right() -> None:
    think, answer = by_item(records(range(5, 20), 50)), by_item(records(range(10), 3))
    helped = [prompt.id for prompt in labels_of_help(SUITE, think, answer) if prompt.label]
    assert helped == [item.id for item in ITEMS[10:]]


def test_a_router_that_sees_what_helps_is_right_as_often_as_thinking_for_fewer_tokens() -> None:
    think, answer = by_item(records(range(20), 50)), by_item(records(range(10), 3))
    helps = {item.id: float(n >= 10) for n, item in enumerate(ITEMS)}
    no_answer = {item.id: 0.1 for item in ITEMS}
    twins = tuple(replace(item, id=f"{item.id}u", should_abstain=True, answers=None) for item in ITEMS)
    both = Items(SUITE, think, answer, no_answer, helps, reply=(1,))
    choose = replace(
        both,
        suite=Suite("sums", (*ITEMS, *twins)),
        no_answer=no_answer | {twin.id: 0.9 for twin in twins},
        helps=helps | {twin.id: 0.0 for twin in twins},
    )
    probe = SimpleNamespace(name="p", metadata=SimpleNamespace(auroc=(0.5,), layer=0, baseline_auroc=None))
    lines = section(choose, both, {"no_answer": probe, "helps": probe}).splitlines()  # type: ignore[dict-item]
    by_name = {line.split(" (")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    assert " 1.00 [1.00, 1.00] " in by_name["always think"]
    assert " 0.50 (-0.50 " in by_name["never think"]
    assert " 1.00 (+0.00 [+0.00, +0.00]) " in by_name["route, thinking for 25%"]
    assert " 26.5 (-23.5 " in by_name["route, thinking for 25%"]


def test_the_whole_study_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096  # texts are bytes to it
    base = save_model(lm, tmp_path / "base")
    for name in ("long", "none"):
        write(tmp_path / "adapters" / name, base, random_factors(lm.hf))
    settings = {"BASE": str(base), "TOKENS": 4, "LAYERS": (1,), "STRENGTHS": (1.0,), "BUDGETS": (0.2,)}
    for name, value in settings.items():
        monkeypatch.setattr(run, name, value)
    arguments = ["run", "--adapters", tmp_path / "adapters", "--out", tmp_path / "runs"]
    arguments += ["--dtype", "float32", "--limit", 12, "--threads", 1]
    monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
    run.main()
    first = (tmp_path / "runs" / "results.md").read_text()
    assert "Not trained, hence not measured: short, long-idk." in first
    assert "| none | 12 |" in first
    assert "strict: own, gated" in first
    run.main()
    assert (tmp_path / "runs" / "results.md").read_text() == first
