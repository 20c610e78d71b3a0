"""A policy acts where its trigger's running mean says, and forces what it says token by token."""

from __future__ import annotations

from typing import Any

import pytest

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.logit_rules import ThinkingBudget
from steerkit.interventions.policies import Policy, ReplyNow, StopAndSay, Trigger
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader
from steerkit.models import LanguageModel
from tests.engines.test_readings import PROMPTS, probe_of
from tests.tiny import random_vector

THINKS = PromptEdit(begin="<think>\nIt is\nso.\n\nWhy?\n")
TOKENS = 40


def readers(lm: LanguageModel) -> list[Reader]:
    return [ProbeReader(probe_of(lm), 0), VectorReader(random_vector(lm), 1), NamedReader("entropy")]


def means(trigger: Trigger, done: Completion, lm: LanguageModel) -> list[tuple[int, float]]:
    """(tokens written, running mean) each time that the trigger is looked at, from the readings of the row itself."""
    (reading,) = (r for r in done.readings if r.reader == trigger.reader)
    ids = [*lm.renderer.encode_prompt(done.request.prompt), *done.token_ids]
    text = [lm.renderer.decode_raw([token]) for token in ids]
    least = {"every": 0, "lines": 1, "boundaries": 2}[trigger.renewed]
    first, found, seen, mean = len(ids) - done.tokens - 1, [], 0, 0.0
    of_states = trigger.reader.place is not None
    for written in range(1, done.tokens + 1):
        place = first + written - of_states  # whose reading is known once so many tokens are written
        ended = "".join(text[:place])
        newlines = len(ended) - len(ended.rstrip("\n"))
        if place > first + 1 and newlines < least:
            continue
        value = [*reading.prompt, *reading.completion][place]
        assert value is not None
        seen += 1
        mean += (value - mean) / min(seen, trigger.smoothing)
        if seen >= trigger.smoothing:
            found.append((written, mean))
    return found


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize("renewed", ["every", "lines", "boundaries"])
@pytest.mark.parametrize("kind", [StopAndSay, ReplyNow])
def test_a_policy_acts_when_the_running_mean_says(
    tiny: LanguageModel, kind: Any, renewed: Any, batch_size: int
) -> None:
    engine = TransformersEngine(tiny, batch_size)
    smoothing = 3.0 if renewed == "every" else 1.5  # few lines end
    plain = [Request(p, (THINKS,), Decoding(TOKENS), readers=tuple(readers(tiny)), key=p) for p in PROMPTS]
    unaided = list(engine.generate(plain))
    requests: list[Request] = []
    expected: dict[Any, tuple[int, float]] = {}
    for done in unaided:
        for reader in readers(tiny):
            seen = means(Trigger(reader, 0, 0, smoothing, renewed), done, tiny)
            on = sorted(mean for _, mean in seen)[-max(1, len(seen) // 4)] - 1e-5  # no tie with it
            trigger = Trigger(reader, on, on, smoothing, renewed)
            name = (done.request.key, str(reader))
            expected[name] = next((at, mean) for at, mean in means(trigger, done, tiny) if mean >= on)
            acting = (THINKS, kind(when=trigger))
            requests.append(Request(done.request.prompt, acting, Decoding(TOKENS), key=name))
    without = {done.request.key: done for done in unaided}
    for done in engine.generate(requests):
        key: Any = done.request.key
        at, mean = expected[key]
        (decision,) = done.decisions
        assert decision.tokens == at
        assert decision.reading == pytest.approx(mean, abs=1e-5)
        assert done.token_ids[:at] == without[key[0]].token_ids[:at]
        if at + 12 < TOKENS:
            assert done.text_of("thinking") or "</think>" in done.text
            if kind is StopAndSay:
                assert done.text.endswith("\nI don't know.")
                assert done.finish == "stop"


def test_without_open_thinking_a_reply_is_not_forced_and_a_text_is_said(tiny: LanguageModel) -> None:
    always = Trigger(NamedReader("entropy"), 0.0, 0.0)
    engine = TransformersEngine(tiny, 4)
    plain, replies, stops = (
        next(iter(engine.generate([Request("Why?", acting, Decoding(20))])))
        for acting in ((), (ReplyNow(when=always),), (StopAndSay("So\nbe it.", when=always),))
    )
    assert replies.token_ids == plain.token_ids
    assert not replies.decisions
    assert stops.text == plain.text[: len(stops.text) - len("So\nbe it.")] + "So\nbe it."
    assert stops.decisions[0].tokens == 1


def test_hysteresis_holds_between_the_thresholds() -> None:
    rising, falling = Trigger(NamedReader("entropy"), 2.0, 1.0), Trigger(NamedReader("entropy"), 1.0, 2.0)
    assert [
        rising.is_on(mean, was) for mean, was in ((2.0, False), (1.5, True), (1.5, False), (0.9, True))
    ] == [
        True,
        True,
        False,
        False,
    ]
    assert [
        falling.is_on(mean, was) for mean, was in ((1.0, False), (1.5, True), (1.5, False), (2.1, True))
    ] == [
        True,
        True,
        False,
        False,
    ]


def test_what_a_policy_is_written_as_is_read_back(tiny: LanguageModel) -> None:
    store = sk.Store([random_vector(tiny), probe_of(tiny)])
    for reader in readers(tiny):
        for policy in (
            ReplyNow(when=Trigger(reader, 0.7, 0.5, 4.0, "lines")),
            StopAndSay("No, @a=b,c.", when=Trigger(reader, 0.7, 0.7)),
        ):
            assert sk.parse(str(policy), vectors=store) == policy
            assert sk.from_json(policy.to_json(), store) == policy
            assert set(policy.tensors) == set(reader.tensors)


def test_a_policy_without_a_trigger_or_on_a_given_text_is_refused(tiny: LanguageModel) -> None:
    engine = TransformersEngine(tiny)
    with pytest.raises(MisuseError, match="says not when"):
        list(engine.generate([Request("Why?", (ReplyNow(),), Decoding(4))]))
    with pytest.raises(MisuseError, match="says not when"):
        sk.parse("reply-now")
    with pytest.raises(MisuseError, match="from 1 on"):
        sk.parse("reply-now@when=entropy,on=1,smoothing=0.5")
    policy: Policy = ReplyNow(when=Trigger(NamedReader("entropy"), 1.0, 1.0))
    with pytest.raises(MisuseError, match="leave it out"):
        engine.score([ScoreRequest("Why?", "So.", (policy,))])


def test_policies_and_budgets_compose(tiny: LanguageModel) -> None:
    never = ReplyNow(when=Trigger(NamedReader("entropy"), 1e6, 1e6))
    engine = TransformersEngine(tiny, 2)
    one, other = (
        next(iter(engine.generate([Request("Why?", acting, Decoding(30))])))
        for acting in ((THINKS, ThinkingBudget(20)), (THINKS, never, ThinkingBudget(20)))
    )
    assert one.token_ids == other.token_ids


def test_a_model_without_an_end_cannot_stop_and_say_so(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(tiny), "stop_ids", ())
    stop = StopAndSay(when=Trigger(NamedReader("entropy"), 0.0, 0.0))
    with pytest.raises(MisuseError, match="no token that ends"):
        list(TransformersEngine(tiny).generate([Request("Why?", (stop,), Decoding(2))]))
