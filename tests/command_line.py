"""The real command line inside the test's own process: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from steerkit.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """It is one."""
        return True


def steerkit(*arguments: object, stdin: str = "", columns: int | None = None, term: str = "xterm") -> Outcome:
    """Run `steerkit ARGUMENTS…`, as a shell would, with neither stdout nor stderr a terminal.

    With `columns` both are one, that wide, of the kind `term`.
    """
    made = io.StringIO if columns is None else Terminal
    out, err, code = made(), made(), 0
    environment = {} if columns is None else {"COLUMNS": str(columns), "LINES": "24", "TERM": term}
    with ExitStack() as held:
        held.enter_context(mock.patch.dict(os.environ, environment))
        held.enter_context(mock.patch.object(sys, "argv", ["steerkit", *map(str, arguments)]))
        held.enter_context(mock.patch.object(sys, "stdin", io.StringIO(stdin)))
        held.enter_context(warnings.catch_warnings())  # a process forgets what it has warned of
        held.enter_context(redirect_stdout(out))
        held.enter_context(redirect_stderr(err))
        try:
            main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 1
    return Outcome(code, out.getvalue(), err.getvalue())
