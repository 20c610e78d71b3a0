"""The command line: one small file a verb, no logic. Heavy imports stand behind the commands that need them."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted; never a traceback for a user's mistake."""
    from steerkit.cli.app import app
    from steerkit.cli.console import report_error
    from steerkit.errors import SteerkitError

    try:
        app()
    except SteerkitError as error:
        report_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report_error("interrupted; what was recorded is kept, and the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: nothing is wrong
        sys.stderr.close()
        sys.exit(0)
