"""The command line: one small file a verb, no logic. Heavy imports stand behind the commands that need them."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted.

    A user's mistake is one line on stderr, never a traceback.
    """
    import typer

    from steerkit.cli.app import app
    from steerkit.cli.console import forgive_encodings, report_error
    from steerkit.core.errors import SteerkitError

    # The base of all usage errors, for which Typer exports no name.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    verb = typer.main.get_command(app)
    warnings.showwarning = _in_one_line
    forgive_encodings()
    try:  # invoked here and not by Typer, which would frame its errors in boxes and hide an interruption
        with verb.make_context("steerkit", sys.argv[1:]) as context:
            verb.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except usage_error as error:
        _explain_usage(error)
        sys.exit(2)
    except SteerkitError as error:
        report_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report_error("interrupted; what was recorded is kept, and the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: nothing is wrong
        _discard_output()
    except OSError as error:
        report_error(f"{error.filename or 'the output'} cannot be read or written: {error.strerror}")
        if error.filename is None:
            _discard_output()
        sys.exit(1)


def _in_one_line(message: Warning | str, *_where: object, **_more: object) -> None:
    """Show a warning without the file and line that it comes from."""
    from steerkit.cli.console import say
    from steerkit.core.characters import one_line

    say(one_line(f"warning: {message}"))


def _explain_usage(error: Any) -> None:
    from steerkit.cli.console import report_error

    message = error.format_message().rstrip(".")
    if message:  # without one, Typer has just shown the help, because there were no arguments at all
        verb = error.ctx.command_path if error.ctx else "steerkit"
        report_error(f"{message[0].lower()}{message[1:]}; see {verb} --help")


def _discard_output() -> None:
    """Send what is still buffered for stdout nowhere: flushing it at exit would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
