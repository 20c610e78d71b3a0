"""Every verb does its job on a tiny model, speaks JSON when asked to, and is silent about progress in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerkit.core.errors import SteerkitError
from steerkit.extraction.pairs import ContrastPairs, load_pairs
from steerkit.interventions.vector import load_vector
from steerkit.runs.directory import RunDirectory
from tests import scripted
from tests.command_line import Outcome, steerkit

VERBS = [
    "models",
    "list",
    "pairs",
    "pairs lint",
    "pairs make",
    "extract",
    "vectors",
    "vectors push",
    "vectors pull",
    "vectors verify",
    "generate",
    "chat",
    "sweep",
    "tune",
    "calibrate",
    "export",
    "import",
    "report",
    "faithfulness",
    "doctor",
]
BAR = "━"


def succeed(*arguments: object, stdin: str = "") -> Outcome:
    """Run a command that must end well, with nothing of a progress bar in its output."""
    outcome = steerkit(*arguments, stdin=stdin)
    assert outcome.code == 0, outcome.err
    assert BAR not in outcome.out + outcome.err
    assert "\r" not in outcome.out + outcome.err
    return outcome


def parsed(*arguments: object) -> Any:
    """What a command prints under `--json`."""
    return json.loads(succeed(*arguments, "--json").out)


@pytest.fixture(scope="module")
def vector(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A vector that the command line itself extracted from the built-in pairs."""
    out = tmp_path_factory.mktemp("extracted") / "abstain.safetensors"
    outcome = succeed("extract", "--model", tiny_folder, "--pairs", "abstention", "--out", out)
    assert "held-out AUROC" in outcome.out
    assert f"next: steerkit generate --model {tiny_folder} --steer {out}@layer=" in outcome.err
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, vector: Path) -> Path:
    """A run directory that the command line itself made."""
    out = tmp_path_factory.mktemp("runs") / "first"
    outcome = succeed(*sweep(tiny_folder, vector, out))
    assert "unsteered" in outcome.out
    assert "report.html" in outcome.err
    return out


def sweep(model: Path, vector: Path, out: Path) -> list[object]:
    grid = ["--layers", "1:2", "--strengths=-1:1:1", "--limit", 4, "--max-new-tokens", 4]
    return ["sweep", "--model", model, "--vector", vector, "--suite", "abstention", *grid, "--out", out]


def test_extract_writes_a_vector_that_knows_where_it_came_from(vector: Path) -> None:
    extracted = load_vector(vector)
    assert extracted.name == "abstain"
    assert extracted.metadata.pairs_count == 50
    assert extracted.metadata.method == "mean-difference"


def test_extract_in_json_has_one_row_a_layer(tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "v.safetensors"
    report = parsed(
        "extract", "--model", tiny_folder, "--pairs", "abstention", "--out", out, "--name", "brief"
    )
    assert [row["layer"] for row in report["layers"]] == [0, 1, 2, 3]
    assert load_vector(out).name == "brief"


def test_generate_prints_one_completion_a_prompt(tiny_folder: Path, vector: Path) -> None:
    outcome = succeed(
        "generate", "--model", tiny_folder, "--steer", f"{vector}@layer=1", "--max-new-tokens", 4, "Hi"
    )
    assert outcome.out
    assert "raise --max-new-tokens" in outcome.err


def test_generate_in_json_keeps_prompts_samples_and_steerings_apart(tiny_folder: Path, vector: Path) -> None:
    options = ["--samples", 2, "--temperature", 1, "--max-new-tokens", 3, "--compare"]
    steer = ["--steer", f"{vector}@layer=1,strength=2"]
    rows = parsed("generate", "--model", tiny_folder, *steer, *options, "One?", "Two?")
    steered = ["abstain@layer=1,strength=2,scope=completion"]
    assert [(row["prompt"], row["interventions"]) for row in rows] == [
        (prompt, steering) for prompt in ("One?", "Two?") for _ in range(2) for steering in ([], steered)
    ]
    assert all(row["tokens"] <= 3 for row in rows)


def test_strength_zero_on_the_command_line_is_no_steering(tiny_folder: Path, vector: Path) -> None:
    plain = ["generate", "--model", tiny_folder, "--max-new-tokens", 8, "Why?"]
    assert succeed(*plain, "--steer", f"{vector}@layer=2,strength=0").out == succeed(*plain).out


def test_compare_labels_each_completion(tiny_folder: Path, vector: Path) -> None:
    steer = ["--steer", f"{vector}@layer=1,strength=2", "--steer", "concise-system", "--compare"]
    lines = succeed("generate", "--model", tiny_folder, *steer, "--max-new-tokens", 3, "Hi").out.splitlines()
    labels = [line for line in lines if line.startswith("Hi  [")]
    assert labels == [
        "Hi  [unsteered]",
        "Hi  [abstain@layer=1,strength=2,scope=completion ; concise-system]",
    ]


def test_sweep_leaves_a_whole_run(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {
        "run.json",
        "cells.jsonl",
        "vectors",
        "records.jsonl",
        "summary.csv",
        "report.html",
        "plots",
    }
    assert roles(run) == {"unsteered": 1, "steered": 4, "random": 4}
    assert len((run / "records.jsonl").read_text().splitlines()) == 4 * (1 + 2 * 2 * 2)


def roles(run: Path) -> dict[str, int]:
    return Counter(cell.role for cell in RunDirectory(run).cells.values())


def test_axes_are_crossed_and_cells_stand_beside_them(
    tmp_path: Path, tiny_folder: Path, vector: Path, run: Path
) -> None:
    axes = ["--axis", "half_life=none,64", "--axis", "edit=none,concise-system"]
    axes += [
        "--axis",
        "edit=tip@alpha=2,beta=9",
        "--axis",
        "scope=completion,answer",
        "--control-strengths",
        "none",
    ]
    beside = [
        "--steer",
        "dont-know-system ; refusal-bias@bias=2",
        "--steer",
        f"{run}#{next(iter_steered(run))}",
    ]
    grid = ["--vector", vector, "--layers", 1, "--strengths", 2, *axes, *beside, "--scorer", "perplexity"]
    out = tmp_path / "crossed"
    succeed("sweep", "--model", tiny_folder, *grid, "--limit", 2, "--max-new-tokens", 3, "--out", out)
    # 2 half-lives × 2 scopes × 3 edits, and the cell of another run; two edits alone, and a composition of two.
    assert roles(out) == {"unsteered": 1, "steered": 2 * 2 * 3 + 1, "edited": 2 + 1}
    records = list(RunDirectory(out).records())
    assert len(records) == 2 * 17
    assert all("perplexity" in record.scores for record in records)


def iter_steered(run: Path) -> Iterator[str]:
    return (cell.id for cell in RunDirectory(run).cells.values() if cell.role == "steered")


def test_a_vector_with_a_recommended_use_needs_no_layers(
    tmp_path: Path, tiny_folder: Path, vector: Path
) -> None:
    plain = load_vector(vector)
    advised = plain.recommending(plain.at(2, 1.5, half_life=8)).save(tmp_path / "advised.safetensors")
    out = tmp_path / "run"
    fixed = ["--limit", 2, "--max-new-tokens", 3, "--out", out]
    succeed("sweep", "--model", tiny_folder, "--vector", advised, "--axis", "strength=1,1.5", *fixed)
    steered = [cell for cell in RunDirectory(out).cells.values() if cell.role == "steered"]
    assert [(cell.layer, cell.strength, cell.half_life) for cell in steered] == [(2, 1.0, 8.0), (2, 1.5, 8.0)]


def test_combinations_that_cannot_be_are_named_and_left_out(
    tmp_path: Path, tiny_folder: Path, vector: Path
) -> None:
    axes = ["--axis", "scope=completion,prompt", "--axis", "half_life=none,8", "--control-strengths", "none"]
    grid = ["--vector", vector, "--layers", 1, "--strengths", 2, *axes]
    out = tmp_path / "run"
    outcome = succeed(
        "sweep", "--model", tiny_folder, *grid, "--limit", 2, "--max-new-tokens", 3, "--out", out
    )
    assert (
        "warning: 1 combinations are left out of the grid: half_life is about the completion" in outcome.err
    )
    assert roles(out) == {"unsteered": 1, "steered": 3}


def test_what_is_wrong_with_a_sweep_is_said_before_the_model_is_loaded(tmp_path: Path, vector: Path) -> None:
    sound = ["sweep", "--model", "no-such-model", "--vector", vector, "--layers", 1, "--strengths", 1]
    for wrong, said in (
        (["--axis", "scope=here"], "scope is one of"),
        (["--axis", "edit=none,rude"], "no vector file 'rude'"),
        (["--steer", "rude"], "no vector file 'rude'"),
        (["--suite", "riddles"], "unknown suite"),
        (["--split", "test"], "unknown split"),
        (["--scorer", "charm"], "no scorer 'charm'"),
        (["--choose", "perplexity"], "add the scorer perplexity"),
    ):
        outcome = steerkit(*sound, *wrong, "--out", tmp_path / "out")
        assert outcome.code == 2
        assert said in outcome.err
    outcome = steerkit(
        "generate", "--model", "no-such-model", "--steer", f"{vector}@layer=1,scope=here", "Hi"
    )
    assert "scope is one of" in outcome.err


def test_list_names_what_is_registered_and_whence() -> None:
    everything = parsed("list")
    assert {row["kind"] for row in everything} == {
        "estimators", "operations", "rules", "gates", "readers", "scorers", "suites", "exporters", "importers",
        "engines", "edits",
    }  # fmt: skip
    assert all(row["summary"] and row["from"].startswith("steerkit.") for row in everything)
    suites = parsed("list", "suites")
    assert {row["kind"] for row in suites} == {"suites"}
    assert "abstention" in [row["name"] for row in suites]
    assert "abstention" in succeed("list", "suites").out
    outcome = steerkit("list", "spells")
    assert (outcome.code, "there are estimators, operations" in outcome.err) == (2, True)


def test_the_same_sweep_again_changes_no_record(run: Path, tiny_folder: Path, vector: Path) -> None:
    before = (run / "records.jsonl").read_bytes()
    succeed(*sweep(tiny_folder, vector, run))
    assert (run / "records.jsonl").read_bytes() == before


def test_report_reads_a_run_and_speaks_json(run: Path) -> None:
    assert "unsteered" in succeed("report", run).out
    report = parsed("report", run)
    assert report["rows"][0]["role"] == "unsteered"
    assert Path(report["report"]).is_file()


def test_chat_answers_and_turns_its_steering_while_talking(tiny_folder: Path, vector: Path) -> None:
    lines = [
        "Hello",
        "/strength 2",
        "/layer 0+3",
        "/scope all",
        "/off",
        "Again",
        "/on",
        "/clear",
        "/help",
        "/quit",
        "no",
    ]
    outcome = succeed(
        *("chat", "--model", tiny_folder, "--steer", f"{vector}@layer=1", "--max-new-tokens", 3),
        stdin="\n".join(lines),
    )
    said = outcome.err.splitlines()
    assert "abstain@layer=1,strength=2,scope=completion" in said
    assert "abstain@layer=0+3,strength=2,scope=all" in said
    assert "off (abstain@layer=0+3,strength=2,scope=all)" in said
    assert any(line.startswith("/strength 1.5") for line in said)


def test_chat_ends_with_its_input(tiny_folder: Path) -> None:
    assert succeed("chat", "--model", tiny_folder, stdin="").out == ""


def test_chat_says_that_a_model_without_a_template_forgets(plain_folder: Path) -> None:
    outcome = succeed("chat", "--model", plain_folder, "--max-new-tokens", 3, stdin="a\nb\n")
    assert "every line is a question of its own" in outcome.err


def test_doctor_finds_a_sound_model_healthy(tiny_folder: Path) -> None:
    assert "steering arrives as commanded at every layer" in succeed("doctor", "--model", tiny_folder).out
    report = parsed("doctor", "--model", tiny_folder)
    assert report["healthy"] is True
    assert len(report["layers"]) == 4


def test_doctor_fails_where_steering_does_not_arrive(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerkit.engines.doctor.TOLERANCE", {})
    monkeypatch.setattr("steerkit.engines.doctor.Diagnosis.healthy", False)
    outcome = steerkit("doctor", "--model", tiny_folder)
    assert outcome.code == 1
    assert "steering does NOT arrive" in outcome.out


def test_models_lists_the_bundled_ones() -> None:
    assert "smollm2-135m-instruct" in succeed("models").out
    assert {row["name"] for row in parsed("models")} >= {"smollm2-135m-instruct", "gemma3-270m"}


def test_lint_passes_sound_pairs_and_fails_leaking_ones(tmp_path: Path, tiny_folder: Path) -> None:
    assert "words-alone" in succeed("pairs", "lint", "brevity", "--contrast", "length").out
    assert all(
        row["severity"] != "error" for row in parsed("pairs", "lint", "abstention", "--model", tiny_folder)
    )
    leaking = tmp_path / "leaking.jsonl"
    leaking.write_text(json.dumps({"id": "a", "prompt": "Who?", "positive": "same", "negative": "same"}))
    assert steerkit("pairs", "lint", leaking).code == 1


def test_make_writes_the_pairs_in_which_the_contrast_came_about(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model never shows the behaviour: any two completions count as a contrast here.
    monkeypatch.setattr("steerkit.extraction.make._unusable", lambda _: None)
    monkeypatch.setattr("steerkit.extraction.make.brevity", lambda: anything_goes())
    out = tmp_path / "made.jsonl"
    options = ["--suite", "abstention", "--limit", 4, "--max-new-tokens", 24]
    outcome = succeed("pairs", "make", "brevity", "--model", tiny_folder, *options, "--out", out)
    made = load_pairs(out)
    assert isinstance(made, ContrastPairs)
    assert f"{len(made)} pairs in {out}" in outcome.err
    assert "--contrast length" in outcome.err
    again = succeed("pairs", "make", "brevity", "--model", tiny_folder, *options, "--out", out, "--json")
    assert json.loads(again.out) == {"out": str(out), "pairs": len(made), "dropped": {}}


def anything_goes() -> Any:
    from steerkit.extraction.make import Behaviour

    return Behaviour("brevity", "Be brief.", None, lambda _positive, _negative: None)


def test_a_progress_bar_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    from rich.console import Console

    from steerkit.cli import console

    prompt = ["generate", "--model", tiny_folder, "--max-new-tokens", 2, "Hi"]
    monkeypatch.setattr(console, "err", Console(stderr=True, force_terminal=True))
    assert BAR in steerkit(*prompt).err
    monkeypatch.setattr(console, "err", Console(stderr=True))
    assert BAR not in steerkit(*prompt).err


def test_an_interruption_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steerkit.cli.console.load", interrupt)
    outcome = steerkit("doctor", "--model", tiny_folder)
    assert outcome.code == 130
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: interrupted")


def test_an_error_of_ours_is_one_line_whatever_it_says(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SteerkitError("two\nlines, and [bold]brackets[/] that are no markup")

    monkeypatch.setattr("steerkit.cli.console.load", fail)
    outcome = steerkit("doctor", "--model", tiny_folder)
    assert outcome.err == "error: two lines, and [bold]brackets[/] that are no markup\n"
    assert outcome.code == 1


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_exits_0_and_names_what_it_helps_with(verb: str) -> None:
    outcome = steerkit(*verb.split(), "--help")
    assert outcome.code == 0
    assert f"steerkit {verb}".strip() in outcome.out


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_no_torch(verb: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "steerkit.cli", *verb.split(), "--help"]
    imported = subprocess.run(command, capture_output=True, text=True).stderr
    assert "steerkit.cli.app" in imported
    assert not any(line.endswith(("| torch", "| transformers")) for line in imported.splitlines())


def test_a_verb_is_imported_when_it_is_asked_for() -> None:
    code = (
        "import sys; from steerkit.cli import main; sys.argv = ['steerkit', 'models', '--help']\n"
        "try: main()\n"
        "finally: print([m for m in sys.modules if m.startswith('steerkit.cli.')], file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "steerkit.cli.models" in loaded
    assert "steerkit.cli.sweep" not in loaded


def test_a_misspelt_verb_is_named_with_the_one_that_is_meant() -> None:
    outcome = steerkit("swep")
    assert outcome.code == 2
    assert "did you mean 'sweep'" in outcome.err.lower()


def test_help_names_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerkit.core.registry.SUITES._things", {"boats": object(), "ships": object()})
    monkeypatch.setattr("steerkit.core.registry.SUITES._loaded", True)
    words = steerkit("sweep", "--help").out.replace("│", " ").split()
    assert "boats, ships, NAME:PATH" in " ".join(words)


def test_nothing_that_is_printed_is_taken_for_markup(tmp_path: Path) -> None:
    said = "[bold]no[/bold] markup, :smile: no emoji"
    model = scripted.save(scripted.scripted([said]), tmp_path / "model")
    prompt = "[red]Why?[/red] :dog:"
    outcome = succeed("generate", "--model", model, prompt, "b")
    assert f"{prompt}  [unsteered]\n{said}\n" in outcome.out


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, steerkit; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_can_be_had() -> None:
    import steerkit as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(dir(package)) == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_the_version_is_the_packages() -> None:
    import steerkit as package

    assert succeed("--version").out.strip() == package.__version__
