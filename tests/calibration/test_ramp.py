"""A ramp's ends are quantiles of what a reader says of the unsteered model's own completions, where it will look."""

from __future__ import annotations

import numpy as np
import pytest

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.models import LanguageModel

PROMPTS = ("Why?", "Name one.", "What is the capital of the moon?", "Hm")


def test_a_ramp_is_fitted_to_what_is_read_of_the_models_own_completions(tiny: LanguageModel) -> None:
    decoding = sk.Decoding(24)
    ramp = sk.fit_ramp(tiny, PROMPTS, "entropy", renewed="every", quantiles=(0.2, 0.7), decoding=decoding)
    read = [
        value
        for done in sk.generate(tiny, PROMPTS, read=["entropy"], decoding=decoding)
        for value in done.readings[0].completion
    ]
    assert (ramp.low, ramp.high) == pytest.approx(np.quantile(read, [0.2, 0.7]))
    assert (ramp.least, ramp.most, ramp.renewed) == (-1, 1, "every")


def test_what_leaves_a_ramp_without_ends_is_said(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="at least 20"):
        sk.fit_ramp(tiny, PROMPTS[:1], "entropy", decoding=sk.Decoding(4))
    with pytest.raises(MisuseError, match="quantiles"):
        sk.fit_ramp(tiny, PROMPTS, "entropy", quantiles=(0.9, 0.1))
