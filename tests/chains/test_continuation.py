"""A completion that begins as given is steered as if the model had said it all by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from steerkit.interventions.decoration import Decoration

from steerkit.chains.continuation import Continuations, Setting, Start
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.steering import ProbeGate
from steerkit.models import LanguageModel
from steerkit.sweeps.grid import Cell
from tests.chains.protocol import protocol
from tests.engines.reference import (
    all_positions,
    completion_positions,
    greedy,
    prompt_positions,
    steered_logits,
)
from tests.tiny import random_vector

QUESTION = "How many?"
BEGUN = "<think>One and one.</think>So it is"
Where = Callable[[Sequence[int], int], list[int]]


def thinking_positions(lm: LanguageModel, inside: bool) -> Where:
    opening, closing = (int(marker) for marker in lm.thinking_markers)

    def where(ids: Sequence[int], prompt_length: int) -> list[int]:
        thinking, positions = False, []
        for position, token in enumerate(ids):
            thinking = (thinking or token == opening) and token != closing
            if position >= prompt_length - 1 and thinking is inside:
                positions.append(position)
        return positions

    return where


@pytest.mark.parametrize("scope", ["completion", "prompt", "all", "thinking", "answer"])
def test_every_scope_acts_on_a_given_chain_as_on_one_of_the_models_own(
    tiny: LanguageModel, scope: str
) -> None:
    where: dict[str, Where] = {
        "completion": completion_positions,
        "prompt": prompt_positions,
        "all": all_positions,
        "thinking": thinking_positions(tiny, True),
        "answer": thinking_positions(tiny, False),
    }
    vector, strength = random_vector(tiny), 2.0
    prompt = tiny.renderer.encode_prompt(QUESTION)
    begun = tiny.renderer.encode(BEGUN)
    plain = greedy(tiny, [*prompt, *begun], [], 12)
    edit = (1, lambda h: h + strength * vector.direction[1], lambda ids, _: where[scope](ids, len(prompt)))
    expected = greedy(tiny, [*prompt, *begun], [edit], 12)
    assert expected != plain  # else this would show nothing

    engine = TransformersEngine(tiny, batch_size=4)
    setting = Setting(QUESTION, Cell((vector.at(1, strength, scope=scope),)), 0, None)
    continuations = Continuations(engine, tiny.renderer, protocol(tiny), tiny.context_length)
    ((_, continued),) = continuations.complete({"key": Start(setting, BEGUN, 12)}, Decoding())
    assert continued.added == tiny.renderer.decode(expected)
    assert continued.whole == tiny.renderer.decode([*begun, *expected])


def test_a_completion_given_back_to_its_middle_ends_as_it_did(smollm: LanguageModel) -> None:
    engine = TransformersEngine(smollm)
    vector = random_vector(smollm, size=0.3)
    prompt = "Ada has 3 apples and buys 4 more. How many apples does she have? Explain."
    for steerings in ((), (vector.at(12, 1.0),), (vector.at(12, 1.0, scope="all"),)):
        (whole,) = engine.generate([Request(prompt, steerings, Decoding(24))])
        start = smollm.renderer.decode(whole.token_ids[:10])
        setting = Setting(prompt, Cell(steerings), 0, None)
        continuations = Continuations(engine, smollm.renderer, protocol(smollm), smollm.context_length)
        given = len(continuations.tokens(start))
        ((_, continued),) = continuations.complete({0: Start(setting, start, 24 - given)}, Decoding())
        assert continued.whole == whole.text
        assert whole.text.endswith(continued.added)


def test_the_answer_is_scored_behind_its_chain_under_the_cells_steering(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    prompt, start, ending = tiny.renderer.encode_prompt(QUESTION), "One and one is", " two"
    setting = Setting(QUESTION, Cell((vector.at(2, 1.5),)), 0, None)
    engine = TransformersEngine(tiny)
    continuations = Continuations(engine, tiny.renderer, protocol(tiny), tiny.context_length)
    ((value, tokens),) = continuations.log_probability([(setting, start, ending)])  # type: ignore[misc]

    ids = [*prompt, *tiny.renderer.encode(start + ending)]
    edit = (2, lambda h: h + 1.5 * vector.direction[2], list(range(len(prompt) - 1, len(ids))))
    log_probabilities = steered_logits(tiny, ids, [edit]).log_softmax(-1)
    expected = sum(float(log_probabilities[i - 1, ids[i]]) for i in range(len(ids) - 4, len(ids)))
    assert tokens == 4
    assert value == pytest.approx(expected, abs=1e-4)


def test_a_cells_decoration_stays_and_a_shut_gate_leaves_it_out(tiny: LanguageModel) -> None:
    seen: list[Request] = []

    class Watched(TransformersEngine):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            asked = list(requests)
            seen.extend(asked)
            return super().generate(asked)

    decoration = Decoration("kind", system="Be kind.", instruction="Please.", openers=("No",), bias=2.0)
    continuations = Continuations(Watched(tiny), tiny.renderer, protocol(tiny), tiny.context_length)
    setting = Setting(QUESTION, Cell(decoration=decoration), 0, decoration)
    list(continuations.complete({0: Start(setting, "Well,", 3)}, Decoding()))
    forced = seen[0].decoration
    assert forced is not None
    assert (forced.system, forced.instruction, forced.openers) == ("Be kind.", "Please.", ("Well,",))

    gate = ProbeGate(_probe(tiny), 1, 0.5)
    gated = Cell(decoration=Decoration("kind", system="Be kind.", gate=gate))
    record = {"prompt": QUESTION, "sample": 0, "scores": {"gate_probability": 0.4}}
    assert Setting.of(record, gated).decoration is None
    record["scores"] = {"gate_probability": 0.5}
    opened = Setting.of(record, gated).decoration
    assert opened is not None
    assert (opened.system, opened.gate) == ("Be kind.", None)


def test_a_beginning_that_leaves_no_room_has_no_continuation(tiny: LanguageModel) -> None:
    continuations = Continuations(
        TransformersEngine(tiny), tiny.renderer, protocol(tiny), tiny.context_length
    )
    setting = Setting(QUESTION, Cell(), 0, None)
    starts = {"long": Start(setting, "x" * 600, 4), "ends": Start(setting, "So</s>then", 4)}
    starts["short"] = Start(setting, "So", 4)
    assert [key for key, _ in continuations.complete(starts, Decoding())] == ["short"]
    assert continuations.log_probability([(setting, "x" * 600, "7"), (setting, "x", "7")])[0] is None
    assert list(continuations.replies({"long": ("x" * 600, 4)})) == []


def _probe(lm: LanguageModel) -> Probe:
    metadata = ProbeMetadata(name="doubt", model=lm.name, fingerprint=lm.fingerprint, layer=1)
    return Probe(torch.zeros(lm.n_layers, lm.d_model), torch.zeros(lm.n_layers), metadata)
