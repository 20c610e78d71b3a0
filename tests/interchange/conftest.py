"""Where the consumers are: each has an environment of its own, named by a variable; without it a test is skipped."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLES = {
    "llama_cpp": "STEERKIT_LLAMA_PYTHON",
    "lm_eval": "STEERKIT_LM_EVAL_PYTHON",
    "repeng": "STEERKIT_REPENG_PYTHON",
    "inspect_ai": "STEERKIT_INSPECT_PYTHON",
    "vllm": "STEERKIT_VLLM_PYTHON",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "consumers: runs another program, in an environment of its own")


def consumer_python(module: str) -> str:
    """The Python that has `module`: the one its variable names, or this one. Skips the test where there is none."""
    python = os.environ.get(VARIABLES[module], sys.executable)
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([python, "-c", found]).returncode:
        pytest.skip(f"{python} has no {module}: set {VARIABLES[module]} to a Python that has")
    return python
