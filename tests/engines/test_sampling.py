"""The next token from given logits: greedy is argmax, sampled is the inverse of what transformers' processors leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig

from steerkit.engines.base import Decoding, Finish
from steerkit.engines.transformers.sampling import Bias, Choosing, Setting, drawn, row_uniforms
from tests.tiny import tiny_hf

CPU = torch.device("cpu")


@dataclass
class ARow:
    """As much of a row as its choice of tokens reads."""

    decoding: Decoding
    prompt_ids: tuple[int, ...] = (1, 5, 5, 9)
    generated: list[int] = field(default_factory=list)
    finish: Finish | None = None
    sample: int = 0

    @property
    def uniforms(self) -> np.ndarray | None:
        return (
            row_uniforms(self.decoding, self.prompt_ids, self.sample) if self.decoding.temperature else None
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_is_argmax_with_ties_infinities_and_nan(dtype: torch.dtype) -> None:
    """Half precision has so few numbers that ties are common: the first of them, as transformers takes it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 7, (400, 1000), generator=generator).to(dtype)
    usual = torch.randn(100, 49_152, generator=generator).to(dtype)
    empty = torch.full((1, 1000), -torch.inf).to(dtype)
    broken = coarse[:40].clone()
    broken[:, 300:] = torch.nan
    for logits in (coarse, usual, empty, broken, -coarse):
        choosing = Choosing([ARow(Decoding())] * len(logits), CPU)
        assert torch.equal(choosing.next_tokens(logits), logits.argmax(-1))


DECODINGS = st.builds(
    Decoding,
    max_new_tokens=st.just(6),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.9, 0.4, 1e-6]),
    top_k=st.sampled_from([0, 1, 3, 500]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
)


def processors_of_generate(hf: Any, how: Decoding, padding: Tensor) -> Any:
    """The very list that `generate` builds."""
    sampling = {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p, "min_p": how.min_p}
    config = GenerationConfig(
        do_sample=how.temperature > 0,
        repetition_penalty=how.repetition_penalty,
        **(sampling if how.temperature > 0 else {}),
    )
    config, _ = hf._prepare_generation_config(config)
    return hf._get_logits_processor(
        config, padding.shape[1], model_kwargs={"attention_mask": padding}, device="cpu"
    )


@given(DECODINGS)
@settings(deadline=None)
def test_the_warpers_are_those_of_generate_in_its_order(how: Decoding) -> None:
    theirs = processors_of_generate(tiny_hf(layers=1), how, torch.ones(1, 4, dtype=torch.long))
    penalty = how.repetition_penalty != 1
    assert type(theirs[0]).__name__.startswith("RepetitionPenalty") if penalty else True
    ours = Setting.of(how).warpers
    # `generate` has a min-p of 0 in its list, which removes nothing.
    those = [each for each in theirs[penalty:] if vars(each).get("min_p") != 0]
    assert [(type(each), vars(each)) for each in ours] == [(type(each), vars(each)) for each in those]


@given(
    st.lists(DECODINGS, min_size=1, max_size=6),
    st.integers(0, 999),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(deadline=None)
def test_each_row_takes_what_the_processors_of_generate_leave_at_its_number(
    decodings: list[Decoding], seed: int, dtype: torch.dtype
) -> None:
    """Against `generate`'s own list of processors, one row at a time, left-padded, and a cumulative sum in numpy."""
    random = np.random.default_rng(seed)
    hf, vocabulary = tiny_hf(layers=1), 40
    rows = [
        ARow(how, tuple(random.integers(0, vocabulary, random.integers(1, 8)).tolist()), sample=i)
        for i, how in enumerate(decodings)
    ]
    choosing = Choosing(rows, CPU)
    for step in range(4):
        logits = torch.tensor(random.normal(0, 3, (len(rows), vocabulary)), dtype=dtype)
        chosen = choosing.next_tokens(logits)
        for i, row in enumerate(rows):
            text = [*row.prompt_ids, *row.generated]
            ids, mask = torch.tensor([[7, 7, *text]]), torch.tensor([[0, 0, *(1 for _ in text)]])
            scores = processors_of_generate(hf, row.decoding, mask)(ids, logits[i : i + 1].float())[0]
            if row.uniforms is None:
                assert chosen[i] == scores.argmax()
                continue
            probabilities = scores.double().softmax(-1).numpy()
            order = np.argsort(-probabilities, kind="stable")
            reached = probabilities[order].cumsum()
            place = list(order).index(int(chosen[i]))
            assert probabilities[chosen[i]] > 0
            number = row.uniforms[step]
            assert reached[place] > number - 1e-5
            assert reached[place] - probabilities[chosen[i]] <= number + 1e-5
        forced = torch.full_like(chosen, 3) if step == 2 else chosen  # a token taken by force is read as well
        choosing.take(forced)
        for row, token in zip(rows, forced.tolist(), strict=True):
            row.generated.append(token)
        if step == 1:
            choosing = Choosing(rows, CPU)  # as when rows have joined


def test_what_rules_add_comes_behind_the_penalty_and_before_the_temperature() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 0.0, 0.0, 1.0], [2.0, 1.0, -1.0, 0.5]])
    bias = Bias(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), torch.tensor([-0.5, -torch.inf, 2.5]))
    greedy = Decoding(repetition_penalty=2.0)
    rows = [ARow(greedy, (0,)), ARow(Decoding(temperature=0.5, top_k=1), (3,)), ARow(greedy, (1,))]
    # 2 / 2 - 0.5 = 0.5 is below 1; 1 stays the likeliest; and -1 + 2.5 = 1.5 is below 2.
    assert Choosing(rows, CPU).next_tokens(logits, bias).tolist() == [1, 3, 0]


def test_a_token_without_probability_is_never_drawn() -> None:
    scores = torch.full((3, 50_000), -torch.inf)
    scores[:, 123], scores[0, 4000] = 2.0, 1.0
    highest = torch.full((3, 1), float(np.nextafter(np.float32(1), np.float32(0))))
    assert drawn(scores, highest).tolist() == [4000, 123, 123]
    assert drawn(scores, torch.zeros(3, 1)).tolist() == [123, 123, 123]
