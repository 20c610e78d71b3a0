"""Running another program's Python: its environment is separate from ours, and it may not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError


@dataclass(frozen=True, slots=True)
class Program:
    """A Python package that reads an export; `requirement` is what pip needs to install it, `probe` what asks it."""

    name: str
    module: str
    requirement: str
    probe: str

    def check(self, python: str | os.PathLike[str] | None) -> Path:
        """The interpreter that has this package: `python`, or our own.

        Raises MisuseError where `python` is no program, SteerkitError where it lacks the package.
        """
        interpreter = Path(python or sys.executable)
        looked_up = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self.module!r}) is None)"
        try:
            found = subprocess.run([interpreter, "-c", looked_up], capture_output=True)
        except OSError as error:
            raise MisuseError(
                f"cannot run {interpreter}: {error.strerror}; the consumer's Python is that of the environment that "
                f"has {self.name}"
            ) from error
        if found.returncode:
            raise SteerkitError(
                f"cannot verify: {interpreter} has no {self.name}; install it in an environment of its own (python -m "
                f"venv consumer && consumer/bin/pip install '{self.requirement}') and name consumer/bin/python as the "
                "consumer's Python"
            )
        return interpreter

    def ask(self, interpreter: Path | None, request: dict[str, Any]) -> dict[str, Any]:
        """Run the probe on `request` and return its answer. Raises SteerkitError with its last line if it fails."""
        probe = Path(__file__).parent / "probes" / self.probe
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "request.json"
            file.write_text(json.dumps(request), encoding="utf-8")
            command = [interpreter or sys.executable, probe, file]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise SteerkitError(f"{self.name} cannot use the export: {lines[-1]}")
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


LLAMA_CPP = Program("llama-cpp-python", "llama_cpp", "llama-cpp-python==0.3.36", "llama_cpp_probe.py")
LM_EVAL = Program("lm-eval", "lm_eval", "lm_eval[hf]==0.4.13", "lm_eval_probe.py")
