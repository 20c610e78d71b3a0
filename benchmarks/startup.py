"""How long a user waits before anything happens: `import steerkit` and `steerkit --help`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.measure import take_turns
from benchmarks.rows import Row, at_most
from benchmarks.setting import Workbench

ROOT = Path(__file__).parent.parent


def run(bench: Workbench) -> Iterator[Row]:
    """Seconds in fresh processes, above those of an interpreter that does nothing."""
    python = [sys.executable, "-c"]
    variants = {
        "pass": _process([*python, "pass"]),
        "import": _process([*python, "import steerkit"]),
        "help": _process([sys.executable, "-m", "steerkit.cli", "--help"]),
    }
    seconds = take_turns(variants, bench.sizes.startup_repeats)
    for name, what, bound in (("import", "import steerkit", 0.1), ("help", "steerkit --help", 0.5)):
        yield Row.of(
            f"{what} − python -c pass",
            [ours - bare for ours, bare in zip(seconds[name], seconds["pass"], strict=True)],
            unit=" s",
            target=at_most(bound),
            seconds={key: seconds[key] for key in (name, "pass")},
        )


def _process(command: Sequence[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
