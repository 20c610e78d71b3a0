"""Every verb of the command line, as a user types it, on a random hybrid of 50 million parameters: layers of linear
attention, which keep recurrent states, and of full attention in turn. Its chat template opens the thinking."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.hybrid import random_hybrid
from steerkit.interventions.probe import load_probe
from steerkit.interventions.vector import load_vector
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from tests.conftest import save_model
from tests.sweeps.test_wide import contents
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer

pytestmark = pytest.mark.slow

OPENS_THINKING = CHAT_TEMPLATE.replace("[assistant]", "[assistant]<think>")
LAYER, STRENGTH, TOKENS = 6, 4, 20
SUMS = range(9, 31)  # of one and of two digits: prompts of unequal length
QUESTION = "What is 2 + 2?"
NOT_PRINTED = dict.fromkeys((7, 8, 11, 12, 13))  # control codes, which no terminal is sent


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "steerkit.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def steerkit(*arguments: object, stdin: str = "") -> tuple[str, str]:
    """Run `steerkit ARGUMENTS…` in a process of its own; what it printed, and what it said beside."""
    done = subprocess.run(command(*arguments), input=stdin, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    return done.stdout, done.stderr


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrid")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    tokenizer = byte_tokenizer(markers=False)  # none that a text leaves out as special
    tokenizer.chat_template = OPENS_THINKING
    return LanguageModel(random_hybrid(), tokenizer, "hybrid")


@pytest.fixture(scope="module")
def folder(model: LanguageModel, place: Path) -> Path:
    assert 45e6 < sum(parameter.numel() for parameter in model.hf.parameters()) < 55e6
    return save_model(model, place / "model")


@pytest.fixture(scope="module")
def vector(folder: Path, place: Path) -> Path:
    answers = [
        ("Yes, it is.", "I do not know."),
        ("It is here!", "Nobody can say."),
        ("Of course.", "Perhaps."),
    ]
    pairs = [
        {"id": f"pair-{i}", "prompt": f"Question {i}?", "positive": positive, "negative": negative}
        for i, (negative, positive) in enumerate(answers)
    ]
    asked = ["--pairs", write_lines(place / "pairs.jsonl", pairs), "--out", place / "vector.safetensors"]
    out, said = steerkit("extract", "--model", folder, *asked)
    assert out.splitlines()[0].split()[:3] == ["layer", "held-out", "AUROC"]
    assert "wrote" in said
    return place / "vector.safetensors"


@pytest.fixture(scope="module")
def probe(folder: Path, place: Path) -> Path:
    prompts = [
        {"id": f"prompt-{i}", "prompt": f"{'Add' if i % 2 else 'Guess'} {i} and {i}.", "label": i % 2 == 1}
        for i in range(12)
    ]
    asked = ["--pairs", write_lines(place / "prompts.jsonl", prompts), "--out", place / "probe.safetensors"]
    steerkit("extract", "--as", "probe", "--model", folder, *asked)
    return place / "probe.safetensors"


@pytest.fixture(scope="module")
def sweep(folder: Path, vector: Path, probe: Path, place: Path) -> list[object]:
    """A sweep's command but for its `--out`: unsteered, steered and gated, thinking cut short at six tokens."""
    items = [
        {"id": f"sum-{i}", "prompt": f"What is {i} + 1?", "answers": [str(i + 1)], "kind": "number"}
        for i in SUMS
    ]
    suite = write_lines(place / "sums.jsonl", items)
    grid = ["--vector", vector, "--layers", LAYER, "--strengths", STRENGTH, "--control-strengths", "none"]
    axes = ["--axis", "edit=thinking-budget@tokens=6", "--axis", f"gate=none,{probe}"]
    return ["sweep", "--model", folder, *grid, *axes, "--suite", suite, "--max-new-tokens", TOKENS]


@pytest.fixture(scope="module")
def run(sweep: list[object], place: Path) -> RunDirectory:
    """The sweep, killed on its way and begun again."""
    records = place / "run" / "records.jsonl"
    process = subprocess.Popen(
        command(*sweep, "--out", place / "run", "--batch-size", 3),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    while process.poll() is None and not (records.exists() and records.read_bytes().count(b"\n") > 4):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    begun = records.read_bytes().count(b"\n")
    steerkit(*sweep, "--out", place / "run")
    resumed = RunDirectory(place / "run")
    assert 4 < begun < len(list(resumed.records()))
    return resumed


@pytest.fixture(scope="module")
def generated(folder: Path, vector: Path) -> tuple[str, str]:
    """What `generate` completes, unsteered and steered."""
    asked = ["--max-new-tokens", TOKENS, "--steer", f"{vector}@layer={LAYER},strength={STRENGTH}"]
    out, _ = steerkit("generate", "--model", folder, "--compare", "--json", *asked, QUESTION)
    unsteered, steered = (row["completion"] for row in json.loads(out))
    return unsteered, steered


def test_a_killed_and_resumed_packed_sweep_has_the_records_of_one_that_ran_row_by_row(
    run: RunDirectory, sweep: list[object], place: Path
) -> None:
    steerkit(*sweep, "--out", place / "undisturbed", "--batch-size", 1)
    assert contents(run.path) == contents(place / "undisturbed")


def test_what_steers_a_cell_shows_in_its_completions(run: RunDirectory) -> None:
    completions = {cell: [record.completion for record in run.records([cell])] for cell in run.cells}
    assert len(completions) == 4  # unsteered, cut short, and that steered and gated
    for cell, said in completions.items():
        assert all(("</think>" in each) == bool(run.cells[cell].interventions) for each in said)
    cut = next(cell.id for cell in run.cells.values() if cell.role == "edited")
    steered = {"gate=" in cell.spec: cell.id for cell in run.cells.values() if cell.role == "steered"}
    gated, always = steered[True], steered[False]
    assert not set(completions[always]) & set(completions[cut])
    fired = [record.gates[0].fired for record in run.records([gated])]
    assert completions[gated] == [completions[always if on else cut][i] for i, on in enumerate(fired)]


def test_a_report_has_a_row_a_cell(run: RunDirectory) -> None:
    out, _ = steerkit("report", run.path, "--json")
    assert len(json.loads(out)["rows"]) == len(run.cells)
    assert (run.path / "report.html").is_file()


def test_chains_that_a_budget_closed_are_tested_under_their_cells(run: RunDirectory, folder: Path) -> None:
    asked = ["--tests", "early,logprob", "--points", 2, "--limit", 2, "--json"]
    out, _ = steerkit("faithfulness", run.path, "--model", folder, *asked)
    rows = {row["cell"]: row["levels"] for row in json.loads(out)["rows"]}
    assert rows.keys() == run.cells.keys()
    for cell, levels in rows.items():
        assert levels["chain_whole"]["value"] == float(bool(run.cells[cell].interventions))


def test_steered_generation_is_that_of_transformers_under_a_hook_by_hand(
    model: LanguageModel, vector: Path, generated: tuple[str, str]
) -> None:
    ids = model.renderer.encode(model.renderer.render(QUESTION))
    direction = STRENGTH * load_vector(vector).direction[LAYER]

    def steer(_block: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output[:, -1] += direction  # the newest position: the prompt's last token, then the completion's
        return output

    handle = model.hf.model.layers[LAYER].register_forward_hook(steer)
    made = model.hf.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    handle.remove()
    unsteered, steered = generated
    assert steered == model.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip()
    assert unsteered != steered


def test_chat_says_what_generate_says_and_follows_its_dial(
    folder: Path, vector: Path, generated: tuple[str, str]
) -> None:
    talk = f"{QUESTION}\n/clear\n/off\n{QUESTION}\n/quit\n"
    asked = ["--max-new-tokens", TOKENS, "--steer", f"{vector}@layer={LAYER},strength={STRENGTH}"]
    out, _ = steerkit("chat", "--model", folder, *asked, stdin=talk)
    unsteered, steered = (completion.translate(NOT_PRINTED) for completion in generated)
    assert out == f"{steered}\n{unsteered}\n"


def test_a_calibrated_strength_meets_its_target(folder: Path, vector: Path, place: Path) -> None:
    out = place / "calibrated.safetensors"
    asked = ["--layers", LAYER, "--target-kl", 0.2, "--limit", 2, "--max-new-tokens", 6, "--out", out]
    printed, _ = steerkit("calibrate", "--model", folder, "--vector", vector, *asked, "--json")
    result = json.loads(printed)
    (layer,) = result["layers"]
    assert layer["at_strength"]["kl"]["mean"] == pytest.approx(0.2, rel=result["tolerance"])
    assert load_vector(out).metadata.calibration


def test_a_probe_reads_every_layer(probe: Path) -> None:
    metadata = load_probe(probe).metadata
    assert len(metadata.auroc) == 12
    assert metadata.auroc[metadata.layer] > 0.9
