"""The vectors that travel with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import steerkit as sk
from steerkit.models import LanguageModel
from steerkit.spec import parse_spec
from steerkit.steering import ProbeGate
from steerkit.vector import published_vectors

NAME = "abstain-smollm2-135m-instruct"
CARDS = Path(__file__).parent.parent / "vectors"


@pytest.mark.parametrize("name", sorted(published_vectors()))
def test_a_published_vector_has_its_name_and_a_card(name: str) -> None:
    vector = sk.load_vector(name)
    assert vector.name == name
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert vector.metadata.fingerprint in card
    assert f"[card]({name}.md)" in (CARDS / "README.md").read_text(encoding="utf-8")


def test_the_abstention_vector_acts_where_its_gate_opens(smollm: LanguageModel) -> None:
    sound, unknowable = "Who wrote Hamlet?", "Who will win the football World Cup in 2086?"
    steered = parse_spec(f"{NAME}@layer=14,strength=1,gate={NAME}")
    assert isinstance(steered.gate, ProbeGate)
    requests = [
        sk.Request(prompt, steerings, sk.Decoding(16), key=(prompt, bool(steerings)))
        for prompt in (sound, unknowable)
        for steerings in ((), (steered,))
    ]
    done = {c.request.key: c for c in sk.TransformersEngine(smollm).generate(requests)}
    assert done[sound, True].token_ids == done[sound, False].token_ids
    (read,) = done[sound, True].gate_probabilities
    assert read < steered.gate.threshold
    forced = sk.Request(sound, (steered.open,), sk.Decoding(16))
    (acted,) = sk.TransformersEngine(smollm).generate([forced])
    assert acted.token_ids != done[sound, False].token_ids
