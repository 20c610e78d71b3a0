"""Every command of the README and of the guides, run as written, in the order in which a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import steerkit

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# A page whose commands need what only its reader has shows them as `sh`.
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of code of a page: their languages and texts."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Return the commands of a page's console blocks. A comment explains one; `#` stands nowhere else in them."""
    consoles = "".join(text for language, text in blocks(page) if language == "console").replace("\\\n", " ")
    found = [line for line in consoles.splitlines() if line.startswith("$ ")]
    return [re.sub(r" +", " ", line.removeprefix("$ ").split("  #")[0].strip()) for line in found]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
STEERKIT = [command for command in COMMANDS if command.startswith("steerkit ")]
SCRIPTS = [text for language, text in blocks(README) if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder for all commands: later ones use what earlier ones wrote."""
    return tmp_path_factory.mktemp("readme")


def test_the_pages_have_commands_of_every_kind() -> None:
    of_the_readme = {
        shlex.split(command)[1] for command in commands(README) if command.startswith("steerkit ")
    }
    assert of_the_readme >= {"extract", "generate", "chat", "sweep", "report"}
    verbs = {shlex.split(command)[1] for command in STEERKIT}
    assert verbs >= of_the_readme | {"models", "list", "doctor", "pairs", "calibrate"}
    assert len(SCRIPTS) == 1
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130
    assert {command.split()[0] for command in COMMANDS} == {"steerkit", "make"}


@pytest.mark.models
@pytest.mark.parametrize("command", STEERKIT)
def test_a_command_runs_as_written(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = steerkit(*shlex.split(command)[1:], stdin="/strength 0.5\nHello!\n/quit\n")
    assert done.code == 0, done.err
    assert done.out.strip() or done.err.strip()
    assert "Traceback" not in done.err


def test_the_headline_table_is_the_studys() -> None:
    study = (ROOT / "experiments" / "choose_then_report" / "results.md").read_text(encoding="utf-8")
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if re.match(r"\|.*\[", line)]
    measured = [row for row in rows if re.search(r"\d\.\d\d", row)]
    assert len(measured) == 5
    for row in measured:
        cells = " | ".join(cell.strip().replace("*", "") for cell in row.strip("|").split("|")[1:])
        assert cells in study


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
    commands = re.findall(r"^ *run (steerkit .*)$", script, re.MULTILINE)
    assert len(commands) == 3
    monkeypatch.chdir(folder)
    for command in commands:
        small = command.replace("$1", "abstain-smollm2-135m-instruct")
        for option, value in (("limit", 8), ("max-new-tokens", 8), ("budget", 48), ("price-limit", 2)):
            small = re.sub(rf"--{option} \d+", f"--{option} {value}", small)
        done = steerkit(*shlex.split(small)[1:])
        assert done.code == 0, done.err
    for behaviour in ("abstention", "brevity"):
        assert (folder / "demo" / behaviour / "choose" / "report.html").is_file()
        assert '"is_better": ' in (folder / "demo" / behaviour / "tune.json").read_text(encoding="utf-8")
