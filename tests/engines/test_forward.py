"""The forward room: one runner, whatever is padded, shared, read, edited or differentiated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.engines.context import steer
from steerkit.engines.continuations import Continuations
from steerkit.engines.forward import (
    alone,
    differentiable,
    last_states,
    left_padded,
    logits,
    right_padded,
    states,
)
from steerkit.engines.transformers.divergence import divergences
from steerkit.engines.transformers.table import Program
from steerkit.extraction.capture import capture
from steerkit.models import LanguageModel
from steerkit.models.sites import on_blocks
from tests.tiny import random_vector, tiny_model

PROMPTS = ("Why?", "Where is the long river that flows past here?", "Who")


@pytest.fixture
def texts(tiny: LanguageModel) -> list[EncodedText]:
    """Texts of unequal length, two a prompt."""
    pair = tiny.renderer.encode_pair
    return [pair(prompt, answer) for prompt in PROMPTS for answer in ("No.", "It is not known to me.")]


@contextmanager
def room_for(lm: LanguageModel, rows: int) -> Iterator[list[int]]:
    """A model that holds at most `rows` rows a pass; yields the sizes of the passes that were tried."""
    passes: list[int] = []

    def small_memory(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        passes.append(len(kwargs["input_ids"]))
        if passes[-1] > rows:
            torch.empty(1 << 50)  # more than any machine has

    handle = lm.decoder.register_forward_pre_hook(small_memory, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def plain_logits(lm: LanguageModel, text: EncodedText) -> torch.Tensor:
    """What predicts the completion, `[token, vocabulary]`, by one unpadded pass."""
    with torch.inference_mode():
        return lm.hf(input_ids=torch.tensor([text.ids])).logits[0, text.prompt_length - 1 : -1]


def test_padding_on_either_side_reaches_no_real_token(tiny: LanguageModel, texts: list[EncodedText]) -> None:
    ids = [text.ids for text in texts]
    with torch.inference_mode():
        left, right = logits(tiny, left_padded(ids, tiny)), logits(tiny, right_padded(ids, tiny))
    for row, text in enumerate(texts):
        expected = plain_logits(tiny, text)
        start, end = text.prompt_length - 1, len(text.ids) - 1
        torch.testing.assert_close(right[row, start:end], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(left[row, -len(expected) - 1 : -1], expected, rtol=1e-4, atol=1e-4)


def test_a_pass_ends_at_the_last_block_that_is_read(tiny: LanguageModel, texts: list[EncodedText]) -> None:
    rows = right_padded([text.ids for text in texts], tiny)
    with on_blocks(tiny.blocks, dict.fromkeys(range(4), lambda _: None)) as ran:
        found = states(tiny, rows, [0, 2], lambda hidden: hidden[:, 0])
    assert ran == {0: 1, 1: 1, 2: 1, 3: 0}
    assert {layer: tuple(state.shape) for layer, state in found.items()} == dict.fromkeys((0, 2), (6, 32))


def test_blocks_that_do_not_run_are_an_error_and_not_a_reading(texts: list[EncodedText]) -> None:
    lm = tiny_model()
    lm.hf.config.num_hidden_layers = 3  # the decoder walks its first three blocks only
    with pytest.raises(SteerkitError, match="3 of 4 hooked modules ran"):
        capture(lm, texts)
    with pytest.raises(SteerkitError, match="0 of 1 hooked modules ran"):
        last_states(lm, [texts[0].ids], [3])


def test_last_states_see_the_steering_that_is_open(tiny: LanguageModel, texts: list[EncodedText]) -> None:
    vector, ids = random_vector(tiny), [text.ids for text in texts]
    plain = last_states(tiny, ids, [1])[1]
    with steer(tiny, vector.at(1, 2.0)):
        moved = last_states(tiny, ids, [1])[1] - plain
    torch.testing.assert_close(moved, 2 * vector.direction[1].expand_as(moved), rtol=1e-4, atol=1e-4)


def test_continuations_are_those_of_whole_texts(tiny: LanguageModel, texts: list[EncodedText]) -> None:
    rows = [4, 0, 5, 1]
    for found, row in zip(Continuations(tiny, texts).logits(rows), rows, strict=True):
        torch.testing.assert_close(found, plain_logits(tiny, texts[row]), rtol=1e-4, atol=1e-4)


def test_gradients_reach_a_hook_and_no_parameter(texts: list[EncodedText]) -> None:
    lm = tiny_model()
    v = torch.zeros(lm.d_model, requires_grad=True)
    with torch.inference_mode(), differentiable(lm), on_blocks(lm.blocks, {1: lambda hidden: hidden + v}):
        (gradient,) = torch.autograd.grad(Continuations(lm, texts).logits([0, 3])[1].logsumexp(-1).sum(), v)
    assert gradient.any()
    assert all(p.requires_grad and p.grad is None for p in lm.hf.parameters())


@pytest.mark.parametrize("room", [1, 2])
@pytest.mark.parametrize("aggregation", ["last", "mean", "prompt"])
def test_capture_halves_and_counts_nothing_twice(
    tiny: LanguageModel, texts: list[EncodedText], aggregation: Any, room: int
) -> None:
    expected, calls = capture(tiny, texts, aggregation), []
    with room_for(tiny, room) as passes:
        found = capture(tiny, texts, aggregation, progress=lambda done, total: calls.append((done, total)))
    assert max(passes) > room, "it never ran out"
    torch.testing.assert_close(found.states, expected.states, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.norm, expected.norm, rtol=1e-5, atol=0)
    assert calls[-1] == (len(texts), len(texts))


def test_divergences_and_continuations_halve(tiny: LanguageModel, texts: list[EncodedText]) -> None:
    vector = random_vector(tiny)
    programs = [
        Program.of((vector.at(2, s, scope=scope),)) for s in (1.0, 2.0) for scope in ("all", "answer")
    ]
    expected = list(divergences(tiny, texts, programs))
    whole = Continuations(tiny, texts).logits([0, 2])
    with room_for(tiny, 1) as passes:
        found = list(divergences(tiny, texts, programs))
        prompts = Continuations(tiny, texts)
    assert max(passes) > 1, "it never ran out"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(prompts.logits([0, 2]), whole, rtol=1e-4, atol=1e-4)


def test_a_text_without_a_prompt_predicts_nothing_of_its_first_token(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="give a longer prompt"):
        Continuations(tiny, [EncodedText((70, 71), 0)])


def test_a_steered_model_is_not_alone(tiny: LanguageModel) -> None:
    with (
        steer(tiny, random_vector(tiny).at(1)),
        pytest.raises(SteerkitError, match="close it first"),
        alone(tiny),
    ):
        pass
