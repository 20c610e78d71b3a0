"""A package beside steerkit adds one of everything, each in one file: it works by name, from Python and the shell."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerkit.extraction.pairs import load_pairs, save_pairs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tests" / "plugins"
# A second process, in which the package is installed: it runs what it is told, one JSON line after another.
DRIVER = """
import contextlib, io, json, sys, traceback
from tests.command_line import steerkit
answers = sys.stdout
for line in sys.stdin:
    asked, said = json.loads(line), io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            if isinstance(asked, list):
                done = steerkit(*asked)
                answer = [done.code, done.out, done.err]
            else:
                exec(asked, {"__name__": "driver"})
                answer = [0, said.getvalue(), ""]
        except Exception:
            answer = [1, said.getvalue(), traceback.format_exc()]
    print(json.dumps(answer), file=answers, flush=True)
"""


class Beside:
    """The process in which the package is installed."""

    def __init__(self, site: Path) -> None:
        path = os.pathsep.join([str(site), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def steerkit(self, *arguments: object) -> str:
        """Run a command and return its stdout."""
        return self._ask(list(map(str, arguments)))

    def python(self, code: str) -> str:
        """Run code and return what it prints."""
        return self._ask(code)

    def generate(self, model: Path, spec: str | None, *prompts: str, tokens: int = 8) -> list[dict[str, Any]]:
        """Return what `steerkit generate` says of each prompt."""
        steer = [] if spec is None else ["--steer", spec]
        asked = ["--model", model, *steer, "--max-new-tokens", tokens, "--json", *prompts]
        shown: list[dict[str, Any]] = json.loads(self.steerkit("generate", *asked))
        return shown

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, what: str | list[str]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        code, out, err = json.loads(self._process.stdout.readline())
        assert code == 0, err
        return str(out)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """Another process, with the package installed."""
    site, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "plugins"
    shutil.copytree(PACKAGE, source)  # pip builds in place
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(site), str(source)], check=True)
    process = Beside(site)
    yield process
    process.close()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen pairs, as a file."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    save_pairs(load_pairs("abstention").pairs[:12], path)
    return path


def test_each_addition_is_one_file_under_60_lines() -> None:
    files = sorted((PACKAGE / "steerkit_example_plugins").glob("*.py"))
    lines = {file.stem: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert lines.keys() == {
        "__init__",
        "engine",
        "estimator",
        "exporter",
        "gate",
        "logit_rule",
        "operation",
        "reader",
        "scorer",
        "suite",
    }
    assert max(lines.values()) < 60


def test_steerkit_list_shows_each_with_the_module_that_it_is_from(beside: Beside) -> None:
    listed = json.loads(beside.steerkit("list", "--json"))
    ours = {entry["kind"]: entry for entry in listed if entry["from"].startswith("steerkit_example_plugins")}
    assert {kind: entry["name"] for kind, entry in ours.items()} == {
        "estimators": "median-difference",
        "operations": "flip",
        "rules": "no-digits",
        "gates": "mentions-a-year",
        "readers": "rank",
        "scorers": "shouting",
        "suites": "years",
        "exporters": "npy",
        "engines": "parrot",
    }
    assert all(entry["summary"] for entry in ours.values())


def test_an_estimator_fits_the_same_vector_from_both(
    beside: Beside, tiny_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "median.safetensors"
    asked = ["--model", tiny_folder, "--pairs", pairs, "--method", "median-difference"]
    beside.steerkit("extract", *asked, "--out", out)
    beside.python(
        f"""
import steerkit as sk
lm, pairs = sk.load_model({str(tiny_folder)!r}), sk.load_pairs({str(pairs)!r})
shell, ours = sk.load_vector({str(out)!r}), sk.extract(lm, pairs, "median-difference")
assert shell.metadata.method == ours.metadata.method == "median-difference"
assert shell.direction.equal(ours.direction)
"""
    )


def test_an_operation_acts_as_it_says(beside: Beside, tiny_folder: Path, tiny_vector: Path) -> None:
    spec = f"{tiny_vector}@layer=2,operation=flip,scope=all"
    (shown,) = beside.generate(tiny_folder, spec, "Why?")
    beside.python(
        f"""
import steerkit as sk, torch
lm, (steering,) = sk.load_model({str(tiny_folder)!r}), sk.parse_all([{spec!r}])
ids = torch.tensor([lm.renderer.encode_prompt("Why?")])
plain = lm.hf(ids).logits
with sk.steer(lm, steering):
    once = lm.hf(ids).logits
with sk.steer(lm, steering, steering):
    twice = lm.hf(ids).logits
assert not torch.allclose(once, plain, atol=0.1)
assert torch.allclose(twice, plain, atol=1e-3)  # a flip of a flip
request = sk.Request("Why?", (steering,), sk.Decoding(8))
(completion,) = sk.TransformersEngine(lm).generate([request])
assert completion.text == {shown["completion"]!r}
"""
    )


def test_a_rule_on_logits_acts_on_each_token(beside: Beside, tiny_folder: Path) -> None:
    sampled = ["--temperature", 2, "--max-new-tokens", 200]
    (plain,) = beside.generate(tiny_folder, None, "Why?", *sampled)
    (ruled,) = beside.generate(tiny_folder, "no-digits", "Why?", *sampled)
    assert re.search("[0-9]", plain["completion"])
    assert not re.search("[0-9]", ruled["completion"])
    beside.python(
        """
import steerkit as sk
from steerkit_example_plugins.logit_rule import NoDigits
assert sk.parse("no-digits@nats=2") == NoDigits(nats=2)
assert sk.parse(str(NoDigits(nats=3))) == NoDigits(nats=3)
"""
    )


def test_a_gate_decides_for_each_prompt(beside: Beside, tiny_folder: Path, tiny_vector: Path) -> None:
    spec = f"{tiny_vector}@layer=2,gate=mentions-a-year"
    without, with_a_year = beside.generate(tiny_folder, spec, "Who was it?", "Who was it in 1999?")
    assert [without["gates"][0]["fired"], with_a_year["gates"][0]["fired"]] == [False, True]
    beside.python(
        f"""
import steerkit as sk
from steerkit_example_plugins.gate import mentions_a_year
vector = sk.load_vector({str(tiny_vector)!r})
assert vector.at(layer=2, gate="mentions-a-year") == vector.at(layer=2, gate=mentions_a_year)
"""
    )


def test_a_reader_reads_each_token(beside: Beside, tiny_folder: Path) -> None:
    read = ["--read", "norm@layer=2", "--read", "rank", "--max-new-tokens", 4, "--json"]
    (form,) = json.loads(beside.steerkit("generate", "--model", tiny_folder, *read, "Who won?"))
    norms, ranks = (each["values"] for each in form["readings"])
    assert len(norms) == form["tokens"]
    assert norms[-1] is None or form["finish"] == "stop"  # a token that was never run
    assert min(norm for norm in norms if norm is not None) > 0
    assert set(ranks) == {0}  # greedy


def test_an_exporter_writes_what_it_can_express(beside: Beside, tiny_vector: Path, tmp_path: Path) -> None:
    out, spec = tmp_path / "shift.npy", f"{tiny_vector}@layer=2,strength=3,scope=all"
    beside.steerkit("export", "--to", "npy", spec, "--out", out)
    beside.python(
        f"""
import numpy, pytest, steerkit as sk
vector = sk.load_vector({str(tiny_vector)!r})
steering = vector.at(layer=2, strength=3, scope="all")
ours = sk.export(steering, to="npy", out={str(tmp_path / "ours.npy")!r})
shift = numpy.load(ours)
assert numpy.array_equal(shift, numpy.load({str(out)!r}))
assert numpy.allclose(shift[2], 3 * vector.direction[2].numpy()) and not shift[[0, 1, 3]].any()
with pytest.raises(sk.SteerkitError, match="operation=flip: a NumPy array can only add a constant"):
    sk.export(vector.at(layer=2, scope="all", operation="flip"), to="npy", out="never.npy")
"""
    )


def records_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


RULE = "exclamations s.t. capitals<=0.4"


@pytest.fixture(scope="module")
def loud(
    beside: Beside, tiny_folder: Path, tiny_vector: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A sweep of the package's suite through its engine, with its scorer and a rule of its metrics; what it printed."""
    out = tmp_path_factory.mktemp("runs") / "loud"
    grid = ["--vector", tiny_vector, "--layers", 1, "--strengths", "1,2,3", "--choose", RULE, "--limit", 6]
    of = ["--suite", "years:1950", "--engine", "parrot", "--model", tiny_folder]
    return out, beside.steerkit("sweep", *of, *grid, "--out", out)


def test_a_sweep_of_the_suite_runs_on_the_engine(loud: tuple[Path, str]) -> None:
    records = records_of(loud[0] / "choose")
    assert {record["item"] for record in records} <= {f"year-{year}" for year in range(1950, 2010)}
    prompts = {record["prompt"] for record in records if record["completion"] == record["prompt"]}
    assert len(prompts) == 6  # unsteered, a parrot says what it hears
    (environment,) = json.loads((loud[0] / "choose" / "run.json").read_text(encoding="utf-8"))["environments"]
    assert environment["versions"]["engine"] == "parrot"


def test_the_suite_names_its_scorers(loud: tuple[Path, str]) -> None:
    (first, *_) = records_of(loud[0] / "choose")
    assert {"correct", "tokens", "repetition", "capitals", "exclamations"} <= first["scores"].keys()
    assert "abstained" not in first["scores"]


def test_a_rule_of_the_metrics_chooses(loud: tuple[Path, str]) -> None:
    choice = json.loads((loud[0] / "report" / "choice.json").read_text(encoding="utf-8"))
    assert choice["rule"] == RULE
    assert "strength=2" in choice["spec"]  # 3 of 5 words are too many capitals


def test_the_metrics_stand_in_table_csv_plots_and_page(loud: tuple[Path, str]) -> None:
    out, printed = loud
    assert "capitals" in printed
    with (out / "choose" / "summary.csv").open(encoding="utf-8") as file:
        rows = {(row["role"], row["strength"]): row for row in csv.DictReader(file)}
    assert [float(rows["steered", f"{n}.0"]["exclamations"]) for n in (1, 2, 3)] == [1, 2, 3]
    assert float(rows["steered", "2.0"]["capitals_change_low"]) > 0
    plots = {path.name for path in (out / "choose" / "plots").iterdir()}
    assert {"shouting-frontier.png", "shouting-heatmap.png"} <= plots
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "How loud" in page
    assert "share of capital letters" in page


def test_the_suite_the_scorer_and_the_engine_work_from_python(
    beside: Beside, tiny_folder: Path, tiny_vector: Path, tmp_path: Path, loud: tuple[Path, str]
) -> None:
    beside.python(
        f"""
import steerkit as sk
from steerkit_example_plugins.engine import Parrot
from steerkit_example_plugins.scorer import shouting
suite = sk.load_suite("years:1950")
assert suite.items[0].prompt == "Which year comes after 1950?"
assert sk.score(suite.items[0], "NO!", scorers=[shouting]) == {{"capitals": 2 / 3, "exclamations": 1}}
engine = Parrot(sk.load_model({str(tiny_folder)!r}))
grid = sk.Grid(sk.load_vector({str(tiny_vector)!r}), layers=1, strengths=(1, 2, 3))
run = sk.sweep(engine, grid, sk.Measurement(suite, limit=6), out={str(tmp_path / "run")!r})
assert run.choose({RULE!r}).at.strength == 2
assert sk.open_run({str(loud[0] / "choose")!r}).choose({RULE!r}).cell == run.choose({RULE!r}).cell
"""
    )
