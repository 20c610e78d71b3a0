"""A completion that begins as given is steered as if the model had said it all by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from steerkit.chains.continuation import Continuations, Setting, Start, without_beginnings
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.base import Intervention
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from tests import scripted
from tests.chains.made_runs import undecided_probe
from tests.engines.reference import (
    Edit,
    Where,
    all_positions,
    completion_positions,
    greedy,
    prompt_positions,
    steered_logits,
)
from tests.tiny import random_vector

QUESTION = "How many?"
BEGUN = "<think>One and one.</think>So it is"


def thinking_positions(lm: LanguageModel, inside: bool) -> Where:
    def where(ids: Sequence[int], prompt_length: int) -> list[int]:
        kinds = lm.thinking.kinds(ids[:prompt_length], ids[prompt_length:])
        return [i for i, kind in enumerate(kinds, prompt_length - 1) if (kind == "thinking") is inside]

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
    setting = Setting(QUESTION, (vector.at(1, strength, scope=scope),))
    continuations = Continuations(engine, tiny.renderer, tiny.context_length, None)
    ((_, continued),) = continuations.complete({"key": Start(setting, BEGUN, 12)}, Decoding())
    assert continued.added == tiny.renderer.decode(expected)
    assert continued.whole == f"{BEGUN}{tiny.renderer.decode(expected)}"


def test_a_completion_given_back_to_its_middle_ends_as_it_did(smollm: LanguageModel) -> None:
    engine = TransformersEngine(smollm)
    vector = random_vector(smollm, size=0.3)
    prompt = "Ada has 3 apples and buys 4 more. How many apples does she have? Explain."
    for steerings in ((), (vector.at(12, 1.0),), (vector.at(12, 1.0, scope="all"),)):
        (whole,) = engine.generate([Request(prompt, steerings, Decoding(24))])
        start = smollm.renderer.decode(whole.token_ids[:10])
        setting = Setting(prompt, steerings)
        continuations = Continuations(engine, smollm.renderer, smollm.context_length, None)
        given = len(continuations.tokens(start))
        ((_, continued),) = continuations.complete({0: Start(setting, start, 24 - given)}, Decoding())
        assert continued.whole == whole.text
        assert whole.text.endswith(continued.added)


def test_the_answer_is_scored_behind_its_chain_under_the_cells_steering(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    prompt, start, ending = tiny.renderer.encode_prompt(QUESTION), "One and one is", " two"
    setting = Setting(QUESTION, (vector.at(2, 1.5),))
    engine = TransformersEngine(tiny)
    continuations = Continuations(engine, tiny.renderer, tiny.context_length, None)
    ((value, tokens),) = continuations.log_probability([(setting, start, ending)])  # type: ignore[misc]

    ids = [*prompt, *tiny.renderer.encode(start + ending)]
    edit = (2, lambda h: h + 1.5 * vector.direction[2], list(range(len(prompt) - 1, len(ids))))
    log_probabilities = steered_logits(tiny, ids, [edit]).log_softmax(-1)
    expected = sum(float(log_probabilities[i - 1, ids[i]]) for i in range(len(ids) - 4, len(ids)))
    assert tokens == 4
    assert value == pytest.approx(expected, abs=1e-4)


def goes_on(lm: LanguageModel, *interventions: Intervention, start: str = "Well,", more: int = 12) -> str:
    continuations = Continuations(TransformersEngine(lm), lm.renderer, lm.context_length, None)
    setting = Setting(QUESTION, interventions)
    ((_, continued),) = continuations.complete({0: Start(setting, start, more)}, Decoding())
    return continued.added


def test_a_half_life_counts_from_the_given_beginning(tiny: LanguageModel) -> None:
    vector, half_life = random_vector(tiny), 3.0
    prompt, begun = tiny.renderer.encode_prompt(QUESTION), tiny.renderer.encode("Well,")

    def at_age(age: int) -> tuple[int, Edit, Where]:
        push = 4.0 * 2 ** (-age / half_life) * vector.direction[1]
        place = len(prompt) - 1 + age
        return 1, lambda h: h + push, lambda ids, _: [place] if place < len(ids) else []

    expected = greedy(tiny, [*prompt, *begun], [at_age(age) for age in range(20)], 12)
    assert goes_on(tiny, vector.at(1, 4.0, half_life=half_life)) == tiny.renderer.decode(expected)
    assert goes_on(tiny, vector.at(1, 4.0)) != tiny.renderer.decode(expected)


def test_what_else_a_cell_does_stays_but_for_a_beginning_of_its_own(tiny: LanguageModel) -> None:
    kind, bias = PromptEdit(system="Be kind.", instruction="Please."), OpenerBias(("Well, no",), 2.0)
    whole = PromptEdit(system="Be kind.", instruction="Please.", begin="Well,")
    assert list(without_beginnings((kind, bias))) == [kind, bias]
    assert list(without_beginnings((whole, bias, PromptEdit(begin="So")))) == [kind, bias]
    assert goes_on(tiny, whole) == goes_on(tiny, kind) != goes_on(tiny)


@pytest.mark.parametrize("shut", [True, False])
def test_a_gate_reads_the_question_and_not_the_given_chain(tiny: LanguageModel, shut: bool) -> None:
    vector, probe = (
        random_vector(tiny),
        undecided_probe(tiny),
    )  # which reads a half, whatever there is to read
    gate = ProbeGate(probe, 1, 0.6 if shut else 0.5)
    steering, edit = vector.at(1, 4.0), PromptEdit(system="Be kind.")
    gated = (vector.at(1, 4.0, gate=gate), PromptEdit(system="Be kind.", gate=gate))
    assert goes_on(tiny, *gated) == (goes_on(tiny) if shut else goes_on(tiny, steering, edit))
    assert goes_on(tiny) != goes_on(tiny, steering, edit)
    continuations = Continuations(TransformersEngine(tiny), tiny.renderer, tiny.context_length, None)
    open_or_not = () if shut else (steering, edit)
    scored = continuations.log_probability(
        (Setting(QUESTION, acting), "So it is", " 7") for acting in (gated, open_or_not)
    )
    assert scored[0] == scored[1]


def test_rules_on_logits_have_no_part_in_what_the_model_says_of_a_given_answer(tiny: LanguageModel) -> None:
    continuations = Continuations(TransformersEngine(tiny), tiny.renderer, tiny.context_length, None)
    asked = [(), (OpenerBias(("So",), 3.0), PromptEdit(begin="So"))]
    one, other = continuations.log_probability((Setting(QUESTION, acting), "So", " 7") for acting in asked)
    assert one == other


def test_a_beginning_that_leaves_no_room_has_no_continuation(tiny: LanguageModel) -> None:
    continuations = Continuations(TransformersEngine(tiny), tiny.renderer, tiny.context_length, None)
    setting = Setting(QUESTION)
    starts = {"long": Start(setting, "x" * 600, 4), "ends": Start(setting, "So</s>then", 4)}
    starts["short"] = Start(setting, "So", 4)
    assert [key for key, _ in continuations.complete(starts, Decoding())] == ["short"]
    assert continuations.log_probability([(setting, "x" * 600, "7"), (setting, "x", "7")])[0] is None
    assert list(continuations.replies({"long": ("x" * 600, 4)})) == []


def test_an_answer_without_a_token_of_its_own_has_no_probability() -> None:
    lm = scripted.scripted(
        ["Seven", "."]
    )  # whose tokenizer has one token for any words that it does not know
    continuations = Continuations(TransformersEngine(lm), lm.renderer, lm.context_length, None)
    setting = Setting("How many?")
    without, known = continuations.log_probability([(setting, "So it", " is"), (setting, "So it", "Seven")])
    assert without is None
    assert known is not None
    assert known[1] == 1
