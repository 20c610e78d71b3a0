"""The divergence of a row: equal to the plain computation, whatever shares its pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerkit import Steering, SteeringVector, steer
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.engines.transformers.divergence import divergences
from steerkit.engines.transformers.table import Program
from steerkit.models import LanguageModel
from tests.engines.reference import (
    Edit,
    all_positions,
    completion_positions,
    prompt_positions,
    steered_logits,
)
from tests.tiny import random_vector

POSITIONS = {"completion": completion_positions, "prompt": prompt_positions, "all": all_positions}


def edit_of(steering: Steering) -> Edit:
    """The operation written out once more, for one position's state."""
    v = steering.vector.direction[steering.layers[0]]
    s, unit = steering.strength, v / v.norm()

    def edit(h: Tensor) -> Tensor:
        match steering.operation:
            case "add":
                return h + s * v
            case "ablate":
                return h - s * (h @ unit) * unit
            case "rotate":
                norm, across = h.norm(), h - (h @ unit) * unit
                angle = torch.acos((h @ unit) / norm) * (1 - s)
                return norm * (angle.cos() * unit + angle.sin() * across / across.norm())
        raise AssertionError(steering.operation)

    return edit


def plain_divergence(lm: LanguageModel, text: EncodedText, steering: Steering) -> Tensor:
    """KL at each completion position by a loop without cache, batch or table."""
    read = text.ids[:-1]
    where = POSITIONS[steering.scope](read, text.prompt_length)
    measured = slice(text.prompt_length - 1, None)
    plain = steered_logits(lm, read, [])[measured].double().log_softmax(-1)
    steered = steered_logits(lm, read, [(steering.layers[0], edit_of(steering), where)])[measured]
    return torch.nn.functional.kl_div(
        steered.double().log_softmax(-1), plain, log_target=True, reduction="none"
    ).sum(-1)


def text_of(lm: LanguageModel, prompt: str, completion: str) -> EncodedText:
    return lm.renderer.encode_pair(prompt, completion)


def vector_for(lm: LanguageModel) -> SteeringVector:
    """A random direction, a tenth of a typical state's norm long at every layer."""
    norms: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, output: norms.append(output[0, 1:].norm(dim=-1).mean()))
        for block in lm.blocks
    ]
    with torch.inference_mode():
        lm.decoder(torch.tensor([lm.renderer.encode_prompt("How tall is the tower?")]))
    for handle in handles:
        handle.remove()
    random = random_vector(lm)
    unit = random.direction / random.direction.norm(dim=-1, keepdim=True)
    return SteeringVector(0.1 * torch.stack(norms)[:, None] * unit, random.metadata)


def mixed_steerings(vector: SteeringVector) -> list[Steering]:
    middle = vector.n_layers // 2
    return [
        vector.at(middle, 1.0),
        vector.at(middle, -2.0),
        vector.at(middle + 1, 1.5, scope="all"),
        vector.at(1, 1.0, scope="prompt"),
        vector.at(middle, 0.1, scope="completion", operation="rotate"),
        vector.at(vector.n_layers - 2, 1.0, scope="all", operation="ablate"),
    ]


def rows(lm: LanguageModel, text: EncodedText, steerings: list[Steering], **options: int) -> Tensor:
    programs = [Program.of((steering,)) for steering in steerings]
    return next(divergences(lm, [text], programs, **options))


def test_divergences_are_those_of_a_plain_loop(bundled: LanguageModel) -> None:
    text = text_of(bundled, "Which river flows through Cairo?", "The Nile flows through Cairo.")
    steerings = mixed_steerings(vector_for(bundled))
    measured = rows(bundled, text, steerings)
    expected = torch.stack([plain_divergence(bundled, text, steering) for steering in steerings])
    assert measured.shape == (len(steerings), text.completion_length)
    assert expected.mean(1).min() > 1e-6
    torch.testing.assert_close(measured, expected, rtol=1e-3, atol=1e-8)


def test_rows_of_mixed_steerings_measure_what_they_measure_alone(bundled: LanguageModel) -> None:
    text = text_of(bundled, "Which river flows through Cairo?", "The Nile flows through Cairo.")
    steerings = mixed_steerings(vector_for(bundled))
    packed = rows(bundled, text, steerings).mean(1)
    alone = torch.cat([rows(bundled, text, [steering]).mean(1) for steering in steerings])
    # Logits in float32 differ in their last bits with the shape of a pass and the number of threads: 2e-7 nats here.
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows_per_pass", [1, 2, 5])
def test_the_rows_of_a_pass_change_nothing(tiny: LanguageModel, rows_per_pass: int) -> None:
    text = text_of(tiny, "Why?", "because")
    steerings = mixed_steerings(random_vector(tiny))
    torch.testing.assert_close(
        rows(tiny, text, steerings, rows_per_pass=rows_per_pass),
        rows(tiny, text, steerings),
        rtol=1e-5,
        atol=1e-10,
    )


def test_weak_steering_is_resolved_far_below_the_last_bit_of_a_log_probability(smollm: LanguageModel) -> None:
    text = text_of(smollm, "Which river flows through Cairo?", "The Nile flows through Cairo.")
    vector = vector_for(smollm)
    stronger, weaker = rows(smollm, text, [vector.at(15, 3e-3), vector.at(15, 3e-4)]).mean(1)
    assert weaker < 1e-6
    assert float(stronger / weaker) == pytest.approx(100, rel=0.05)


def test_thinking_and_answer_positions_are_told_apart(tiny: LanguageModel) -> None:
    text = text_of(tiny, "Why?", "<think>a b</think>c d")
    vector = random_vector(tiny)
    everywhere, thinking, answer = rows(
        tiny, text, [vector.at(2, 1.0, scope=scope) for scope in ("completion", "thinking", "answer")]
    )
    opened = 1  # the last prompt token; the marker is one token, and thinking starts at its own position
    assert thinking[:opened].max() < 1e-9
    torch.testing.assert_close(answer[:opened], everywhere[:opened], rtol=1e-5, atol=1e-10)
    assert thinking[opened:].min() > 1e-6


def test_no_steering_is_no_divergence(tiny: LanguageModel) -> None:
    text = text_of(tiny, "Why?", "because")
    measured = rows(tiny, text, [random_vector(tiny).at(2, 0.0)])
    assert 0 <= float(measured.min()) <= float(measured.max()) < 1e-9


def test_a_prompt_of_one_token_is_enough(tiny: LanguageModel) -> None:
    text = EncodedText((1, 70, 71), 1)
    steering = random_vector(tiny).at(2, 1.0)
    torch.testing.assert_close(
        rows(tiny, text, [steering])[0], plain_divergence(tiny, text, steering), rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("text", [EncodedText((1, 2), 0), EncodedText((1, 2), 2)])
def test_a_text_without_prompt_or_completion_is_refused(tiny: LanguageModel, text: EncodedText) -> None:
    with pytest.raises(MisuseError, match="at least one prompt token"):
        rows(tiny, text, [random_vector(tiny).at(2)])


def test_logits_that_are_not_finite_are_refused(tiny: LanguageModel) -> None:
    text = text_of(tiny, "Why?", "because")
    half = SteeringVector(torch.ones(tiny.n_layers, tiny.d_model), random_vector(tiny).metadata).at(1, 2e38)
    with pytest.raises(SteerkitError, match="not finite"):
        next(divergences(tiny, [text], [Program.of((half, half))]))


def test_an_open_steering_would_spoil_the_reference(tiny: LanguageModel) -> None:
    steering = random_vector(tiny).at(2)
    with steer(tiny, steering), pytest.raises(SteerkitError, match="close it first"):
        rows(tiny, text_of(tiny, "Why?", "because"), [steering])
