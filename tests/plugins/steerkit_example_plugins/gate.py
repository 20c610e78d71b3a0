"""A gate: `--steer VECTOR@layer=2,gate=mentions-a-year,threshold=0.5`, `gate="mentions-a-year"`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import steerkit as sk
from steerkit.interventions.detectors import text_of

if TYPE_CHECKING:
    from steerkit import LanguageModel


@sk.gate("mentions-a-year")
def mentions_a_year(prompts: Sequence[Any], _lm: LanguageModel) -> list[float]:
    """Whether the prompt mentions a year."""
    return [1.0 if re.search(r"\b[12][0-9]{3}\b", text_of(prompt)) else 0.0 for prompt in prompts]
