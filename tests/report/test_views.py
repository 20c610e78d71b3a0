"""Notebook views: an object shows itself on one line, and as HTML that is well formed, escaped and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import steerkit as sk
from steerkit.engines.base import Completion, Decision, GateReading, Request
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, LabelledPrompt, LabelledPrompts
from steerkit.models import LanguageModel
from steerkit.models.thinking import Span
from tests.tiny import random_vector

NASTY = '</td><script>alert("1")</script> <img src=x onerror=alert(1)> & \u202e \x1b[2J'
VOID = {"img", "br", "meta", "hr", "link", "input"}


class Strict(HTMLParser):
    """Tags must close in the order in which they were opened; says which there were, and what text stood in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def read(thing: object) -> Strict:
    """The view of a thing, which is also one line of text, and loads nothing and runs nothing."""
    assert "\n" not in repr(thing)
    assert len(repr(thing)) < 300
    page = Strict(thing._repr_html_())  # type: ignore[attr-defined]
    assert not {"script", "img", "link", "iframe", "object"}.intersection(page.tags)
    assert not any(name.startswith("on") or name in ("src", "href") for name, _ in page.attributes)
    assert not re.search("[\x00-\x08\x1b\u202e]", page.text)
    return page


def test_a_model_shows_its_sizes_place_and_markers(tiny: LanguageModel) -> None:
    page = read(tiny)
    for said in (
        "tiny-0",
        "LlamaForCausalLM",
        "numbered 0 to 3; width 32",
        "float32 on cpu",
        tiny.fingerprint,
    ):
        assert said in page.text
    assert "between <think> and </think>" in page.text


def test_pairs_are_a_table_and_their_texts_are_text() -> None:
    pairs = ContrastPairs(NASTY, tuple(ContrastPair(f"p{n}", NASTY, NASTY, "no", NASTY) for n in range(30)))
    page = read(pairs)
    assert page.text.count('alert("1")') == 1 + 20 * 3
    assert "10 more" in page.text
    assert page.tags.count("tr") == 21


def test_a_conversation_and_labels_are_shown(tiny: LanguageModel) -> None:
    del tiny
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    prompts = LabelledPrompts(
        "few", (LabelledPrompt("a", talk, True, kind="odd"), LabelledPrompt("b", "Who?", False))
    )
    page = read(prompts)
    for said in ("1 positive, 1 negative", "Hi\nYes?", "odd", "negative"):
        assert said in page.text


@pytest.mark.parametrize("name", ["abstain-smollm2-135m-instruct", "brief-smollm2-135m-instruct"])
def test_a_vector_draws_its_layers_and_says_its_use(name: str) -> None:
    vector = sk.load_vector(name)
    page = read(vector)
    assert page.tags.count("svg") == 3
    assert "layer 29: " in page.text
    assert f"{name}@layer=" in page.text
    assert "words alone" in page.text
    assert vector.metadata.calibration is not None
    assert f"{vector.metadata.calibration[0].strength:+.3f}" in page.text
    assert "\n" not in repr(vector.metadata)


def test_a_bare_vector_draws_its_lengths(tiny: LanguageModel) -> None:
    page = read(random_vector(tiny, name=NASTY))
    assert page.tags.count("svg") == 1
    assert "length of the direction" in page.text


def test_a_probe_draws_its_layers_and_lists_its_thresholds() -> None:
    probe = sk.load_vector("abstain-smollm2-135m-instruct").probe
    assert probe is not None
    page = read(probe)
    assert page.tags.count("svg") == 2
    for threshold in probe.metadata.thresholds:
        assert f"{threshold.threshold:.3f}" in page.text


def test_a_completion_sets_thinking_apart() -> None:
    thought = f"I add.{NASTY}"
    text = f"{thought}</think>Seven."
    spans = (
        Span("thinking", 0, len(thought), 0, 3),
        Span("marker", len(thought), len(thought) + 8, 3, 4, of="thinking"),
        Span("answer", len(thought) + 8, len(text), 4, 6),
    )
    gates = (GateReading(0, "doubt", 0.8, True), GateReading(1, "along", None, 0.25))
    decided = (Decision("stop", 4, 0.9),)
    done = Completion(
        Request(NASTY), text, tuple(range(6)), "length", 3, gates=gates, spans=spans, decisions=decided
    )
    page = read(done)
    assert "thinkingI add." in page.text
    assert "</think>" not in page.text
    for said in (
        "Seven.",
        "6 tokens, cut off",
        "read 0.800, opened",
        "25% of positions",
        "stop acted behind 4",
    ):
        assert said in page.text


def test_tokens_that_were_read_are_coloured(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    reads = [sk.VectorReader(vector, 2), "entropy"]
    [done] = sk.generate(tiny, "Hi", vector.at(1, 2.0), read=reads, decoding=sk.Decoding(9))
    assert len(done.pieces) == done.tokens
    page = read(done)
    coloured = sum(name == "class" and str(value).startswith("sk-t ") for name, value in page.attributes)
    assert coloured == 2 * (done.tokens + 2)
    assert all("\n" not in repr(reading) for reading in done.readings)


@pytest.fixture(scope="module")
def run(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> sk.Run:
    """A small sweep."""
    grid = sk.Grid(random_vector(tiny, name=NASTY), layers=[1, 2], strengths=[-1, 1])
    measurement = sk.Measurement("abstention", split="choose", limit=6, decoding=sk.Decoding(3))
    return sk.sweep(tiny, grid, measurement, out=tmp_path_factory.mktemp("runs") / "one")


def test_a_run_draws_its_trade_off_and_lists_its_cells(run: sk.Run) -> None:
    page = read(run)
    assert page.tags.count("svg") >= 2
    assert page.tags.count("tr") == 1 + len(run.cells)
    for row in run.summary():
        assert row.cell[:4] in page.text
    assert "over-abst." in page.text


def test_a_run_is_listed_and_framed(run: sk.Run) -> None:
    listed = run.to_dicts()
    assert len(listed) == len(run.cells) * 6
    assert {"cell", "layer", "strength", "item", "completion", "abstained"} <= listed[0].keys()
    assert "scores" not in listed[0]
    frame = run.to_dataframe()
    assert list(frame.columns) == list(listed[0])
    assert len(frame) == len(listed)
    cells = run.to_dicts("cells")
    assert [each["cell"] for each in cells] == [row.cell for row in run.summary()]
    for name, estimate in run.summary()[0].levels.items():
        assert (cells[0][name], cells[0][f"{name}_n"]) == (round(estimate.value, 6), estimate.n)
    with pytest.raises(sk.SteerkitError, match="records or cells"):
        run.to_dicts("items")  # type: ignore[arg-type]


def test_an_empty_run_shows_that_it_is_empty(run: sk.Run, tmp_path: Path) -> None:
    for name in ("run.json", "cells.jsonl"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    (tmp_path / "records.jsonl").touch()
    assert "no records yet" in read(sk.open_run(tmp_path)).text
