"""Lint finds each fault, and nothing in a clean set."""

from __future__ import annotations

import dataclasses

import pytest

from steerkit.extraction.lint import lint
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, LabelledPrompt, LabelledPrompts, load_pairs

TOPICS = [f"{kind} of {place}" for kind in ("capital", "coast", "climate", "cuisine") for place in "ABCDEF"]
CLEAN = ContrastPairs(
    "clean",
    tuple(
        ContrastPair(f"p{i}", f"What is the {topic}?", f"The {topic} is unknown.", f"The {topic} is famous.")
        for i, topic in enumerate(TOPICS)
    ),
)


def codes(pairs, *args, **kwargs):
    return {finding.code for finding in lint(pairs, *args, **kwargs) if finding.severity != "information"}


def spoiled(**changes):
    """The clean set with its second pair changed."""
    first, second, *rest = CLEAN.pairs
    return ContrastPairs("spoiled", (first, dataclasses.replace(second, **changes), *rest))


def test_a_clean_set_has_no_findings_but_what_words_alone_tell():
    (finding,) = lint(CLEAN)
    assert (finding.severity, finding.code) == ("information", "words-alone")
    assert "accuracy" in finding.message


@pytest.mark.parametrize(
    ("changes", "code", "where"),
    [
        ({"positive": " … "}, "empty", "p1 (positive)"),
        ({"prompt": "???"}, "empty", "p1"),
        ({"negative": CLEAN.pairs[1].positive}, "identical-sides", "p1"),
        ({"negative": CLEAN.pairs[1].positive.upper()}, "identical-sides", "p1"),
        ({"prompt": CLEAN.pairs[0].prompt}, "duplicate", "p1"),
        ({"prompt": "what is  the CAPITAL of a"}, "near-duplicate", "p1"),
        ({"negative": CLEAN.pairs[0].negative}, "duplicate", "p1 (negative)"),
    ],
)
def test_each_fault_of_a_pair_is_found_where_it_is(changes, code, where):
    assert (code, where) in {(finding.code, finding.where) for finding in lint(spoiled(**changes))}


def test_errors_come_first_and_information_last():
    severities = [f.severity for f in lint(spoiled(positive="…", prompt=CLEAN.pairs[0].prompt))]
    assert severities == sorted(severities, key=["error", "warning", "information"].index)
    assert set(severities) == {"error", "warning", "information"}


@pytest.mark.parametrize(
    "other", ["what is the capital of b?", "Tell me, please: what is the capital of B? Now!"]
)
def test_a_prompt_of_the_other_set_is_a_leak(other):
    leaks = [finding for finding in lint(CLEAN, other=[other]) if finding.code == "leakage"]
    assert [leak.where for leak in leaks] == ["p1"]
    assert codes(CLEAN, other=["What is it?"]) == set()


def test_length_is_a_finding_unless_declared_and_its_absence_is_one_if_declared():
    longer = [dataclasses.replace(pair, negative=pair.negative * 2) for pair in CLEAN]
    skewed = ContrastPairs("skewed", tuple(longer))
    assert codes(skewed) == {"length-skew"}
    assert codes(skewed, "length") == set()
    assert codes(CLEAN, "length") == {"no-length-contrast"}


def test_a_small_set_is_said_to_be_small():
    assert codes(ContrastPairs("small", CLEAN.pairs[:19])) == {"few"}
    assert codes(ContrastPairs("single", CLEAN.pairs[:1])) == {"few"}


def test_labelled_prompts_are_linted_too():
    items = [
        LabelledPrompt(pair.id + side, text, side == "+", pair.id)
        for pair in CLEAN
        for side, text in (("+", pair.positive), ("-", pair.negative))
    ]
    assert codes(LabelledPrompts("asked", tuple(items))) == set()
    assert codes(LabelledPrompts("asked", (*items, dataclasses.replace(items[0], id="x")))) == {"duplicate"}


def test_what_the_model_cannot_read_is_found_with_its_tokenizer(tiny):
    bos, eos = tiny.tokenizer.bos_token, tiny.tokenizer.eos_token
    assert codes(CLEAN, lm=tiny) == set()
    assert codes(spoiled(positive=f"{bos}That is unknown to me."), lm=tiny) == {"doubled-bos"}
    assert codes(spoiled(positive=f"That is unknown to me.{eos}"), lm=tiny) == {"special-token"}
    assert "too-long" in codes(spoiled(positive="word " * tiny.context_length), lm=tiny)
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who is B?"})
    assert codes(spoiled(prompt=messages, system="Be brief."), lm=tiny) == {"unreadable"}


def test_a_template_that_doubles_the_bos_is_found(tiny, monkeypatch):
    render = tiny.renderer.render
    bos = tiny.tokenizer.bos_token
    monkeypatch.setattr(tiny.renderer, "render", lambda *args: bos + bos + render(*args))
    assert codes(CLEAN, lm=tiny) == {"doubled-bos"}


@pytest.mark.parametrize(("name", "contrast"), [("abstention", "content"), ("brevity", "length")])
def test_the_built_in_sets_are_clean(name, contrast, smollm):
    assert codes(load_pairs(name), contrast, lm=smollm) == set()
