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
class Consumer:
    """A Python package that reads an export; `requirement` is what pip needs to install it."""

    name: str
    module: str
    requirement: str
    probe: str

    def check(self, python: str | os.PathLike[str] | None) -> str:
        """The interpreter that has this package: `python`, or our own.

        Raises MisuseError where `python` is no program, SteerkitError where it lacks the package.
        """
        interpreter = os.fspath(python or sys.executable)
        looked_up = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self.module!r}) is None)"
        try:
            found = subprocess.run([interpreter, "-c", looked_up], capture_output=True)
        except OSError as error:
            raise MisuseError(
                f"cannot run {interpreter}: {error.strerror}; --consumer-python is the Python of the environment that "
                f"has {self.name}"
            ) from error
        if found.returncode:
            raise SteerkitError(
                f"cannot verify: {interpreter} has no {self.name}; install it in an environment of its own (python -m "
                f"venv consumer && consumer/bin/pip install '{self.requirement}') and pass --consumer-python "
                "consumer/bin/python"
            )
        return interpreter

    def ask(self, interpreter: str, request: dict[str, Any]) -> dict[str, Any]:
        """Run the probe on `request` and return its answer. Raises SteerkitError with its last line if it fails."""
        probe = Path(__file__).parent / "probes" / self.probe
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "request.json"
            file.write_text(json.dumps(request), encoding="utf-8")
            done = subprocess.run([interpreter, str(probe), str(file)], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise SteerkitError(f"{self.name} cannot use the export: {lines[-1]}")
        return json.loads(done.stdout.strip().splitlines()[-1])


LLAMA_CPP = Consumer("llama-cpp-python", "llama_cpp", "llama-cpp-python==0.3.36", "llama_cpp_probe.py")
LM_EVAL = Consumer("lm-eval", "lm_eval", "lm_eval[hf]==0.4.13", "lm_eval_probe.py")
