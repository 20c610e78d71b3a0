"""A feature held at an activation, against hooks of one's own that encode, and add back the difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Request
from steerkit.interventions.spec import parse
from steerkit.interventions.store import Store, from_json
from tests.features import planted
from tests.tiny import random_vector, tiny_model


@pytest.fixture(scope="module")
def lm() -> sk.LanguageModel:
    return tiny_model(seed=5)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> sk.Autoencoder:
    return sk.load_autoencoder(
        planted.write(tmp_path_factory.mktemp("made"), planted.tensors("jumprelu"), "jumprelu")
    )


def greedy(lm: sk.LanguageModel, prompt: str, tokens: int, edit: object) -> tuple[list[int], list[Tensor]]:
    """Tokens and last logits, decoded without a cache; `edit` acts on the block from the last prompt token on."""
    ids = list(lm.renderer.encode_prompt(prompt))
    first, logits = len(ids) - 1, []

    def hook(_module: object, _given: object, output: Tensor) -> Tensor:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, first:] = edit(hidden[:, first:])  # type: ignore[operator]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = lm.blocks[planted.LAYER].register_forward_hook(hook)
    try:
        for _ in range(tokens):
            with torch.no_grad():
                logits.append(lm.hf(torch.tensor([ids])).logits[0, -1])
            ids.append(int(logits[-1].argmax()))
    finally:
        handle.remove()
    return ids[first + 1 :], logits


@pytest.mark.parametrize("activation", [0.0, 0.75, 6.0])
@pytest.mark.parametrize("index", [0, 3])
def test_the_state_is_what_encoding_and_adding_the_difference_gives(
    lm: sk.LanguageModel, autoencoder: sk.Autoencoder, index: int, activation: float
) -> None:
    steering = sk.clamp_feature(autoencoder.feature(index, lm), activation)

    def by_hand(hidden: Tensor) -> Tensor:
        missing = activation - autoencoder.encode(hidden)[..., index : index + 1]
        return hidden + missing * autoencoder.decoder[index]

    wanted, logits = greedy(lm, "What is it?", 8, by_hand)
    other = random_vector(lm, name="other", seed=4).at(1, 2.0)
    requests = [
        Request("What is it?", (steering,), sk.Decoding(8), key=0),
        Request("What is it?", (), sk.Decoding(8), key=1),
        Request("Why should it be so?", (other,), sk.Decoding(8), key=2),
    ]
    found = {each.request.key: each for each in sk.TransformersEngine(lm).generate(requests)}
    assert list(found[0].token_ids) == wanted[: len(found[0].token_ids)]
    with sk.steer(lm, steering), torch.no_grad():
        first = lm.hf(torch.tensor([lm.renderer.encode_prompt("What is it?")])).logits[0, -1]
    torch.testing.assert_close(first, logits[0], atol=1e-5, rtol=1e-5)
    if activation == 6.0:
        assert wanted != greedy(lm, "What is it?", 8, lambda hidden: hidden)[0]


def test_a_planted_feature_is_set_to_the_value_asked_for(tmp_path: Path) -> None:
    lm = planted.planted_model()
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.reading_the_planted()))
    feature = autoencoder.feature(1, lm)
    plain = lm.hf.get_input_embeddings().weight[lm.renderer.encode_prompt("xxB")[-1]].detach()
    active = max(0.0, float(plain @ planted.directions()[1]) - 0.25)
    state = plain + (5.0 - active) * planted.directions()[1]
    wanted = lm.hf.lm_head(lm.hf.model.norm(state)).argmax()
    (found,) = sk.generate(lm, ["xxB"], sk.clamp_feature(feature, 5.0), decoding=sk.Decoding(1))
    assert found.token_ids[0] == int(wanted)


def test_it_survives_its_spec_and_json(lm: sk.LanguageModel, autoencoder: sk.Autoencoder) -> None:
    feature = autoencoder.feature(2, lm, "curious")
    steering = sk.clamp_feature(feature, 3.5)
    store = Store([feature])
    assert parse(str(steering), store) == steering
    assert feature.probe is not None
    assert from_json(steering.to_json(), Store([feature, feature.probe], files=False)) == steering


def test_what_is_no_feature_or_no_activation_is_refused(
    lm: sk.LanguageModel, autoencoder: sk.Autoencoder
) -> None:
    with pytest.raises(MisuseError, match="brings no encoder"):
        sk.clamp_feature(random_vector(lm), 1.0)
    for activation in (-1.0, float("nan"), float("inf")):
        with pytest.raises(MisuseError):
            sk.clamp_feature(autoencoder.feature(0, lm), activation)
    with pytest.raises(MisuseError, match="prompt"):
        sk.clamp_feature(autoencoder.feature(0, lm), 1.0, scope="prompt")
