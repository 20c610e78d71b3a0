"""Readings before a reader's eyes: no token is markup, every colour is legible, and values are where they belong."""

from __future__ import annotations

import io
import itertools
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import steerkit as sk
from steerkit.cli import console
from steerkit.core.errors import MisuseError
from steerkit.interventions.readers import NamedReader, ProbeReader, Reading, VectorReader
from steerkit.models import LanguageModel
from steerkit.reading.html import STYLE, token_spans
from steerkit.reading.read import ReadText
from steerkit.reading.scale import SEQUENTIAL, SIGNED, Colour, Scale, between, ink_on, luminance_of, scale_of
from steerkit.reading.terminal import coloured, legend
from steerkit.reading.tokens import shown
from tests.command_line import steerkit
from tests.engines.test_readings import probe_of
from tests.tiny import random_vector

HOSTILE = (
    "[red]", "[/]", ":smile:", "<script>alert(1)</script>", "&amp;", '"><img src=x>', "\n\n", "\t", "a\u200bb",
    "\u202eevil", "\x1b[31m", "\ufeff", "\ud800", "☂", "", " [link=http://x]", "'",
)  # fmt: skip


def hostile() -> ReadText:
    values = tuple(float(i) - 3 for i in range(len(HOSTILE)))
    return ReadText(HOSTILE, 2, (Reading(NamedReader("entropy"), values[:2], values[2:]),))


class Seen(HTMLParser):
    """What a browser makes of a part of a page: its elements, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        assert {name for name, _ in attrs} <= {"class", "style", "title", "dir"}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_tokens_are_text_in_html() -> None:
    seen = Seen()
    seen.feed(hostile()._repr_html_())
    assert set(seen.elements) == {"div", "style", "p", "span", "br"}
    for token in HOSTILE:
        assert shown(token) in seen.text
    assert not set(seen.text.replace(STYLE, "")) & set("\x1b\u202e\u200b\ufeff\ud800\t\n")
    page = sk.readings_page([hostile(), "<b>"], title="<i>")
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace("[link=http://x]", "")
    page.encode()


def test_hostile_tokens_are_text_in_a_terminal() -> None:
    text = coloured(HOSTILE, [float(i) for i in range(len(HOSTILE))], Scale(0, 20, signed=False))
    stream = io.StringIO()
    Console(
        file=stream, force_terminal=True, color_system="truecolor", markup=True, emoji=True, width=20
    ).print(text, soft_wrap=True)
    written = stream.getvalue()
    plain = text.plain
    for token in HOSTILE:
        assert shown(token) in plain
    assert "[red]" in written
    assert ":smile:" in written
    assert "\\x1b[31m" in written
    assert not set(plain) & set("\x1b\u202e\u200b\ufeff\ud800\t")
    assert plain.count("\n") == 2  # the two line breaks that a token holds


@pytest.mark.parametrize("stops", [SIGNED, SEQUENTIAL])
def test_every_colour_has_legible_ink(stops: tuple[tuple[int, int, int], ...]) -> None:
    for share in range(101):
        ground = between(stops, share / 100)
        light, dark = sorted((luminance_of(ground), luminance_of(ink_on(ground))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(("page", "ink"), [((251, 251, 250), (28, 32, 36)), ((21, 23, 26), (232, 234, 237))])
@pytest.mark.parametrize("colour", [(0, 114, 178), (230, 97, 1)])
def test_the_strongest_colour_of_a_page_leaves_its_ink_legible(
    page: Colour, ink: Colour, colour: Colour
) -> None:
    red, green, blue = (round(0.4 * a + 0.6 * b) for a, b in zip(page, colour, strict=True))
    light, dark = sorted((luminance_of((red, green, blue)), luminance_of(ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_scales_are_signed_where_readings_are() -> None:
    assert scale_of("vector", [1.0, 3.0, None]) == Scale(-3.0, 3.0, signed=True)
    assert scale_of("probe", [0.4, 0.5]) == Scale(0.0, 1.0, signed=False)
    assert scale_of("registered", [-1.0, 2.0]) == Scale(-2.0, 2.0, signed=True)
    assert scale_of("registered", [-3.0, -1.0]) == Scale(-3.0, -1.0, signed=False)
    assert scale_of("registered", []) == Scale(0.0, 1.0, signed=False)
    assert scale_of("registered", [2.0, 2.0]).at(2.0) == 0.0
    signed = scale_of("vector", [0.0])
    assert signed.at(0.0) == 0.0
    assert signed.colour(None) is None
    assert [signed.at(value) for value in (-9.0, 9.0)] == [-1.0, 1.0]


def test_hover_says_all_that_was_read_of_a_token() -> None:
    spans = token_spans(
        ["a", "b"], [1.0, None], Scale(0, 1, signed=False), [("x", [1.0, None]), ("y", [2.0, 3.0])]
    )
    assert 'title="a&#10;x: 1&#10;y: 2"' in spans
    assert 'title="b&#10;x: none&#10;y: 3"' in spans


def test_a_model_completes_and_is_read_in_one_call(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    steering = vector.at(layer=1, strength=2.0)
    done = tiny.generate(
        ["Why?", "Who?"],
        steering,
        read=["entropy", "random@layer=2"],
        decoding=sk.Decoding(4),
        samples=2,
        vectors=vector,
    )
    assert [(c.request.prompt, c.request.sample) for c in done] == list(
        itertools.product(["Why?", "Who?"], [0, 1])
    )
    assert done == sk.generate(
        tiny, ["Why?", "Who?"], steering, read=[NamedReader("entropy"), VectorReader(vector, 2)],
        decoding=sk.Decoding(4), samples=2,
    )  # fmt: skip
    text = ReadText.of(done[0], tiny)
    ids = (*tiny.renderer.encode_prompt("Why?"), *done[0].token_ids)
    assert text.text == tiny.renderer.decode_raw(ids)
    assert text.values(1) == done[0].readings[1].prompt + done[0].readings[1].completion
    assert len(text.tokens) == len(text.values(0))
    (alone,) = sk.generate(tiny, "Why?", decoding=sk.Decoding(2))
    assert alone.readings == ()
    with pytest.raises(MisuseError, match="nothing read"):
        ReadText.of(alone, tiny)


def test_an_edit_whose_gate_stayed_shut_is_no_part_of_the_prompt(tiny: LanguageModel) -> None:
    edit = sk.PromptEdit(system="Be brief.", gate=sk.ProbeGate(probe_of(tiny), 1, 0.9999))
    told = sk.PromptEdit(system="Be brief.", gate=sk.ProbeGate(probe_of(tiny), 1, 0.0001))
    for intervention, fires in ((edit, False), (told, True)):
        (done,) = sk.generate(tiny, "Why?", intervention, read="entropy", decoding=sk.Decoding(2))
        assert done.gates[0].fired is fires
        text = ReadText.of(done, tiny)
        assert ("Be brief." in text.text) is fires


def test_a_map_is_every_layer_in_one_pass(tiny: LanguageModel, tmp_path: Path) -> None:
    vector, probe = random_vector(tiny), probe_of(tiny)
    found = sk.read_map(tiny, ("Why?", "Because."), vector, vector.at(layer=0, strength=1.0))
    assert found.layers == (0, 1, 2, 3)
    (read,) = sk.read(tiny, ("Why?", "Because."), VectorReader(vector, 2), vector.at(layer=0, strength=1.0))
    assert found.values[2] == pytest.approx(read.values())
    of_probe = sk.read_map(tiny, "Why?", probe, layers=[1, 3])
    assert of_probe.layers == (1, 3)
    assert of_probe.scale(0) == Scale(0.0, 1.0, signed=False)
    for each in (found, of_probe):
        seen = Seen()
        seen.feed(each._repr_html_())
        assert seen.elements.count("td") == len(each.layers) * len(each.tokens)
        path = sk.plot_map(each, tmp_path / "map.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MisuseError, match="a vector or a probe"):
        sk.read_map(tiny, "Why?", "random")  # type: ignore[arg-type]


WORDS = ("--max-new-tokens", 3, "--read", "entropy")


def test_generate_prints_a_table_of_readings_where_there_are_no_colours(
    tiny_folder: Path, tiny_vector: Path
) -> None:
    outcome = steerkit("generate", "Why?", "--model", tiny_folder, *WORDS, "--read", f"{tiny_vector}@layer=1")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("token"))
    assert lines[head].split() == ["token", "entropy", "random", "at", "1"]
    assert len(lines) == head + 1 + 3
    assert "\x1b" not in outcome.out
    with_prompt = steerkit("generate", "Why?", "--model", tiny_folder, *WORDS, "--read-prompt")
    assert sum(line.split()[-1] == "prompt" for line in with_prompt.out.splitlines()) > 3
    refused = steerkit("generate", "Why?", "--model", tiny_folder, "--read-prompt")
    assert refused.code != 0
    assert "give --read too" in refused.err
    unknown = steerkit("generate", "Why?", "--model", "no-such-model", "--read", "entropy@layer=3")
    assert "takes no layer" in unknown.err


def test_generate_gives_readings_as_json_beside_a_comparison(tiny_folder: Path, tiny_vector: Path) -> None:
    steer = ["--steer", f"{tiny_vector}@layer=1", "--compare"]
    outcome = steerkit("generate", "Why?", "--model", tiny_folder, *WORDS, *steer, "--read-prompt", "--json")
    plain, steered = json.loads(outcome.out)
    for form in (plain, steered):
        (reading,) = form["readings"]
        assert reading["reader"] == "entropy"
        assert len(reading["values"]) == len(form["pieces"]) == form["tokens"]
        assert len(reading["prompt_values"]) == len(form["prompt_pieces"])
        assert reading["prompt_values"][0] is None
    without = json.loads(steerkit("generate", "Why?", "--model", tiny_folder, *WORDS, "--json").out)
    assert "prompt_pieces" not in without[0]
    unread = json.loads(
        steerkit("generate", "Why?", "--model", tiny_folder, "--max-new-tokens", 2, "--json").out
    )
    assert "readings" not in unread[0]


def test_generate_colours_tokens_on_a_terminal(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    colours = Console(file=stream, force_terminal=True, color_system="truecolor", **console.PLAIN)
    monkeypatch.setattr(console, "out", colours)
    outcome = steerkit("generate", "Why?", "--model", tiny_folder, *WORDS)
    assert outcome.code == 0, outcome.err
    written = stream.getvalue()
    assert written.startswith("entropy")
    assert written.count("48;2;") >= 3 + 10  # a ground for each token, and the legend's
    assert "token" not in written
    monkeypatch.setattr(
        console, "out", Console(file=stream, force_terminal=True, no_color=True, **console.PLAIN)
    )
    steerkit("generate", "Why?", "--model", tiny_folder, *WORDS)
    assert "token" in stream.getvalue()


def test_a_legend_says_who_reads_and_how_far(tiny: LanguageModel) -> None:
    probe = ProbeReader(probe_of(tiny))
    said = legend(probe.label, scale_of("probe", [])).plain
    assert said.startswith("doubt at 1  0 ")
    assert said.endswith(" 1")
