"""A ramp's ends are quantiles of what a reader says of the unsteered model's own completions, where it will look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.models import LanguageModel
from tests.tiny import random_vector

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


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantiles": (0.9, 0.1)},
        {"quantiles": (0.5,)},
        {"quantiles": None},
        {"renewed": "x"},
        {"least": float("nan")},
        {"most": 1e39},
    ],
)
def test_what_no_ramp_has_is_refused_before_anything_is_run(
    tiny: LanguageModel, wrong: dict[str, Any]
) -> None:
    ran: list[int] = []
    handle = tiny.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(MisuseError):
            sk.fit_ramp(tiny, PROMPTS, "entropy", **wrong)
    finally:
        handle.remove()
    assert not ran


def test_of_states_the_prompts_end_counts_where_a_ramp_looks_first(tiny: LanguageModel) -> None:
    reader = sk.VectorReader(random_vector(tiny), 1)
    decoding = sk.Decoding(8)
    ramp = sk.fit_ramp(tiny, PROMPTS, reader, renewed="every", quantiles=(0, 1), decoding=decoding)
    done = sk.generate(tiny, PROMPTS, read=reader, decoding=decoding)
    read = [
        v
        for each in done
        for v in (each.readings[0].prompt[-1], *each.readings[0].completion)
        if v is not None
    ]
    assert (ramp.low, ramp.high) == pytest.approx((min(read), max(read)))
