"""Ramps fitted to a model: between which readings a strength should rise or fall is read off one unsteered pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Completion, Decoding
from steerkit.engines.generate import generate
from steerkit.engines.transformers.layout import line_ends
from steerkit.engines.transformers.table import LINE_END, STEP_END
from steerkit.interventions.following import Renewed, StrengthRamp
from steerkit.interventions.readers import Reader
from steerkit.models import LanguageModel

FEWEST_READINGS = 20


def fit_ramp(
    lm: LanguageModel,
    prompts: Iterable[Prompt],
    reader: Reader | str,
    *,
    least: float = -1.0,
    most: float = 1.0,
    renewed: Renewed = "boundaries",
    quantiles: tuple[float, float] = (0.1, 0.9),
    decoding: Decoding = Decoding(256),
    **options: Any,
) -> StrengthRamp:
    """Return a ramp whose ends are quantiles of what `reader` says of the unsteered model's own completions.

        ramp = sk.fit_ramp(lm, problems, "log-probability")
        vector.at(12, 1.5, scope="thinking", follows=ramp)

    The prompts are completed once, and read where the ramp will look: at every token or where lines or steps begin
    (`renewed`). With `least` -1 one vector is turned by size and sign between the model's own low and high confidence,
    fitted on one pass, in the manner of ReBalance (arXiv 2603.12372); its function of confidence and variance is
    another one. `options` are those of `sk.generate`. Raises MisuseError where there are fewer than 20 readings, or
    all are the same.
    """
    below, above = (check_number("a quantile", q) for q in quantiles)
    if not 0 <= below < above <= 1:
        raise MisuseError(f"quantiles lie in order between 0 and 1, got {below:g} and {above:g}")
    completions = generate(lm, list(prompts), read=[reader], read_prompt=False, decoding=decoding, **options)
    values = [value for completion in completions for value in _looked_at(lm, completion, renewed)]
    if len(values) < FEWEST_READINGS:
        raise MisuseError(
            f"{len(values)} readings at {renewed} of {len(completions)} completions, and a ramp is fitted to at least "
            f"{FEWEST_READINGS}: give more prompts, longer completions, or renewed='lines' or 'every'"
        )
    low, high = np.quantile(values, [below, above]).tolist()
    if low == high:
        raise MisuseError(f"{str(reader)!r} reads {low:g} nearly everywhere: a ramp has no width there")
    return StrengthRamp(completions[0].readings[0].reader, low, high, least, most, renewed=renewed)


def _looked_at(lm: LanguageModel, completion: Completion, renewed: Renewed) -> Sequence[float]:
    """What was read where a ramp looks again: behind each end of a line or step, and at the beginning."""
    values = completion.readings[0].completion
    if renewed == "every" or not values:
        places: Sequence[int] = range(len(values))
    else:
        least = STEP_END if renewed == "boundaries" else LINE_END
        ends = line_ends(torch.tensor([completion.token_ids], device=lm.device), lm.line_breaks)[0]
        places = [0, *(i + 1 for i, end in enumerate(ends.tolist()) if end >= least and i + 1 < len(values))]
    there = [values[place] for place in places]
    return [value for value in there if value is not None and np.isfinite(value)]
