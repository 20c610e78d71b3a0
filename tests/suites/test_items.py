from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.texts import is_blank
from steerkit.suites.items import SuiteItem, load_items, save_items

words = st.text(min_size=1, max_size=20).filter(lambda text: not is_blank(text))
items = st.builds(
    SuiteItem,
    id=words,
    prompt=words,
    should_abstain=st.sampled_from([None, False]),
    answers=st.none() | st.lists(words, min_size=1, max_size=3).map(tuple),
    kind=st.sampled_from(["text", "latex"]),
    scenario=st.none() | words,
    source=st.none() | words,
)


@given(st.lists(items, min_size=1, max_size=5, unique_by=lambda item: item.id))
def test_items_come_back_from_a_file_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, items: list[SuiteItem]
) -> None:
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    save_items(items, path)
    assert load_items(path) == tuple(items)


def test_only_id_and_prompt_are_required(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('\ufeff{"id": "a", "prompt": "Why?"}\r\n\r\n', encoding="utf-8")
    assert load_items(path) == (SuiteItem("a", "Why?"),)


ITEM = '{"id": "a", "prompt": "Why?"}'


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ("", "is empty"),
        (ITEM + "\n[1]", "line 2: expected a JSON object"),
        (ITEM + '\n{"id": "b"', "line 2: not valid JSON"),
        (ITEM + "\n" + ITEM, "line 2: the id 'a' stands already in line 1"),
        ('{"prompt": "Why?"}', "line 1: the key 'id' is missing"),
        ('{"id": "a"}', "line 1: the key 'prompt' is missing"),
        ('{"id": "a", "prompt": " "}', "line 1: item a: the prompt is empty"),
        ('{"id": "", "prompt": "Why?"}', "line 1: the id is empty"),
        ('{"id": 7, "prompt": "Why?"}', "line 1: id: input should be a valid string"),
        (
            '{"id": "a", "prompt": "Why?", "anwsers": ["x"]}',
            "line 1: unknown key 'anwsers'; known are id, prompt",
        ),
        ('{"id": "a", "prompt": "Why?", "answers": "x"}', "line 1: answers: input should be a valid array"),
        (
            '{"id": "a", "prompt": "Why?", "answers": [1]}',
            "line 1: answers.0: input should be a valid string",
        ),
        ('{"id": "a", "prompt": "Why?", "answers": []}', "line 1: item a: an answer is empty"),
        (
            '{"id": "a", "prompt": "Why?", "answers": ["x"], "kind": "number"}',
            "line 1: item a: no answer is a number",
        ),
        (
            '{"id": "a", "prompt": "Why?", "kind": "integer"}',
            "line 1: kind: input should be 'text', 'number' or",
        ),
        (
            '{"id": "a", "prompt": "Why?", "should_abstain": "yes"}',
            "line 1: should_abstain: input should be a",
        ),
        (
            '{"id": "a", "prompt": "Why?", "should_abstain": true, "answers": ["x"]}',
            "line 1: item a should be abst",
        ),
        ('{"id": "a", "prompt": "Why?", "twin": "a"}', "line 1: item a is its own twin"),
        ('{"id": "a", "prompt": "Why?", "twin": "b"}', "line 1: the twin 'b' of 'a' is not in the file"),
        (
            '{"id": "a", "prompt": "Why?", "twin": "b"}\n{"id": "b", "prompt": "?"}',
            "line 1: 'a' names 'b' as its",
        ),
    ],
)
def test_a_damaged_file_is_refused_with_its_line_and_the_problem(
    tmp_path: Path, contents: str, problem: str
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(contents, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_items(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert problem in message
    assert "\n" not in message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"id": "a", "prompt": "caf\xe9"}')
    with pytest.raises(InputError, match="not UTF-8 text"):
        load_items(path)


def test_a_missing_file_and_a_folder_are_misuse(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="does not exist"):
        load_items(tmp_path / "none.jsonl")
    with pytest.raises(MisuseError, match="is a folder"):
        load_items(tmp_path)


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "items.jsonl"
    target.mkdir()
    with pytest.raises(SteerkitError, match="cannot write the items"):
        save_items([SuiteItem("a", "Why?")], target)
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "file").touch()
    with pytest.raises(SteerkitError, match="cannot write the items"):
        save_items([SuiteItem("a", "Why?")], tmp_path / "file" / "items.jsonl")


def test_twins_share_their_group() -> None:
    assert SuiteItem("b", "?", twin="a").group == SuiteItem("a", "?", twin="b").group == "a"
    assert SuiteItem("c", "?").group == "c"
