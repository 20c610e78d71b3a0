"""Kind 3, text is data: what a model, a file or a user says arrives letter by letter, wherever it is shown.

`C…` are inputs on which an earlier version failed, `N…` further ones of the same kind. What is expected follows from
the rule alone: into a file or a pipe each letter as it is; on a terminal the same, but that control characters and
those that turn the direction of text are shown as escapes; in JSON the same value.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steerkit.analysis.run import open_run
from steerkit.cli.app import VERBS, _load
from steerkit.core.characters import visible
from steerkit.engines.base import Completion, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.vector import load_vector
from steerkit.models import LanguageModel
from steerkit.report.marks import legible
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.runs.references import read_interventions
from steerkit.suites.items import SuiteItem, save_items
from tests import scripted
from tests.bench import pair
from tests.command_line import Outcome, steerkit
from tests.report.conftest import CELLS, write_run
from tests.tiny import random_vector

EMOJI = "Use :warning: and a:b:c, key:x:y"
NAMES = (
    "s é 你",
    "[bold]b[/bold]",
    ":smile:",
    "tab\there",
    'q"uote',
    "it's",
    "a@b=c",
    "a,b",
    "semi;colon",
    "#abc",
)


def succeed(*arguments: object, **given: Any) -> Outcome:
    outcome = steerkit(*arguments, **given)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def saying(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a model that says this text, whatever it is asked."""
    folder = tmp_path_factory.mktemp("saying")
    written: dict[str, Path] = {}

    def made(text: str) -> Path:
        if text not in written:
            written[text] = scripted.save(scripted.scripted([text]), folder / str(len(written)))
        return written[text]

    return made


@pytest.fixture(scope="module")
def steered(saying: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The options of a model that says something, and of a steering that changes none of it."""
    from steerkit.models import load_model

    model = saying("Shakespeare.")
    vector = scripted.next_to_nothing(load_model(str(model))).save(
        tmp_path_factory.mktemp("steered") / "v.safetensors"
    )
    return ["--model", model, "--steer", f"{vector}@layer=1,strength=1.25"]


@pytest.fixture(scope="module")
def named_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run directory of this name, on a suite of that name."""

    def abstaining(cell: Cell, made: Record) -> Record:
        """With the real direction it abstains where it should, without one never: there is a best cell."""
        found = cell.role == "steered" and cell.interventions[0].strength > 0 and made.should_abstain
        return replace(made, scores={**made.scores, "abstained": bool(found)})

    def made(name: str, suite: str = "boats") -> Path:
        return write_run(tmp_path_factory.mktemp("runs") / name, suite=suite, change=abstaining)

    return made


# Completions and prompts


def test_c01_each_compared_completion_says_whether_it_is_the_unsteered_one(steered: list[object]) -> None:
    out = succeed("generate", *steered, "--compare", "Who wrote Hamlet?").out.splitlines()
    assert out == [
        "Who wrote Hamlet?  [unsteered]",
        "Shakespeare.",
        "Who wrote Hamlet?  [tiny@layer=1,strength=1.25,scope=completion]",
        "Shakespeare.",
    ]


def test_n_compared_completions_of_several_prompts_and_samples_are_told_apart(steered: list[object]) -> None:
    arguments = ["generate", *steered, "--compare", "--samples", 2, "--temperature", 1, "One?", "Two?"]
    heads = [line for line in succeed(*arguments).out.splitlines() if "?" in line]
    assert len(set(heads)) == len(heads) == 8
    assert sum("unsteered" in head for head in heads) == 4
    assert sum("strength=1.25" in head for head in heads) == 4
    rows = json.loads(succeed(*arguments, "--json").out)
    keys = [(row["prompt"], row["sample"], row["steered"]) for row in rows]
    assert sorted(keys) == sorted((p, s, v) for p in ("One?", "Two?") for s in (0, 1) for v in (False, True))


def test_n_comparing_nothing_is_said(saying: Callable[[str], Path]) -> None:
    outcome = succeed("generate", "--model", saying("Yes."), "--compare", "Why?")
    assert outcome.out == "Yes.\n"
    assert "nothing to compare" in outcome.err


def test_n_a_steering_of_strength_0_is_not_called_steered(
    steered: list[object],
) -> None:
    still = [str(each).replace("strength=1.25", "strength=0") for each in steered]
    rows = json.loads(succeed("generate", *still, "--json", "Hi").out)
    assert [row["steered"] for row in rows] == [False]


def test_c02_emoji_codes_in_a_completion_stay_codes(scripted_folders: Callable[[str], Path]) -> None:
    assert succeed("generate", "--model", scripted_folders("m_emoji"), "hello").out == f"{EMOJI}\n"


def test_c03_emoji_codes_in_an_echoed_prompt_stay_codes(scripted_folders: Callable[[str], Path]) -> None:
    out = succeed("generate", "--model", scripted_folders("m_emoji"), "x:100:y", "b").out
    assert out == f"x:100:y  [unsteered]\n{EMOJI}\nb  [unsteered]\n{EMOJI}\n"


SAID = {
    "markup": "[bold]no[/bold] [/] [link=file:///etc]x[/link]",
    "brackets that close nothing": "a[0] = b[/1]",
    "tabs": "a\tb\n\tc",
    "columns and runs of blanks": "| a   |  b |\n|--|--|",
    "a line longer than a terminal": "word " * 60 + "end",
    "numbers and paths, which are not coloured": "3.14 /etc/hosts 'x' True",
    "carriage return": "12%\r34%",
    "bell and backspace": "ab\x08\x08c\x07",
    "form feed and vertical tab": "a\x0bb\x0cc",
    "escape sequence": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J",
    "one byte control": "a\x9b31mb\x85c\x7f",
    "null": "a\x00b",
    "turned about": "user\u202egnp.exe\u202c \u2066x\u2069",
    "right to left": "שלום (עולם) 12 לא יודע",
    "joined emoji": "👩‍👩‍👧 🇫🇷 é é",
    "line separators": "a\u2028b\u2029c",
    "byte-order mark and soft hyphen": "a\ufeffb\u00adc",
}
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_n_a_completion_reaches_a_pipe_letter_by_letter(text: str, saying: Callable[[str], Path]) -> None:
    assert succeed("generate", "--model", saying(text), "Hi").out == f"{text}\n"


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_n_a_completion_is_the_same_value_in_json(text: str, saying: Callable[[str], Path]) -> None:
    out = succeed("generate", "--model", saying(text), "--json", "Hi").out
    assert json.loads(out)[0]["completion"] == text
    assert not ACTING.search(out)  # nor does JSON act on a terminal


@pytest.mark.parametrize("columns", [30, 200])
@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_n_a_completion_reaches_a_terminal_letter_by_letter_and_does_not_act_on_it(
    text: str, columns: int, saying: Callable[[str], Path]
) -> None:
    out = succeed("generate", "--model", saying(text), "Hi", columns=columns).out
    assert out == f"{ACTING.sub(lambda found: found[0].encode('unicode_escape').decode(), text)}\n"


def test_n_what_a_chat_says_is_the_completion(saying: Callable[[str], Path]) -> None:
    text = "[b]a\tb[/b] :x: \x1b[1m"
    assert succeed("chat", "--model", saying(text), stdin="Hi\n").out == f"{text}\n"
    on_terminal = succeed("chat", "--model", saying(text), stdin="Hi\n", columns=80).out
    assert f"{visible(text)}\n" in on_terminal
    assert "\x1b[1m\n" not in on_terminal


Letters = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\t\n:[]\\\x1b\r\x08\u202e\u200fא"), min_size=1
).filter(lambda text: text == text.strip())


@given(text=Letters)
@example(text=":warning: [bold]x[/bold]\t\x1b[2J")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_law_what_generate_prints_is_the_completion(text: str, tiny: LanguageModel) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TransformersEngine, "generate", lambda _, requests: (said(text, each) for each in requests)
        )
        patch.setattr("steerkit.cli.engine.EngineChoice.open", lambda *_, **__: TransformersEngine(tiny))
        assert succeed("generate", "Hi").out == f"{text}\n"
        assert json.loads(succeed("generate", "--json", "Hi").out)[0]["completion"] == text
        assert succeed("generate", "Hi", columns=20).out == f"{visible(text)}\n"


def said(text: str, request: Request) -> Completion:
    return Completion(request, text, (1,), "stop", prompt_tokens=1)


@given(st.text(st.characters()))
def test_law_visible_text_acts_on_nothing_and_loses_nothing(text: str) -> None:
    shown = visible(text)
    assert not ACTING.search(shown)
    rest = iter(shown)
    for char in text:
        expected = char.encode("unicode_escape").decode() if ACTING.match(char) else char
        assert "".join(next(rest) for _ in expected) == expected
    assert next(rest, None) is None


# Encodings


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "steerkit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize(("encoding", "shown"), [("cp1252", "café ? ??"), ("ascii", "caf? ? ??")])
def test_c05_a_stream_that_cannot_hold_a_character_gets_a_replacement(
    encoding: str, shown: str, saying: Callable[[str], Path]
) -> None:
    model = saying("café ⚠ 你好")
    done = process("generate", "--model", model, "Hi", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout.decode(encoding)) == (0, f"{shown}\n")
    (notice,) = done.stderr.decode(encoding).splitlines()
    assert "PYTHONIOENCODING=utf-8" in notice
    done = process("generate", "--model", model, "--json", "Hi ⚠", PYTHONIOENCODING=encoding)
    assert (
        json.loads(done.stdout)[0] | {"completion": "café ⚠ 你好", "prompt": "Hi ⚠"}
        == json.loads(done.stdout)[0]
    )


def test_n_messages_and_tables_survive_any_encoding(tmp_path: Path) -> None:
    done = process("report", tmp_path / "läuft 你.x", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr.decode("ascii").startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert process("list", PYTHONIOENCODING="latin-1").returncode == 0
    assert process("sweep", "--help", PYTHONIOENCODING="ascii").returncode == 0


def test_n_a_path_that_is_no_text_is_one_line(tmp_path: Path, tiny_vector: Path) -> None:
    name = os.fsdecode(b"v\xff.safetensors")
    (tmp_path / name).write_bytes(tiny_vector.read_bytes())
    done = process("generate", "--steer", f"{tmp_path / name}@layer=1", "Hi")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert "rename" in line


# Names of files, suites, vectors


def next_step(said: str, marker: str) -> list[str]:
    """The arguments of the command that a line of `said` offers."""
    (line,) = (line for line in said.splitlines() if marker in line)
    return shlex.split(line.split(marker, 1)[1])


@pytest.mark.parametrize("name", NAMES)
def test_c06_the_next_step_of_extract_can_be_pasted(name: str, tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / f"dir with space{name}" / f"x {name}.safetensors"
    model = tmp_path / "my model"
    model.symlink_to(tiny_folder)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(pair(f"p{i}") for i in range(6)))
    outcome = succeed("extract", "--model", model, "--pairs", pairs, "--out", out)
    program, verb, *rest = next_step(outcome.err, "next: ")
    assert (program, verb) == ("steerkit", "generate")
    assert rest[:2] == ["--model", str(model)]
    (steering,) = read_interventions([rest[rest.index("--steer") + 1]])
    assert steering.tensors[0].digest == load_vector(out).digest
    assert len(rest) == 5
    succeed(verb, *rest[:-1], "Hi", "--max-new-tokens", 1)


def test_n_the_next_step_for_a_probe_can_be_pasted(tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "g,a@te x.safetensors"
    fit = ["extract", "--as", "probe", "--pairs", "suite:abstention", "--model", tiny_folder, "--out", out]
    words = next_step(succeed(*fit).err, "next: ")
    axis = words[words.index("--axis") + 1]
    gates = parse_axis_gate(axis.partition("=")[2])
    assert gates == [None, out.stem]


def parse_axis_gate(text: str) -> list[str | None]:
    from steerkit.sweeps.axes import axis_values

    return [None if gate is None else gate.name for gate in axis_values("gate", text)]


@pytest.mark.parametrize("name", NAMES)
def test_n_the_hint_after_a_sweep_names_the_best_cell_and_can_be_pasted(
    name: str, named_run: Callable[..., Path]
) -> None:
    run = named_run(name)
    outcome = succeed("report", run)
    words = next_step(outcome.err, "unseen items: ")
    (steering,) = read_interventions([words[words.index("--steer") + 1]])
    best = next(line for line in outcome.err.splitlines() if "best cell" in line)
    assert best.endswith(f"is {steering}")


def test_n_the_page_offers_a_cell_that_can_be_pasted(named_run: Callable[..., Path]) -> None:
    run = named_run("it's mine")
    shown = [line for line in texts_of(open_run(run).report().read_text()) if line.startswith("--steer ")]
    assert shown
    for line in shown:
        _, reference = shlex.split(line)
        assert read_interventions([reference])


def test_n_what_an_export_says_can_be_pasted(tmp_path: Path, tiny_vector: Path) -> None:
    out = tmp_path / "my vector; it's.gguf"
    outcome = succeed("export", f"{tiny_vector}@layer=1,scope=all", "--to", "gguf", "--out", out)
    assert next_step(outcome.err, "use it: ")[-1] == str(out)


def test_n_the_next_step_of_pairs_and_import_can_be_pasted(tmp_path: Path, tiny_folder: Path) -> None:
    import torch

    torch.save(torch.ones(32), tmp_path / "vec_layer_1.pt")
    out = tmp_path / "my $HOME `x`.safetensors"
    outcome = succeed("import", tmp_path / "vec_layer_1.pt", "--model", tiny_folder, "--out", out)
    words = next_step(outcome.err, "next: ")
    assert f"{out}@layer=1,strength=1" in words


@pytest.mark.parametrize("name", [name for name in NAMES if "\t" not in name])
def test_n_names_in_titles_of_tables_are_data(name: str, named_run: Callable[..., Path]) -> None:
    run = named_run("run", suite=name)
    assert name in succeed("report", run).out
    assert name in succeed("report", run, columns=50).out


@pytest.mark.parametrize("columns", [None, 20, 60])
def test_n_ids_in_lint_are_data(columns: int | None, tmp_path: Path) -> None:
    ids = ["[red]p1[/red]", ":x: 2  two", "p\x1b[31m3"]
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"id": i, "prompt": "Who?", "positive": "same", "negative": "same"} for i in ids]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    said = steerkit("pairs", "lint", pairs, columns=columns).out
    for each in ids:
        assert (each if columns is None else visible(each)) in said


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", ":x:  two blanks", "x\x1b[31my", "a\nb", "a\tb", "a\u202eb"]
)
@pytest.mark.parametrize("columns", [None, 20])
def test_n_an_error_is_one_line_that_quotes_what_was_given(
    name: str, columns: int | None, tmp_path: Path
) -> None:
    outcome = steerkit("report", tmp_path / name, columns=columns)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert visible(name, keep="\t").replace("\\n", " ") in line.replace("\\n", " ")
    assert not ACTING.search(line.replace("\x1b[1;31m", "").replace("\x1b[0m", ""))


def test_n_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    def warn(*_: object, **__: object) -> None:
        warnings.warn("two\nlines [b] :x: \x1b[31m", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("steerkit.cli.console.load", warn)
    warning, _ = steerkit("doctor", "--model", tiny_folder).err.splitlines()
    assert warning == "warning: two lines [b] :x: \\x1b[31m"


# Tables


@pytest.mark.parametrize("term", ["dumb", "xterm", "unknown"])
@pytest.mark.parametrize("columns", [20, 80, 100, 250])
def test_c04_a_table_is_whole_on_any_terminal(
    term: str, columns: int, named_run: Callable[..., Path]
) -> None:
    run = named_run("run")
    said = succeed("report", run, columns=columns, term=term).out
    assert "…" not in said
    for row in open_run(run).summary():
        assert row.at.name in said
        for metric in ("abstention_recall", "over_abstention"):
            level = row.levels[metric]
            assert f"{level.value:.2f} [{level.low:.2f}, {level.high:.2f}]" in said


def test_n_a_long_name_is_whole_in_a_pipe_and_on_a_terminal(
    tmp_path: Path, tiny_folder: Path, tiny: LanguageModel
) -> None:
    name = "a-name-that-no-column-of-ten-or-of-a-hundred-characters-could-hold-" * 4
    vector = random_vector(tiny, name=name).save(tmp_path / "v.safetensors")
    grid = ["--vector", vector, "--layers", 1, "--limit", 2, "--max-new-tokens", 2, "--out", tmp_path / "run"]
    assert name in succeed("sweep", "--model", tiny_folder, *grid).out
    assert name in succeed("report", tmp_path / "run", columns=60, term="dumb").out


@pytest.mark.parametrize("verb", [["list"], ["models"]])
def test_n_lists_are_whole_on_a_dumb_terminal(verb: list[str]) -> None:
    for row in json.loads(succeed(*verb, "--json").out):
        for columns in (None, 40):
            said = "".join(succeed(*verb, columns=columns, term="dumb").out.split())
            assert "…" not in said
            assert row["name"] in said


def test_n_help_shows_each_word_of_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 600)
    for verb in VERBS:
        said = steerkit(verb, "--help").out
        for option in _load(verb).params:
            assert option.help is None or "{" in option.help or option.help in said


# The page and the plots


class Texts(HTMLParser):
    """Collects texts, each with the tags that it stands in."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def texts_of(page: str) -> list[str]:
    parser = Texts()
    parser.feed(page)
    return parser.found


def page_saying(folder: Path, text: str, prompt: str = "") -> str:
    def said(cell: Cell, record: Record) -> Record:
        what = text if cell.role == "unsteered" else f"{text}."
        return replace(record, completion=what, prompt=prompt or record.prompt)

    run = write_run(folder, cells=CELLS[:3], split="report", change=said)
    return open_run(run).report().read_text(encoding="utf-8")


HOSTILE = {
    **SAID,
    "script": "</script><script>alert(1)</script>",
    "attribute": "\" onload='x'",
    "entities": "&amp; &lt; &#0; &nbsp;",
    "jinja": "{{ 7 * 7 }} {% raw %}",
    "comment": "<!-- --> ]]> <![CDATA[",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_n_the_page_holds_the_completion_with_acting_characters_as_escapes(text: str, tmp_path: Path) -> None:
    page = page_saying(tmp_path / "run", text, prompt=text)
    assert visible(text) in texts_of(page)
    assert not ACTING.search(page)


@given(text=st.text(st.characters(), min_size=1))
def test_law_a_text_of_the_page_is_the_completion_up_to_escapes(text: str) -> None:
    from steerkit.report.page import environment

    page = environment().from_string("<p>{{ text }}</p><b>{{ text|bdi }}</b>").render(text=text)
    page.encode()
    assert "".join(texts_of(page)) == 2 * visible(text)


def test_n_names_on_the_page_are_isolated_from_what_stands_beside_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "אבג", suite="שלום")
    page = open_run(run).report().read_text(encoding="utf-8")
    assert "<bdi>שלום</bdi>" in page
    assert "<bdi>אבג</bdi>" in page


def pictures(name: str, folder: Path) -> list[warnings.WarningMessage]:
    run = write_run(folder / "run", suite=name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_run(run).report()
    assert list((run / "plots").glob("*.png"))
    return caught


SCRIPTS = {
    "C07": "s é 你",
    "Korean": "모르겠습니다",
    "Arabic": "لا أعرف",
    "Devanagari": "पता नहीं",
    "Thai": "กรุงเทพ",
    "emoji": "😀🇫🇷",
    "control": "a\tb\x1b[31m\x00",
    "turned": "a\u202eb",
    "private": "\ue000\U000f0000",
    "old": "𒀀𓀀",
    "mathtext": "$x_1$ \\frac",
}


@pytest.mark.parametrize("name", SCRIPTS.values(), ids=SCRIPTS)
def test_c07_a_plot_warns_of_no_glyph(name: str, tmp_path: Path) -> None:
    assert not pictures(name, tmp_path)


def test_n_what_no_font_can_draw_is_drawn_as_an_escape() -> None:
    assert legible("plain é") == "plain é"
    assert legible("a\x1bb") == "a\\x1bb"
    assert legible("\U000f0000") == "\\U000f0000"
    assert legible("two\nlines") == "two\nlines"


def test_c07_a_sweep_on_a_suite_of_such_a_name_says_nothing_of_glyphs(
    tmp_path: Path, tiny_folder: Path, tiny_vector: Path
) -> None:
    suite = tmp_path / "s é 你.jsonl"
    save_items((SuiteItem(f"i{n}", "Who?", answers=("you",)) for n in range(12)), suite)
    grid = ["--vector", tiny_vector, "--layers", "1,2", "--limit", 2, "--max-new-tokens", 2]
    outcome = succeed("sweep", "--model", tiny_folder, *grid, "--suite", suite, "--out", tmp_path / "run")
    assert "lyph" not in outcome.err
    assert "site-packages" not in outcome.err
