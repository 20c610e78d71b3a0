"""The four public formats, on samples written for these tests in the authors' formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.suites.suite import Suite, load_suite


def suite_of(name: str, folder: Path, text: str) -> Suite:
    path = folder / "sample.jsonl"
    path.write_text(text, encoding="utf-8")
    return load_suite(f"{name}:{path}")


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def umwp_row(
    number: int, question: str, answer: float | None = None, partner: int | None = None
) -> dict[str, Any]:
    return {
        "id": number,
        "question": question,
        "answer": None if answer is None else [answer],
        "answerable": answer is not None,
        "category": None if answer is not None else 2,
        "relevant_ids": None if partner is None else [partner],
        "source": "SVAMP",
    }


def test_gsm8k_takes_the_answer_after_the_hashes(tmp_path: Path) -> None:
    solution = "She earns 600 * 2 = $<<600*2=1200>>1200.\n#### 1,200"
    suite = suite_of("gsm8k", tmp_path, lines({"question": "What does she earn?", "answer": solution}))
    (item,) = suite
    assert suite.name == "gsm8k"
    assert (item.id, item.prompt, item.answers, item.kind) == (
        "gsm8k-0",
        "What does she earn?",
        ("1200",),
        "number",
    )
    assert item.should_abstain is False


def test_gsm8k_without_a_final_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no answer is a number"):
        suite_of("gsm8k", tmp_path, lines({"question": "How many?", "answer": "many"}))


@pytest.mark.parametrize("as_list", [True, False])
def test_svamp_joins_body_and_question(tmp_path: Path, as_list: bool) -> None:
    row = {
        "ID": "chal-7",
        "Body": "Ida has 8 pens and buys 2.5 more",
        "Question": "How many now?",
        "Answer": 10.5,
    }
    (item,) = suite_of("svamp", tmp_path, json.dumps([row], indent=1) if as_list else lines(row))
    assert item.prompt == "Ida has 8 pens and buys 2.5 more. How many now?"
    assert (item.id, item.answers) == ("svamp-chal-7", ("10.5",))


def test_umwp_pairs_an_unanswerable_row_with_the_row_it_names(tmp_path: Path) -> None:
    rows = (
        umwp_row(1, "Ben has 6 hats and 2 caps.How many more hats than caps?", 4.0),
        umwp_row(2, "A car goes 30 miles an hour,.how far in 2 hours?", 60),
        umwp_row(2501, "Ben has 6 hats and some caps..How many more hats than caps?", partner=1),
        umwp_row(2999, "A car drives on. How far?", partner=77),
    )
    hats, car, vague, lone = suite_of("umwp", tmp_path, lines(*rows))
    assert (hats.twin, vague.twin) == ("umwp-2501", "umwp-1")
    assert (car.twin, lone.twin) == (None, None)
    assert (hats.should_abstain, hats.answers) == (False, ("4",))
    assert (vague.should_abstain, vague.answers) == (True, None)


def test_umwp_punctuation_is_mended(tmp_path: Path) -> None:
    questions = {
        "Ben has 6 caps.How many?": "Ben has 6 caps. How many?",
        "Ben has 6 caps..How many?": "Ben has 6 caps. How many?",
        "If he has 30,.how many?": "If he has 30, how many?",
        "It costs $1,250.50 at 6:00 a.m. today.": "It costs $1,250.50 at 6:00 a.m. today.",
    }
    rows = [umwp_row(number, question, 1) for number, question in enumerate(questions)]
    assert [item.prompt for item in suite_of("umwp", tmp_path, lines(*rows))] == list(questions.values())


def test_selfaware_reads_its_example_list(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": 1,
            "question": "What is H2O?",
            "answer": ["water", ""],
            "answerable": True,
            "source": "x",
        },
        {
            "question_id": 2,
            "question": "What is it all for?",
            "answer": None,
            "answerable": False,
            "source": "y",
        },
    ]
    water, purpose = suite_of(
        "selfaware", tmp_path, json.dumps({"dataset_name": "SelfAware", "example": rows})
    )
    assert (water.answers, water.kind, water.should_abstain) == (("water",), "text", False)
    assert (purpose.answers, purpose.should_abstain) == (None, True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (lines({"question": "How many?"}), "row 1 is not a row of gsm8k: answer: Field required"),
        (lines({"question": "How many?", "answer": 7}), "row 1 is not a row of gsm8k: answer"),
        ('{"question": "a", "answer": "#### 1"}\n{"question"', "line 2: not valid JSON"),
        ("[1]", "row 1 is not a row of gsm8k"),
        ("[]", "has no rows of gsm8k"),
        ("", "has no rows of gsm8k"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        suite_of("gsm8k", tmp_path, text)


def test_parquet_rows_are_read_like_json_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "test.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"question": "How many?", "answer": "#### 5"}]), path)
    assert load_suite(f"gsm8k:{path}").items[0].answers == ("5",)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as a parquet file"):
        load_suite(f"gsm8k:{path}")


def test_a_missing_file_is_misuse(tmp_path: Path) -> None:
    for name in (f"svamp:{tmp_path / 'none.json'}", f"gsm8k:{tmp_path / 'none.parquet'}"):
        with pytest.raises(MisuseError, match="does not exist"):
            load_suite(name)
    with pytest.raises(MisuseError, match="give svamp:PATH"):
        load_suite("svamp:")


def test_offline_the_message_says_to_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SteerkitError, match="give gsm8k:PATH"):
        load_suite("gsm8k")


def test_a_set_without_a_home_on_the_hub_asks_for_a_file() -> None:
    with pytest.raises(MisuseError, match="give umwp:PATH"):
        load_suite("umwp")
