"""Rules on logits: each is its formula, on every row of every batch, and a forced closing is not hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.engines.transformers.batch import RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.logit_rules import (
    BoundRule,
    CyclicReflex,
    Edits,
    FollowedThinking,
    ForcedClosing,
    LogitRule,
    Openers,
    ReflectionWave,
    SwitchPenalty,
    ThinkingBudget,
    ThoughtSwitches,
)
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from steerkit.models.markers import DEFAULT
from steerkit.models.thinking import Tracker
from tests import scripted
from tests.engines import reference
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer, random_vector, tiny_hf

PROMPTS = ["plain", "Think", "Think <think> shut </think>", "Think of a <think>", "hm <think>"]
SOMETIMES = CHAT_TEMPLATE.replace(
    "[assistant]", "[assistant]{% if messages[0]['content'][0] == 'T' %}<think>{% endif %}"
)
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789")
# A marker that is one token, and one that is three, of which another token may hold the first with more.
WORDS = (
    ("<unk>", "<think>", "</think>", "a", "b"),
    ("<unk>", "<think>", "</", "think", ">", ".</", "a"),
)
trackers = st.sampled_from(
    [Tracker(Renderer(scripted.tokenizer_of(words, set(), "<unk>")), DEFAULT) for words in WORDS]
)
texts = st.lists(st.integers(0, 6), max_size=24)


def edits_behind(rule: BoundRule, prompt: Sequence[int], generated: Sequence[int]) -> Edits:
    """What the rule does once all of `generated` was taken."""
    state: Any = rule.start(prompt)
    for token in generated:
        state = rule.after(state, token)
        if state is None:
            return Edits()
    return rule.edits(state)


def openness(prompt: Sequence[int], generated: Sequence[int], tracker: Tracker) -> list[bool]:
    """Whether thinking is open at each position from the last of the prompt on, as the table has it."""
    return [kind == "thinking" for kind in tracker.kinds(prompt, generated)]


@settings(max_examples=200, deadline=None)
@given(texts, texts, trackers)
def test_following_a_text_agrees_with_the_table(
    prompt: list[int], generated: list[int], tracker: Tracker
) -> None:
    prompt, generated = within(tracker, prompt), within(tracker, generated)
    followed = FollowedThinking(tracker, 3)
    state = followed.start(prompt)
    for token in generated:
        state = followed.after(state, token)
    marked = openness(prompt, generated, tracker)
    assert state.is_open == marked[-1]
    assert state.spent == sum(marked[:-1])
    assert state.tail == (-1, -1, -1, *prompt, *generated)[-3:]


def within(tracker: Tracker, ids: Sequence[int]) -> list[int]:
    """Only tokens that the tracker's tokenizer has."""
    return [token for token in ids if token < len(tracker._renderer._tokenizer)]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1), texts)
def test_only_the_beginning_of_an_opener_is_continued(openers: list[tuple], generated: list[int]) -> None:
    n = len(generated)
    continued = {o[n]: 1.5 for o in openers if len(o) > n and list(o[:n]) == generated}
    assert edits_behind(Openers(tuple(openers), 1.5), [], generated).nats == continued


@settings(max_examples=200, deadline=None)
@given(texts, texts, trackers, st.integers(0, 5))
def test_a_budget_forces_what_is_missing_of_the_marker(
    prompt: list[int], generated: list[int], tracker: Tracker, budget: int
) -> None:
    prompt, generated = within(tracker, prompt), within(tracker, generated)
    rule = ForcedClosing(budget, FollowedThinking(tracker))
    marked = openness(prompt, generated, tracker)
    if not marked[-1] or sum(marked[:-1]) < budget:
        assert edits_behind(rule, prompt, generated) == Edits()
        return
    forced = list(generated)
    for _ in range(3):
        if not openness(prompt, forced, tracker)[-1]:
            break
        edits = edits_behind(rule, prompt, forced)
        assert edits.forced is not None
        forced.append(edits.forced)
    assert not openness(prompt, forced, tracker)[-1], "a whole marker's worth of tokens closes it"
    assert tracker._renderer.decode_raw(forced).endswith("</think>")


@settings(max_examples=200, deadline=None)
@given(texts, texts, trackers, st.integers(1, 5))
def test_tip_is_its_formula(prompt: list[int], generated: list[int], tracker: Tracker, beta: int) -> None:
    prompt, generated = within(tracker, prompt), within(tracker, generated)
    forms = ((4,), (3, 4))
    marked = openness(prompt, generated, tracker)
    # Ψ, as the number of generated tokens before the current thought.
    begins = [0] + [i for i in range(1, len(generated) + 1) if not marked[i - 1]]
    for i in range(1, len(generated) + 1):
        read = [-1, *prompt, *generated[:i]]
        if any(tuple(read[-len(form) :]) == form for form in forms):
            begins.append(i)
    penalised = marked[-1] and len(generated) < max(begins) + beta
    expected = {4: -3.0, 3: -3.0} if penalised else {}
    rule = ThoughtSwitches(forms, 3.0, beta, FollowedThinking(tracker, 2))
    assert edits_behind(rule, prompt, generated).nats == expected


def test_the_wave_of_cyclic_reflex_is_a_triangle_from_zero() -> None:
    wave = CyclicReflex(("wait",), amplitude=3.0, period=8)
    assert [wave.wave(t) for t in range(9)] == [0.0, 1.5, 3.0, 1.5, 0.0, -1.5, -3.0, -1.5, 0.0]
    tracker = Tracker(Renderer(scripted.tokenizer_of(WORDS[0], set(), "<unk>")), DEFAULT)
    rule = ReflectionWave((4, 5), wave, FollowedThinking(tracker))
    assert edits_behind(rule, [0], [3] * 6).nats == {}
    assert edits_behind(rule, [1], [3]).nats == {4: 1.5, 5: 1.5}
    assert edits_behind(rule, [0], [1, 3, 3]).nats == {4: 3.0, 5: 3.0}
    assert edits_behind(rule, [0], [1, 3, 3, 2]).nats == {}


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    """One that thinks where its template lets it."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = SOMETIMES
    return LanguageModel(tiny_hf(), tokenizer, "sometimes")


def run(lm: LanguageModel, requests: list[Request], batch_size: int = 8) -> dict[object, Completion]:
    return {c.request.key: c for c in TransformersEngine(lm, batch_size).generate(requests)}


def plainly(lm: LanguageModel, prompt: str, rule: LogitRule, tokens: int) -> list[int]:
    """Greedy decoding under a rule with everything read anew from the whole text at every step."""
    ids = lm.renderer.encode_prompt(prompt)
    compiled = rule.bind(lm)
    generated: list[int] = []
    while len(generated) < tokens:
        logits = reference.steered_logits(lm, [*ids, *generated], [])[-1].clone()
        edits = edits_behind(compiled, ids, generated)
        for token, nats in edits.nats.items():
            logits[token] += nats
        token = int(logits.argmax()) if edits.forced is None else edits.forced
        if token in lm.stop_ids:
            break
        generated.append(token)
    return generated


@pytest.mark.parametrize(
    "rule",
    [
        ThinkingBudget(5),
        SwitchPenalty(LETTERS, alpha=9.0, beta=6),
        CyclicReflex(LETTERS, amplitude=4.0, period=7),
    ],
)
def test_a_row_in_a_batch_follows_its_rule_as_it_does_alone(tiny: LanguageModel, rule: LogitRule) -> None:
    decoding = Decoding(max_new_tokens=20)
    decorated = [Request(p, (rule,), decoding, key=(p, 1)) for p in PROMPTS]
    plain = [Request(p, (), decoding, key=(p, 0)) for p in PROMPTS]
    together = [request for pair in zip(decorated, plain, strict=True) for request in pair]
    for batch_size in (1, 3, 16):
        done = run(tiny, together, batch_size)
        for p in PROMPTS:
            assert list(done[p, 1].token_ids) == plainly(tiny, p, rule, 20)
            assert list(done[p, 0].token_ids) == plainly(tiny, p, ThinkingBudget(99), 20)
    changed = {p for p in PROMPTS if done[p, 1].token_ids != done[p, 0].token_ids}
    assert changed, "a rule that changes nothing would pass for any other"
    assert changed <= {p for p in PROMPTS if done[p, 0].thinking_tokens}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_budget_closes_thinking_and_says_so(tiny: LanguageModel, temperature: float) -> None:
    (closing,) = tiny.renderer.encode(tiny.markers.closing)
    decoding = Decoding(max_new_tokens=16, temperature=temperature, seed=3)
    requests = [
        Request(p, (ThinkingBudget(budget),), decoding, key=(p, budget))
        for p in PROMPTS
        for budget in (0, 5, 16)
    ]
    cut = 0
    for (p, budget), completion in run(tiny, requests).items():  # type: ignore[misc]
        ids = tiny.renderer.encode_prompt(str(p))
        marked = openness(ids, completion.token_ids, tiny.thinking)
        spent = [sum(marked[:i]) for i in range(completion.tokens)]
        over = [i for i in range(completion.tokens) if marked[i] and spent[i] >= budget]
        assert all(completion.token_ids[i] == closing for i in over)
        assert completion.forced == bool(over)
        assert spent[-1] <= budget + len(over)
        assert completion.thinking_tokens >= spent[-1]  # more where it closes once more what nothing opened
        cut += completion.forced
    assert 6 <= cut < len(requests)


def test_a_forced_closing_is_forgotten_with_the_row_that_memory_had_no_room_for(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules: list[LogitRule] = [
        ThinkingBudget(4),
        SwitchPenalty(LETTERS, 4.0, 3),
        CyclicReflex(LETTERS, 4.0, 7),
    ]
    requests = [
        Request(p, (rule,), Decoding(max_new_tokens=9), key=(p, i))
        for p in PROMPTS
        for i, rule in enumerate(rules)
    ]
    expected = {key: (c.token_ids, c.forced) for key, c in run(tiny, requests, 16).items()}
    step, steps = RunningBatch.step, 0

    def small_memory(self: RunningBatch) -> None:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(RunningBatch, "step", small_memory)
    assert {key: (c.token_ids, c.forced) for key, c in run(tiny, requests, 16).items()} == expected


def test_equal_rules_share_a_row_and_others_do_not(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    step = RunningBatch.step

    def counted(self: RunningBatch) -> None:
        rows.append(len(self.rows))
        step(self)

    monkeypatch.setattr(RunningBatch, "step", counted)
    requests = [
        Request("Think", (ThinkingBudget(tokens),), Decoding(max_new_tokens=6), key=name)
        for name, tokens in zip("abc", (3, 3, 4), strict=True)
    ]
    done = run(tiny, requests)
    assert set(rows) == {2}
    assert done["a"].token_ids == done["b"].token_ids != done["c"].token_ids


@pytest.mark.parametrize("one_token", [True, False])
def test_thinking_that_the_chat_template_opens_is_steered_counted_and_closed(one_token: bool) -> None:
    tokenizer = byte_tokenizer(markers=one_token)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("[assistant]", "[assistant]<think>\n")
    lm = LanguageModel(tiny_hf(), tokenizer, "reasoner")
    opening, closing = (tuple(lm.renderer.encode(text)) for text in (lm.markers.opening, lm.markers.closing))
    assert (len(opening), len(closing)) == ((1, 1) if one_token else (7, 8))
    vector = random_vector(lm, 3, size=0.5)
    decoding = Decoding(max_new_tokens=24)
    budget = ThinkingBudget(6)
    cells: dict[str, tuple] = {
        scope: (vector.at(1, 1.5, scope=scope),) for scope in ("thinking", "answer", "completion")
    }
    done = run(
        lm,
        [Request("hi", (), decoding, key="plain"), Request("hi", (budget,), decoding, key="cut")]
        + [Request("hi", cell, decoding, key=scope) for scope, cell in cells.items()]
        + [Request("hi", (*cell, budget), decoding, key=(scope, "cut")) for scope, cell in cells.items()],
    )
    assert done["plain"].thinking_tokens == done["plain"].tokens
    assert not done["plain"].forced
    assert done["thinking"].token_ids == done["completion"].token_ids
    assert done["answer"].token_ids == done["plain"].token_ids
    for key in ("cut", ("thinking", "cut"), ("answer", "cut"), ("completion", "cut")):
        assert done[key].token_ids[6 : 6 + len(closing)] == closing
        assert done[key].thinking_tokens == 6 + len(closing)
        assert done[key].forced
    assert done["answer", "cut"].token_ids[:6] == done["cut"].token_ids[:6]
    assert done["answer", "cut"].token_ids != done["cut"].token_ids
    assert done["thinking", "cut"].token_ids[:6] == done["completion"].token_ids[:6]


def test_markers_of_several_tokens_are_followed_through_generated_text() -> None:
    lm = LanguageModel(tiny_hf(), byte_tokenizer(markers=False), "plain")
    script = "hm<think>ab</think>c"
    forced = PromptEdit(begin=script)
    (completion,) = run(lm, [Request("hi", (forced,), Decoding(len(script)))]).values()
    assert completion.text == script
    assert completion.thinking_tokens == len("ab</think>")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ThinkingBudget(-1),
        lambda: SwitchPenalty(()),
        lambda: SwitchPenalty((" ",)),
        lambda: SwitchPenalty(("a",), alpha=0.0),
        lambda: SwitchPenalty(("a",), alpha=float("nan")),
        lambda: SwitchPenalty(("a",), beta=0),
        lambda: CyclicReflex(("a",), amplitude=float("inf")),
        lambda: CyclicReflex(("a",), period=1),
        lambda: CyclicReflex(()),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(wrong: Any) -> None:
    with pytest.raises(MisuseError):
        wrong()
