"""The real command line inside the test's own process: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from steerkit.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def steerkit(*arguments: object, stdin: str = "") -> Outcome:
    """Run `steerkit ARGUMENTS…`, as a shell would, with neither stdout nor stderr a terminal."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["steerkit", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 1
    return Outcome(code, out.getvalue(), err.getvalue())
