"""`steerkit serve` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving.serving import WAIT, Asked


@dataclass(frozen=True)
class Process:
    """A server's process, what it printed when it was ready, and how to ask it."""

    process: subprocess.Popen[str]
    printed: tuple[str, str]
    asked: Asked

    @property
    def resident(self) -> int:
        """Kilobytes of memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def end(self, signal: int) -> tuple[int, str]:
        """Send a signal; the exit code and what it said on stderr."""
        self.process.send_signal(signal)
        _, said = self.process.communicate(timeout=WAIT)
        return self.process.returncode, said


@contextmanager
def serving(*options: Any, **environment: str) -> Iterator[Process]:
    """A server on a free port, for the block; killed at its end if it still runs."""
    words = [
        sys.executable,
        "-m",
        "steerkit.cli",
        "serve",
        "--port",
        "0",
        "--no-workbench",
        *map(str, options),
    ]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stdout is not None
        ready, example = process.stdout.readline().strip(), process.stdout.readline().strip()
        if not example:
            raise AssertionError(process.communicate()[1])
        name, _, rest = ready.partition(" is served at ")
        yield Process(process, (ready, example), Asked(rest.partition("/v1")[0], name))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
