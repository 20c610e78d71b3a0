"""`steerkit tune` on a tiny model: from pairs, from a vector, killed and resumed, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steerkit.interventions.vector import load_vector
from tests.command_line import steerkit

RULE = "recall s.t. tokens<=99"
SMALL = ["--limit", 8, "--max-new-tokens", 4, "--axis", "scope=completion", "--axis", "half_life=none"]


def tune(model: Path, out: Path, *more: object) -> list[object]:
    return ["tune", "--model", model, "--rule", RULE, "--out", out, *SMALL, "--allow-mismatch", *more]


@pytest.mark.slow
def test_pairs_become_a_vector_with_a_card_and_a_price(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "two words"
    asked = tune(tiny_folder, out, "--pairs", "abstention", "--layers", "1,2", "--price-limit", 4)
    done = steerkit(*asked)
    assert done.code == 0, done.err
    assert load_vector(out / "abstention.safetensors").metadata.calibration
    card = (out / "card.md").read_text()
    for line in (
        "instruction following",
        "arithmetic",
        "endless loops",
        "language",
        "refusals",
        "perplexity",
    ):
        assert f"| {line} (" in card
    result = json.loads((out / "tune.json").read_text())
    assert [line["name"] for line in result["price"][-3:]] == ["reworded", "role prompt", "plain template"]
    assert {line["verdict"] for line in result["price"]} <= {"kept", "lost", "not shown", "not measured"}
    (hint,) = [line for line in done.err.splitlines() if ": steerkit generate" in line]
    words = shlex.split(hint.partition(": steerkit ")[2])
    again = steerkit(*words, "--max-new-tokens", 3)
    assert (again.code, bool(again.out)) == (0, True), again.err
    as_json = steerkit(*asked, "--json")
    assert json.loads(as_json.out)["pick"] == result["pick"]


def test_a_killed_tune_goes_on_and_ends_the_same(
    tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    def asked(out: Path) -> list[str]:
        more = ["--vector", tiny_vector, "--layers", "1,2", "--strengths", "0.5:2:0.5", "--prompt", "none"]
        return [str(each) for each in tune(tiny_folder, out, *more, "--no-price", "--budget", 40)]

    whole = steerkit(*asked(tmp_path / "whole"))
    assert whole.code == 0, whole.err
    cut = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-m", "steerkit.cli", *asked(cut)], stderr=subprocess.DEVNULL)
    records = cut / "choose" / "records.jsonl"
    while process.poll() is None and not (records.is_file() and records.stat().st_size):
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    resumed = steerkit(*asked(cut))
    assert resumed.code == 0, resumed.err
    one, other = (json.loads((out / "tune.json").read_text()) for out in (tmp_path / "whole", cut))
    assert one["heats"] == other["heats"]
    assert (one["pick"], one["verdict"]) == (other["pick"], other["verdict"])


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ([], "--vector or --pairs"),
        (["--vector", "abstain-smollm2-135m-instruct", "--pairs", "abstention"], "one of them"),
        (["--vector", "nothing.safetensors"], "steerkit extract"),
        (["--pairs", "abstention", "--budget", "soon"], "write 2000"),
        (["--pairs", "abstention", "--axis", "colour=red"], "no axis of a grid"),
        (["--pairs", "abstention", "--prompt", "dont-know"], "dont-know"),
        (["--pairs", "abstention", "--suite", "brevity:1", "--rule", "instructions_hard"], "add the scorer"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(
    tmp_path: Path, more: list[str], remedy: str
) -> None:
    refused = steerkit("tune", "--model", "no/such-model", "--rule", RULE, "--out", tmp_path / "out", *more)
    assert refused.code == 2, refused.err
    assert remedy in refused.err
    assert "no/such-model" not in refused.err
