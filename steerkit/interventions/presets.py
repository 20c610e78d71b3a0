"""The named interventions that travel with the package (`data/presets.json`)."""

from __future__ import annotations

import functools
from typing import Any

from steerkit.interventions.base import Intervention, preset_forms
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.prompt_edit import PromptEdit


@functools.cache
def presets() -> dict[str, Intervention]:
    """Return the presets by name."""
    return {name: _made(name, **form) for name, form in preset_forms().items()}


def _made(name: str, **form: Any) -> Intervention:
    if "openers" in form:
        return OpenerBias(tuple(form["openers"]), form["bias"], name)
    return PromptEdit(**form, name=name)
