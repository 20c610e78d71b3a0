"""Ramps fitted to a model: between which readings a strength should rise or fall is read off one unsteered pass."""

from __future__ import annotations

from collections.abc import Iterable

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
from steerkit.interventions.spec import Vectors, readers_of
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
    system: str | None = None,
    vectors: Vectors = None,
    batch_size: int | None = None,
) -> StrengthRamp:
    """Return a ramp whose ends are quantiles of what `reader` says of the unsteered model's own completions.

        ramp = sk.fit_ramp(lm, problems, "log-probability")
        vector.at(12, 1.5, scope="thinking", follows=ramp)

    The prompts are completed once, and read where the ramp will look: at every token or where lines or steps begin
    (`renewed`). With `least` -1 one vector is turned by size and sign between the model's own low and high confidence,
    fitted on one pass, in the manner of ReBalance (arXiv 2603.12372); its function of confidence and variance is
    another one. `vectors` are where a spec string's names are looked for. Raises MisuseError where there are fewer than
    20 readings, or all are the same.
    """
    (read,) = readers_of(reader, vectors)
    StrengthRamp(
        read, 0.0, 1.0, least, most, renewed=renewed
    )  # refuses what no ramp has, before anything is run
    below, above = _checked(quantiles)
    completions = generate(
        lm,
        list(prompts),
        read=read,
        decoding=decoding,
        system=system,
        read_prompt=False,
        batch_size=batch_size,
    )
    values = [value for completion in completions for value in _looked_at(lm, completion, renewed)]
    if len(values) < FEWEST_READINGS:
        raise MisuseError(
            f"{len(values)} readings at {renewed} of {len(completions)} completions, and a ramp is fitted to at least "
            f"{FEWEST_READINGS}: give more prompts, longer completions, or renewed='lines' or 'every'"
        )
    low, high = np.quantile(values, [below, above]).tolist()
    if low == high:
        raise MisuseError(f"{str(reader)!r} reads {low:g} nearly everywhere: a ramp has no width there")
    return StrengthRamp(read, low, high, least, most, renewed=renewed)


def _checked(quantiles: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(quantiles, tuple | list) or len(quantiles) != 2:
        raise MisuseError(f"quantiles are two numbers, for low and high, got {quantiles!r}")
    below, above = (check_number("a quantile", q) for q in quantiles)
    if not 0 <= below < above <= 1:
        raise MisuseError(f"quantiles lie in order between 0 and 1, got {below:g} and {above:g}")
    return below, above


def _looked_at(lm: LanguageModel, completion: Completion, renewed: Renewed) -> list[float]:
    """What was read where a ramp looks again: at the prompt's end, of states, and behind each end of a line or step."""
    reading = completion.readings[0]
    values = list(reading.completion)
    if renewed != "every" and values:
        least = STEP_END if renewed == "boundaries" else LINE_END
        ends = line_ends(torch.tensor([completion.token_ids], device=lm.device), lm.line_breaks)[0].tolist()
        values = [value for value, end in zip(values[1:], ends, strict=False) if end >= least]
    if reading.reader.place is not None:
        values.insert(0, reading.prompt[-1])
    return [value for value in values if value is not None and np.isfinite(value)]
