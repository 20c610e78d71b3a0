"""The filters on a pool, what a row may be learnt from, and the whole study on a tiny model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

import steerkit as sk
from experiments.reasoning_tax.setting import Setting
from experiments.reasoning_tax.train import Preset
from experiments.what_training_takes import direction, pool, run, study
from experiments.what_training_takes.filters import DONT_KNOW, FILTERS, rows, share_abstained
from experiments.what_training_takes.pool import Question
from steerkit.engines.base import Completion, Request
from steerkit.runs.cells import Cell
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite
from steerkit.sweeps.runner import make_record
from tests.conftest import save_model
from tests.tiny import tiny_model


def item(n: int) -> SuiteItem:
    return SuiteItem(f"q{n}", f"What is {n}?", False, (str(n),))


ASKED = [
    Question(item(0), ("It is 0.", "0")),
    Question(item(1), ("1 is right, of course.",)),
    Question(item(2), ()),
]
UNANSWERABLE = Suite("unanswerable", [SuiteItem(f"u{n}", f"What will {n} be?", True) for n in range(2)])


def kept(name: str, count: int = 60, seed: int = 1) -> list[tuple[str, str]]:
    """Prompts and completions of a filter's rows."""
    return [
        (row.prompt, row.completion) for row in rows(FILTERS[name].keeps(ASKED, UNANSWERABLE), count, seed)
    ]


def test_right_answers_alone_never_say_that_they_do_not_know() -> None:
    found = kept("right")
    assert {prompt for prompt, _ in found} == {"What is 0?", "What is 1?"}
    assert all(text != DONT_KNOW for _, text in found)
    assert {text for prompt, text in found if prompt == "What is 0?"} == {"It is 0.", "0"}


def test_what_all_samples_got_wrong_is_abstained_from_and_nothing_else() -> None:
    found = Counter(kept("or-abstain"))
    assert found["What is 2?", DONT_KNOW] == 20
    assert sum(count for (prompt, text), count in found.items() if text == DONT_KNOW) == 20
    assert sum(count for (prompt, _), count in found.items() if prompt == "What is 0?") == 20


def test_unanswerable_questions_join_in_one_filter_alone() -> None:
    without = {item.prompt for item in UNANSWERABLE}
    for name in FILTERS:
        asked = {prompt for prompt, _ in kept(name)}
        assert (without <= asked) == (name == "and-twins")
    assert all(text == DONT_KNOW for prompt, text in kept("and-twins") if prompt in without)


def test_the_shortest_right_answer_is_the_only_one_of_its_question() -> None:
    assert set(kept("short")) == {("What is 0?", "0"), ("What is 1?", "1 is right, of course.")}


def test_every_filter_fills_as_many_rows_and_another_seed_another_order() -> None:
    for name in FILTERS:
        assert len(kept(name, 41)) == 41
        assert kept(name, seed=1) == kept(name, seed=1)
    assert kept("or-abstain", seed=1) != kept("or-abstain", seed=2)
    assert rows([], 5, 1) == []
    half = rows([("a", (DONT_KNOW,)), ("b", ("b",))], 10, 1)
    assert share_abstained(half) == 0.5


@pytest.mark.parametrize(
    ("text", "finish", "is_learnt"),
    [
        ("It is 3.", "stop", True),
        ("It is 3.", "length", False),
        ("It is 4.", "stop", False),
        ("I don't know.", "stop", False),
        ("It is 3. " * 40, "stop", False),
    ],
)
def test_a_sample_is_learnt_from_where_it_is_right_and_ended(text: str, finish: str, is_learnt: bool) -> None:
    asked = item(3)
    done = Completion(Request(asked.prompt), text, tuple(range(9)), finish, 4)  # type: ignore[arg-type]
    record = make_record(Cell(), asked, 0, done, score_completion(asked, done))
    assert pool.is_learnt(record) is is_learnt


def test_no_training_question_and_no_twin_of_one_is_asked_of_the_models() -> None:
    references = {name: name if name != "brevity" else "brevity:1+2" for name in ("abstention", "brevity")}
    asked, unanswerable = pool.training_items(references)
    trained = {each.group for each in (*asked, *unanswerable)}
    for reference in references.values():
        for split in ("choose", "report"):
            assert trained.isdisjoint(each.group for each in sk.load_suite(reference).split(split))


def test_a_cosine_is_that_of_the_two_directions_at_the_layer() -> None:
    lm = tiny_model()
    one = sk.extract(lm, sk.load_pairs("abstention"))
    assert direction.cosine(one, -one, 1) == pytest.approx(-1.0)
    two = one + one.random_control()
    a, b = (torch.as_tensor(v.direction[2]) for v in (one, two))
    assert direction.cosine(one, two, 2) == pytest.approx(
        float(torch.cosine_similarity(a, b, dim=0)), abs=1e-6
    )


@pytest.mark.slow
def test_the_study_runs_on_a_tiny_model_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tiny_model(), tmp_path / "base")
    data = [
        {
            "question_id": n,
            "question": f"Is {n} it?",
            "answerable": n % 3 > 0,
            "answer": [str(n)] if n % 3 else None,
        }
        for n in range(240)
    ]
    (tmp_path / "selfaware").mkdir()
    (tmp_path / "selfaware" / "SelfAware.json").write_text(json.dumps({"example": data}))
    tiny = Preset("cpu", "float32", rows=32, rows_a_step=8, tokens_a_portion=2048, rank=2, alpha=4)
    monkeypatch.setattr(study, "PRESET", tiny)
    monkeypatch.setattr(study, "TOKENS", 4)
    monkeypatch.setattr(pool, "DECODING", sk.Decoding(4, temperature=1.0))
    monkeypatch.setattr(pool, "SAMPLES", 2)
    monkeypatch.setattr(pool, "is_learnt", lambda record: record.sample == 0)  # nothing is right by chance
    monkeypatch.setattr(study, "BASE", str(base))
    monkeypatch.setattr(direction, "LAYERS", (0, 2))
    monkeypatch.setattr(direction, "LAYER", 1)
    small = study.Study(tmp_path / "runs", tmp_path, limit=24, dtype="float32")
    assert isinstance(small.setting, Setting)
    page = "\n\n".join(run.sections(small))
    for said in (
        "## What each filter keeps",
        "### selfaware, told",
        "## Seed by seed",
        "rft-or-abstain-3",
        "layer 2",
    ):
        assert said in page
    assert "its own vector, under the gate" in page
    trained = {path: path.stat().st_mtime_ns for path in (small.out / "adapters").rglob("*.safetensors")}
    assert len(trained) == 8
    assert "\n\n".join(run.sections(small)) == page
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
