"""Every command of the README, run as written, in the order in which a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import steerkit

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# A trailing comment explains a command; `#` stands nowhere else in them.
COMMANDS = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
    if line.startswith("$ ")
]
STEERKIT = [command for command in COMMANDS if command.startswith("steerkit ")]
SCRIPTS = [text for language, text in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder for all commands: later ones use what earlier ones wrote."""
    return tmp_path_factory.mktemp("readme")


def test_the_readme_has_commands_of_every_kind() -> None:
    verbs = {shlex.split(command)[1] for command in STEERKIT}
    assert verbs >= {"extract", "generate", "chat", "sweep", "report", "models", "doctor", "pairs"}
    assert len(SCRIPTS) == 1
    assert {command.split()[0] for command in COMMANDS} == {"steerkit", "make"}


@pytest.mark.models
@pytest.mark.parametrize("command", STEERKIT)
def test_a_command_of_the_readme_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = steerkit(*shlex.split(command)[1:], stdin="/strength 0.5\nHello!\n/quit\n")
    assert done.code == 0, done.err
    assert done.out.strip() or done.err.strip()
    assert "Traceback" not in done.err


@pytest.mark.models
def test_the_python_of_the_readme_runs(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTS[0]], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "notebook" / "report.html").is_file()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_a_make_target_of_the_readme_is_there(command: str) -> None:
    """`make test` runs this very test; `make demo` is the script below, whose commands are the README's own."""
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.models
def test_the_demo_runs_at_a_small_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the demo script, with fewer items and tokens."""
    script = (ROOT / "experiments" / "demo" / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^run (steerkit .*)$", script, re.MULTILINE)
    assert len(commands) == 4
    monkeypatch.chdir(folder)
    for command in commands:
        small = re.sub(
            r"--limit \d+", "--limit 8", re.sub(r"--max-new-tokens \d+", "--max-new-tokens 8", command)
        )
        done = steerkit(*shlex.split(small)[1:])
        assert done.code == 0, done.err
    assert (folder / "demo" / "abstention" / "report.html").is_file()
    assert (folder / "demo" / "brevity" / "report.html").is_file()
