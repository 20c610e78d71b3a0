"""Where the consumers are: each has an environment of its own; without it a test is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENTS = Path(__file__).parents[2] / ".venvs"
PLACES = {
    "llama_cpp": ("STEERKIT_LLAMA_PYTHON", "llama"),
    "lm_eval": ("STEERKIT_LM_EVAL_PYTHON", "lm-eval"),
    "repeng": ("STEERKIT_REPENG_PYTHON", "repeng"),
    "inspect_ai": ("STEERKIT_INSPECT_PYTHON", "inspect"),
    "vllm": ("STEERKIT_VLLM_PYTHON", "vllm"),
    "sae_lens": ("STEERKIT_SAELENS_PYTHON", "saelens"),
}


def consumer_python(module: str) -> str:
    """The Python that has `module`: the one its variable names, the one `make` made, or this one; else a skip."""
    variable, name = PLACES[module]
    made = ENVIRONMENTS / name / "bin" / "python"
    python = os.environ.get(variable) or (str(made) if made.exists() else sys.executable)
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([python, "-c", found]).returncode:
        pytest.skip(f"{python} has no {module}: make test-consumers, or set {variable} to a Python that has")
    return python
