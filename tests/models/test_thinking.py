"""The laws of a completion's account, over random tokens of tokenizers that cut markers in any way."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.core.prompts import Renderer
from steerkit.models.markers import BLOCKS, DEFAULT, FAMILIES, HARMONY, TOOLS, ThinkingMarkers
from steerkit.models.thinking import Reading, Tracker, TransitionTable, spans_of
from steerkit.scoring.reply import final_reply
from tests.scripted import tokenizer_of
from tests.tiny import byte_tokenizer

CUT = (
    "<unk>",
    "<think>",
    "</think>",
    "<",
    "</",
    "think",
    ">",
    ".</",
    "</thi",
    "nk>",
    "/think>Par",
    "a",
    "B",
    " ",
)
CUT += ("\n", ". ", "`", "it", "<tool_call>", "</tool_call>", "</THINK>", "<think>\n")
MARKED = ("<unk>", "[THINK]", "[/THINK]", "<pad>", "a", " ", "\n", "[", "/THINK]", "B.", "[/THINK]!")
CHANNELS = (
    "<unk>",
    "<|channel|>",
    "<|start|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "analysis",
    "final",
    "a",
    "\n",
)
CHANNELS += ("commentary", " to=f", "assistant", "<pad>")
MADE = {
    "cut": (CUT, set(), DEFAULT),
    "special": (
        MARKED,
        {"[THINK]", "[/THINK]", "<pad>", "[/THINK]!"},
        ThinkingMarkers("[THINK]", "[/THINK]"),
    ),
    "channels": (CHANNELS, {t for t in CHANNELS if t.startswith("<")} - {"<unk>"}, HARMONY),
    "own": (("<unk>", "((", "))", "(", ")", "a", ")) ", "\n"), set(), ThinkingMarkers("((", "))")),
}


@functools.cache
def tracker(name: str) -> Tracker:
    if name == "bytes":
        return Tracker(Renderer(byte_tokenizer(chat=False)), DEFAULT)
    words, special, markers = MADE[name]
    return Tracker(Renderer(tokenizer_of(words, special, "<unk>")), markers)


def vocabulary(name: str) -> int:
    return len(tracker(name)._renderer._tokenizer)


@st.composite
def completions(draw: st.DrawFn, names: Sequence[str] = (*MADE, "bytes")) -> tuple[str, list[int], list[int]]:
    """A tokenizer's name, a prompt that may open thinking, and a completion."""
    name = draw(st.sampled_from(names))
    renderer = tracker(name)._renderer
    tokens = st.integers(1, vocabulary(name) - 1).map(lambda token: [token])
    pieces = tokens
    if name == "bytes":
        texts = [
            *(m for f in BLOCKS[:4] for m in (f.opening, f.closing)),
            "a",
            " ",
            "\n",
            "é",
            "🙂",
            "<",
            "think>",
        ]
        pieces = st.one_of(tokens, st.sampled_from(texts).map(renderer.encode))
    ids = [token for piece in draw(st.lists(pieces, max_size=14)) for token in piece]
    prompt = renderer.encode(tracker(name).markers.opening) if draw(st.booleans()) else []
    return name, prompt, ids


def check_tiles(reading: Reading, tokens: int) -> None:
    at = token = 0
    for span in reading.spans:
        assert (span.start, span.first_token) == (at, token)
        assert (span.start, span.first_token) != (span.stop, span.stop_token)
        at, token = span.stop, span.stop_token
    assert (at, token) == (len(reading.text), tokens)


@settings(max_examples=400)
@given(completions())
def test_spans_tile_the_text_and_the_tokens(made: tuple[str, list[int], list[int]]) -> None:
    name, prompt, ids = made
    check_tiles(tracker(name).read(prompt, ids), len(ids))


@settings(max_examples=200)
@given(completions(), st.integers(0, 30))
def test_spans_tile_what_a_stop_text_leaves(made: tuple[str, list[int], list[int]], length: int) -> None:
    name, prompt, ids = made
    raw = tracker(name)._renderer.decode_raw(ids)
    reading = tracker(name).read(prompt, ids, raw[:length])
    check_tiles(reading, len(ids))


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from([*CUT[1:], *MARKED[1:], "<thinking>", "</thinking>", "Q: a?", "</answer>"]),
        max_size=12,
    )
)
def test_spans_tile_a_text_without_tokens(pieces: list[str]) -> None:
    text = "".join(pieces)
    spans = spans_of(text)
    assert "".join(text[s.start : s.stop] for s in spans) == text
    reply = final_reply(text)
    assert reply in text


@functools.cache
def table(name: str) -> TransitionTable:
    return tracker(name).table(vocabulary(name))


@settings(max_examples=400)
@given(completions())
def test_the_automaton_on_a_device_is_the_one_on_the_host(made: tuple[str, list[int], list[int]]) -> None:
    name, prompt, ids = made
    columns, moves, is_open = table(name)
    followed = tracker(name)
    state = on_device = followed.start(prompt)
    for token in ids:
        state = followed.after(state, token)
        on_device = int(moves[on_device, columns[token]])
        assert on_device == state
        assert bool(is_open[on_device]) == followed.is_open(state)


def open_behind(text: str, is_open: bool) -> bool:
    """Whether thinking is open behind a text, by the rule as the contract words it."""
    low, at = text.lower(), 0
    while True:
        if is_open:
            found = low.find("</think>", at)
            if found < 0:
                return True
            at, is_open = found + len("</think>"), False
            continue
        found = low.find("<think>", at)
        while found >= 0 and not _may_open(low[at:found].rpartition("</think>")[2], text[:found]):
            found = low.find("<think>", found + 1)
        if found < 0:
            return False
        at, is_open = found + len("<think>"), True


def _may_open(since_marker: str, before: str) -> bool:
    if not since_marker.strip():
        return True
    bare = before.rstrip(" ")
    return bare[-1] in "\n.!?" or (bare == before and bare[-1].isalnum())


@settings(max_examples=600)
@given(st.lists(st.integers(1, 17), max_size=16), st.booleans())
def test_a_marker_is_found_however_its_text_is_cut_into_tokens(ids: list[int], is_open: bool) -> None:
    followed = tracker("cut")
    prompt = followed._renderer.encode("<think>") if is_open else []
    kinds = followed.kinds(prompt, ids)
    texts = [followed._renderer.decode_raw(ids[:n]) for n in range(len(ids) + 1)]
    assert [kind == "thinking" for kind in kinds] == [open_behind(text, is_open) for text in texts]


@settings(max_examples=300)
@given(st.lists(st.sampled_from([1, 11, 12, 13, 14, 15, 17]), max_size=14), st.booleans())
def test_thinking_tokens_are_those_from_open_positions(ids: list[int], closes: bool) -> None:
    """Of a text with one closing at most, so that nothing later ends a thought that seemed to have ended."""
    followed = tracker("cut")
    ids = [1, *(token for token in ids if token != 1), *([2, 12] if closes else [])]
    kinds = followed.kinds([], ids)
    assert followed.read([], ids).thinking_tokens == sum(kind == "thinking" for kind in kinds[:-1])


@pytest.mark.parametrize("family", FAMILIES, ids=[f.opening for f in FAMILIES])
def test_every_family_is_told_in_a_bare_text(family: ThinkingMarkers) -> None:
    text = f"{family.opening}\nNo, or yes?\n{family.closing}\n\nParis."
    assert final_reply(text) == "Paris."
    assert final_reply(text.upper().replace("PARIS", "Paris")) == "Paris." or family == HARMONY
    assert final_reply(f"{family.opening}\nNo, or yes?") == ""
    assert [s.kind for s in spans_of(text)] == ["marker", "thinking", "marker", "answer"]


@pytest.mark.parametrize(("opening", "closing"), TOOLS, ids=[opening for opening, _ in TOOLS])
def test_a_tool_call_is_no_answer(opening: str, closing: str) -> None:
    text = f"<think>Look.</think>Let me see.\n{opening}look(1){closing}"
    kinds = {s.kind: text[s.start : s.stop] for s in spans_of(text)}
    assert kinds["tool"] == "look(1)"
    assert final_reply(text) == "Let me see."
