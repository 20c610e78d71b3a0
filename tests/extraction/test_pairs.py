"""Pairs and labelled prompts as files and as data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.texts import is_blank
from steerkit.extraction.pairs import (
    ContrastPair,
    ContrastPairs,
    LabelledPrompt,
    LabelledPrompts,
    builtin_pairs,
    load_examples,
    load_labelled,
    load_pairs,
    save_pairs,
)
from steerkit.suites.splits import split_of_group
from steerkit.suites.suite import load_suite

PAIR = {"id": "a", "prompt": "Why?", "positive": "I cannot say.", "negative": "Because."}

words = st.text(min_size=1).filter(lambda text: not is_blank(text))
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}),
    min_size=1,
    max_size=3,
).map(tuple)
pairs = st.lists(
    st.builds(
        ContrastPair,
        id=st.text(min_size=1),
        prompt=words | messages,
        positive=words,
        negative=words,
        system=st.none() | st.text(),
        tags=st.lists(st.text(), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda pair: pair.id,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@given(pairs)
def test_saved_pairs_load_as_they_were(scratch, items):
    original = ContrastPairs("set", tuple(items))
    loaded = load_pairs(save_pairs(original, scratch / "set.jsonl"))
    assert loaded == original
    assert loaded.digest == original.digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"id": "a", "prompt": "caf\xe9"}', "not UTF-8 text"),
        (b'{"id": "a"', "line 1: not valid JSON"),
        (b'{"id": "\\ud800"}', "line 1: not valid JSON"),
        (b"[" * 5000, "line 1: not valid JSON"),
        (b"[1, 2]", "line 1: expected a JSON object"),
        (PAIR | {"negative": None}, "line 1: negative: input should be"),
        (PAIR | {"positive": 3}, "line 1: positive: input should be"),
        (PAIR | {"id": ""}, "line 1: id: string should have"),
        (PAIR | {"tags": "x"}, "line 1: tags: input should be"),
        (PAIR | {"postive": "x"}, "line 1: unknown key 'postive'"),
        ({k: v for k, v in PAIR.items() if k != "negative"}, "line 1: the key 'negative' is missing"),
        (PAIR | {"positive": " \n"}, "line 1: the positive side is empty"),
        (PAIR | {"prompt": " "}, "line 1: the prompt is empty"),
        (PAIR | {"prompt": 7}, "line 1: a prompt is a text or a list"),
        (PAIR | {"prompt": [{"role": "robot", "content": "x"}]}, "line 1: a chat message's role"),
        (PAIR | {"prompt": [{"role": "user"}]}, "line 1: a chat message needs"),
        ({"id": "a", "prompt": "Why?", "label": "yes"}, "line 1: label: input should be"),
        ({"id": "a", "prompt": "Why?", "should_abstain": "no"}, "line 1: should_abstain"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_fault(tmp_path, content, said):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError) as error:
        load_pairs(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fault_on_a_later_line_is_found_there(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(PAIR) + "\n\n" + json.dumps(PAIR))
    with pytest.raises(InputError, match=r"line 3: the id 'a' stands already in line 1"):
        load_pairs(path)


@pytest.mark.parametrize("reference", ["no-such-set", "missing.jsonl", "."])
def test_a_set_that_is_not_there_is_misuse(reference):
    with pytest.raises(MisuseError):
        load_pairs(reference)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(MisuseError, match="abstention, brevity"):
        load_pairs("abstension")


@pytest.mark.parametrize("name", ["abstention", "brevity"])
def test_each_built_in_set_holds_fifty_pairs_under_its_name(name):
    loaded = load_pairs(name)
    assert (loaded.name, len(loaded)) == (name, 50)
    assert name in builtin_pairs()


def test_windows_files_with_a_byte_order_mark_load(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\r\n")
    assert load_pairs(path).pairs == (ContrastPair("a", "Why?", "I cannot say.", "Because."),)


def test_lines_with_a_label_load_as_labelled_prompts(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"id": "q", "prompt": "Why?", "label": true, "tags": ["x"]}\n')
    assert load_labelled(path) == LabelledPrompts(
        "asked", (LabelledPrompt("q", "Why?", True, "q", tags=("x",)),)
    )


def test_suite_items_of_the_fit_split_load_as_labelled_prompts_with_twins_in_one_group(tmp_path):
    path = tmp_path / "suite.jsonl"
    rest = {"answers": None, "kind": "text", "scenario": "s", "source": "x"}
    lines = [
        {"id": f"{n}u", "prompt": "Whose?", "should_abstain": True, "twin": f"{n}a"} | rest for n in range(40)
    ] + [
        {"id": f"{n}a", "prompt": "Ann's book: whose?", "should_abstain": False, "twin": f"{n}u"} | rest
        for n in range(40)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    loaded = load_labelled(path)
    assert {item.id for item in loaded} == {item.id for item in load_suite(path).split("fit")}
    assert {item.label for item in loaded} == {True, False}
    assert all(item.group == item.id[:-1] + "a" for item in loaded)


def test_a_suite_by_name_gives_the_items_of_its_fit_split_labelled():
    loaded = load_labelled("suite:abstention")
    fit = load_suite("abstention").split("fit")
    assert [(p.id, p.prompt, p.label, p.group) for p in loaded] == [
        (item.id, item.prompt, item.should_abstain, item.group) for item in fit
    ]
    assert loaded.name == "abstention"


def test_a_suite_that_does_not_say_what_to_abstain_from_is_misuse(tmp_path):
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "prompt": "When?"}) + "\n" for n in range(40)))
    with pytest.raises(MisuseError, match="does not say which items to abstain from"):
        load_labelled(f"suite:{path}")
    with pytest.raises(MisuseError, match="unknown suite 'nowhere'"):
        load_labelled("suite:nowhere")


def test_a_suite_without_items_to_fit_on_is_an_error(tmp_path):
    path = tmp_path / "suite.jsonl"
    other = next(str(n) for n in range(40) if split_of_group(str(n)) != "fit")
    path.write_text(json.dumps({"id": other, "prompt": "When?", "should_abstain": True}))
    with pytest.raises(MisuseError, match="no item in split 'fit'"):
        load_labelled(path)


def test_each_reader_gives_its_own_kind_and_refuses_the_other(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"id": "q", "prompt": "Why?", "label": true}\n')
    with pytest.raises(MisuseError, match="labelled prompts, not contrast pairs"):
        load_pairs(path)
    with pytest.raises(MisuseError, match="contrast pairs, not labelled prompts"):
        load_labelled("abstention")
    assert load_examples(path) == load_labelled(path)
    assert load_examples("abstention") == load_pairs("abstention")
    assert repr(load_examples(path)) == "LabelledPrompts('asked', 1 positive, 0 negative)"
    assert repr(load_examples("abstention")) == "ContrastPairs('abstention', 50 pairs)"


def test_examples_are_the_positive_ones_then_the_negative_ones_in_order():
    items = (ContrastPair("a", "A?", "a+", "a-"), ContrastPair("b", "B?", "b+", "b-"))
    examples = ContrastPairs("set", items).examples
    assert [e.text for e in examples] == ["a+", "b+", "a-", "b-"]
    assert [e.positive for e in examples] == [True, True, False, False]
    asked = (LabelledPrompt("n", "N?", False, "n"), LabelledPrompt("p", "P?", True, "p"))
    assert [e.text for e in LabelledPrompts("asked", asked).examples] == ["P?", "N?"]


def test_the_digest_is_of_the_pairs_not_of_their_name():
    items = (ContrastPair("a", "A?", "yes", "no"), ContrastPair("b", "B?", "yes", "no"))
    assert ContrastPairs("x", items).digest == ContrastPairs("y", items).digest
    assert ContrastPairs("x", items).digest != ContrastPairs("x", items[::-1]).digest
    assert ContrastPairs("x", items).digest != ContrastPairs("x", items[:1]).digest


def test_pairs_that_cannot_be_written_leave_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    items = ContrastPairs("set", (ContrastPair("a", "A?", "yes", "no"),))
    for path in (tmp_path / "file" / "set.jsonl", tmp_path / "folder"):
        with pytest.raises(SteerkitError, match="cannot write the pairs"):
            save_pairs(items, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
