"""The law that every command line keeps, whatever it was given.

1. It ends with exit code 0, 1 or 2; no exception escapes, nothing hangs.
2. With 1 or 2, stderr has one line that says what is wrong, beginning with `error: `; before it only notices (a warning
   of one line, what is being fetched or converted). A verb whose finding is the failure (a lint error, a steering that
   does not arrive) says it on stdout instead.
3. Nothing looks like a traceback, or like a Python warning with the file that it comes from.
4. Nothing is written but below the folders that belong to the run, and the cache; no scratch file stays there;
   what every run shares is as it was.
5. `--json` prints valid JSON, in `generate` with each completion as the engine gave it; without it, one completion goes
   to a UTF-8 pipe letter by letter.
6. Nothing on stdout acts on a terminal.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from steerkit.cli import main
from steerkit.core.characters import ACTING
from steerkit.engines.transformers.engine import TransformersEngine
from tests.fuzz.commands import Command

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds after which a run counts as hung; most take a fifth of one
NOTICES = (
    "warning: ",
    "fetching",
    "converting",
    "? stands for what",
    "nothing to compare",
    "(cut off at ",
    "dropped ",
    "wrote ",
)
FINDINGS = ("pairs lint", "doctor", "models", "export")  # verbs that may fail by what they found
TRACE = re.compile(r"Traceback \(most recent|\.py:\d+: \w*Warning|^  File \"", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
DRAWN = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|\r")  # what a progress bar does on a terminal
DEVICES = ("/dev/", "/proc/")


@dataclass
class Outcome:
    """What a run left behind; `code` is None where it did not end by itself."""

    code: int | None
    out: str
    err: str
    escaped: str = ""
    completions: list[str] | None = None
    strays: list[str] = field(default_factory=list)

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.strip().rpartition("\n")[2][:200]

    def __str__(self) -> str:
        return f"exit {self.code}\nstdout: {self.out[-500:]!r}\nstderr: {self.err[-1500:]!r}"


class Hung(BaseException):
    """A run took longer than `PATIENCE`; no handler of errors takes it for one."""


class _Stream(io.TextIOWrapper):
    """A pipe's or a terminal's stream that keeps what is written."""

    def __init__(self, encoding: str, *, terminal: bool) -> None:
        self.kept = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.kept, encoding=encoding, newline="", write_through=True)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.terminal

    def text(self) -> str:
        """What was written."""
        return self.kept.getvalue().decode(self.encoding, "replace")


class _CurrentStderr:
    """A stream for handlers of logs that were made once: whatever stderr is now."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Watch:
    """Sees what this process opens for writing, makes or renames, outside the allowed folders."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.strays: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        match event:
            case "open":
                path, _, flags = arguments
                writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if not writes or isinstance(path, int):
                    return
            case "os.mkdir" | "os.remove" | "os.rmdir" | "os.chmod" | "os.truncate":
                path = arguments[0]
            case "os.rename" | "os.link" | "os.symlink":
                path = arguments[1]
            case _:
                return
        if isinstance(path, int):
            return
        full = os.path.abspath(os.fsdecode(path))
        if not f"{full}/".startswith(self.allowed) and "__pycache__" not in full:
            self.strays.append(f"{event} {full}")

    @contextmanager
    def on(self, *folders: Path) -> Iterator[list[str]]:
        """Watch while the block runs; the list fills with what was written elsewhere."""
        self.strays = []
        self.allowed = (*(f"{folder}/" for folder in folders), *DEVICES)
        try:
            yield self.strays
        finally:
            self.allowed = None


WATCH = _Watch()


def run(command: Command, here: Path, cache: Path, scratch: Path) -> Outcome:
    """Run a command in this process, in the folder `here`, as a shell would."""
    terminal = command.columns is not None
    out = _Stream("utf-8" if terminal else command.encoding, terminal=terminal)
    err = _Stream("utf-8" if terminal else command.encoding, terminal=terminal)
    err.reconfigure(errors="backslashreplace")
    given = io.TextIOWrapper(io.BytesIO(command.stdin), encoding="utf-8")
    outcome, completions = Outcome(0, "", ""), list[str]()
    sound = TransformersEngine.generate

    def heard(engine: Any, requests: Any) -> Iterator[Any]:
        for completion in sound(engine, requests):
            completions.append(completion.text)
            yield completion

    environment = {"TERM": command.term, "STEERKIT_CACHE": str(cache)}
    environment |= {} if command.columns is None else {"COLUMNS": str(command.columns), "LINES": "24"}
    before = Path.cwd()
    with ExitStack() as held:
        held.enter_context(mock.patch.dict(os.environ, environment))
        held.enter_context(mock.patch.object(sys, "argv", ["steerkit", *command.arguments]))
        held.enter_context(mock.patch.object(sys, "stdin", given))
        held.enter_context(mock.patch.object(tempfile, "tempdir", str(scratch)))
        held.enter_context(mock.patch.object(TransformersEngine, "generate", heard))
        held.enter_context(redirect_stdout(out))
        held.enter_context(redirect_stderr(err))
        held.enter_context(warnings.catch_warnings())
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # as Python does by itself
        held.enter_context(_patience())
        os.chdir(here)
        held.callback(os.chdir, before)
        strays = held.enter_context(WATCH.on(here.parent, cache))
        try:
            main()
        except SystemExit as done:
            outcome.code = done.code if isinstance(done.code, int) else 1
        except BaseException:
            outcome.code, outcome.escaped = None, traceback.format_exc()
    outcome.out, outcome.err = out.text(), err.text()
    outcome.completions, outcome.strays = completions, list(strays)
    return outcome


def run_process(command: Command, here: Path, cache: Path, scratch: Path) -> Outcome:
    """Run a command in a process of its own, its stdout a pipe of an odd encoding or a terminal of an odd kind."""
    environment = os.environ | {"TERM": command.term, "STEERKIT_CACHE": str(cache), "TMPDIR": str(scratch)}
    environment |= {"PYTHONPATH": os.fspath(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {} if command.columns is None else {"COLUMNS": str(command.columns), "LINES": "24"}
    environment |= {"PYTHONIOENCODING": command.encoding} if command.columns is None else {"LC_ALL": "C"}
    words = [sys.executable, "-m", "steerkit.cli", *command.arguments]
    given, said = scratch / "given", scratch / "said"
    given.write_bytes(command.stdin)
    before = _snapshot(cache)
    with given.open("rb") as stdin, said.open("wb") as stderr:
        ours, theirs = os.openpty() if command.columns is not None else os.pipe()
        with subprocess.Popen(
            words, stdin=stdin, stdout=theirs, stderr=stderr, cwd=here, env=environment
        ) as process:
            os.close(theirs)
            out = b"".join(iter(lambda: _read_some(ours), b""))
            os.close(ours)
            code = process.wait(PATIENCE)
    encoding = "utf-8" if command.columns is not None else command.encoding
    shown = out.decode(encoding, "replace").replace("\r\n", "\n")
    strays = [f"{path} {held}" for path, held in before ^ _snapshot(cache)]
    return Outcome(code, shown, said.read_bytes().decode(encoding, "replace"), strays=strays)


def _snapshot(cache: Path) -> set[tuple[Path, tuple[int, int]]]:
    """Path, size and time of every file beside the cache, which all runs share."""
    files = (path for path in cache.parent.rglob("*") if path.is_file() and path.name != ".lock")
    kept = (path for path in files if not path.is_relative_to(cache))
    return {(path, (path.stat().st_size, path.stat().st_mtime_ns)) for path in kept}


def _read_some(stream: int) -> bytes:
    try:
        return os.read(stream, 65536)
    except OSError:  # a terminal whose other side is closed
        return b""


@contextmanager
def _patience() -> Iterator[None]:
    def hung(*_: object) -> None:
        raise Hung(f"not done after {PATIENCE} s")

    former = signal.signal(signal.SIGALRM, hung)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def show_logs_where_stderr_is() -> None:
    """Let the libraries' handlers of logs write to the stderr of the run, which they would not see."""
    import transformers  # noqa: F401  # makes its handler
    from transformers.utils import logging as made

    made.get_logger()
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(_CurrentStderr())


def faults(command: Command, outcome: Outcome, here: Path) -> list[str]:
    """Return how a run breaks the law."""
    if outcome.escaped:
        return [f"an exception escapes:\n{outcome.escaped}"]
    found = []
    verb = command.verb
    if outcome.code not in (0, 1, 2):
        found.append(f"exit code {outcome.code}")
    for name, text in (("stdout", outcome.out), ("stderr", outcome.err)):
        if trace := TRACE.search(text):
            found.append(f"{name} has a traceback or a warning with its source: {trace[0]!r}")
    lines = DRAWN.sub("", outcome.err).split("\n")[:-1]
    errors = [line for line in lines if line.startswith("error: ")]
    if outcome.code in (1, 2):
        if not errors and ((outcome.code == 1 and verb in FINDINGS) or _is_help(command, outcome)):
            pass
        elif len(errors) != 1 or lines[-1] != errors[0]:
            found.append(f"{len(errors)} lines say what is wrong, or they are not the last")
        else:
            notices = lines[:-1] if verb != "chat" and command.columns is None else []
            if odd := [line for line in notices if not line.startswith(NOTICES)]:
                found.append(f"lines on stderr that are no notices: {odd[:3]}")
    elif outcome.code == 0 and errors and verb != "chat":
        found.append("an error is said, and the exit code is 0")
    if verb == "generate" and outcome.code == 0 and outcome.completions:
        found += _text_faults(command, outcome.out, outcome.completions)
    on_terminal = command.columns is not None and verb != "chat"
    seen = re.sub(r"[\n\t]", "", COLOUR.sub("", outcome.out)) if on_terminal else ""
    if acting := ACTING.search(seen):
        found.append(f"stdout acts on a terminal: {acting[0]!r}")
    if outcome.strays:
        found.append(f"written outside the folder: {outcome.strays[:3]}")
    left = [path.name for path in here.rglob(".*-????????*") if path.is_file()]
    if left:
        found.append(f"scratch files are left: {left[:3]}")
    if (here / "RAN-FROM-A-PICKLE").exists():
        found.append("code from a pickle was run")
    return found


def _is_help(command: Command, outcome: Outcome) -> bool:
    """Whether a group of verbs was named without one of them, which shows its help."""
    return command.arguments in ((), ("pairs",)) and outcome.code == 2 and bool(outcome.out)


def _text_faults(command: Command, out: str, completions: list[str]) -> list[str]:
    """Return how the completions of a `generate` were not printed as they are."""
    if "--json" in command.arguments[: [*command.arguments, "--"].index("--")]:
        try:
            shown = sorted(row["completion"] for row in json.loads(out))
        except ValueError as error:
            return [f"--json prints no JSON: {error}"]
        return [] if shown == sorted(completions) else [f"JSON has other completions: {shown[:2]!r}"]
    plain = command.columns is None and command.encoding == "utf-8" and len(completions) == 1
    if plain and out != f"{completions[0]}\n":
        return [f"the completion {completions[0][:200]!r} was not printed as it is"]
    return []
