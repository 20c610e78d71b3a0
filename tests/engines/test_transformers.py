"""The packed engine: each row gets what it would get alone, by plain transformers."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from steerkit.core.errors import MisuseError, ModelInUseError, ModelMismatchError, SteerkitError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.context import steer
from steerkit.engines.transformers.batch import RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.packed import PackedBatch
from steerkit.engines.transformers.prefixes import Prefixes
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.engines import reference
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer, random_vector, tiny_hf, tiny_model

QUESTIONS = [
    "Hi!",
    "What is the capital of France?",
    "Who wrote Hamlet, and in which language was it first performed on stage?",
    "Name three colours.",
]


def mixed_cells(lm: LanguageModel) -> list[tuple[Steering, ...]]:
    """Compositions over layers, operations, scopes and gates, sized to the model's residual stream."""
    middle, late = lm.n_layers // 3, 2 * lm.n_layers // 3
    with torch.inference_mode():
        hidden = lm.decoder(
            torch.tensor([lm.renderer.encode_prompt(QUESTIONS[1])]), output_hidden_states=True
        )
    norm = hidden.hidden_states[middle][0, 1:].norm(dim=-1).mean()
    v, w = random_vector(lm, 1), random_vector(lm, 2)
    v, w = (x * float(0.4 * norm / x.direction[middle].norm()) for x in (v, w))
    return [
        (),
        (v.at(middle, 1.0),),
        (v.at(middle, -1.0), w.at(late, 1.0)),
        (v.at(middle, 1.0, operation="ablate"), w.at(middle, 0.5)),
        (v.at([middle, late], 0.2, operation="rotate"),),
        (v.at(middle, 1.0, operation="clamp", target=float(norm) / 4, scope="all"),),
        (v.at(middle, 1.0, scope="prompt"),),
        (w.at(late, 1.0, gate=PositionGate(v, 0.0)),),
    ]


def run(lm: LanguageModel, requests: list[Request], batch_size: int) -> dict[object, Completion]:
    return {c.request.key: c for c in TransformersEngine(lm, batch_size).generate(requests)}


def grid(lm: LanguageModel, decoding: Decoding) -> list[Request]:
    cells = mixed_cells(lm)
    return [
        Request(question, cell, decoding, key=(i, j))
        for (i, question), (j, cell) in itertools.product(enumerate(QUESTIONS), enumerate(cells))
    ]


def test_any_packing_gives_each_row_what_it_gets_alone(
    bundled: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        replace(request, decoding=Decoding(max_new_tokens=2 + 5 * i % 11))
        for i, request in enumerate(grid(bundled, Decoding()))
    ]
    alone = run(bundled, requests, batch_size=1)
    assert len({c.token_ids for c in alone.values()}) > 12, (
        "the cells must differ for this test to mean anything"
    )
    step, steps = RunningBatch.step, itertools.count(1)

    def once_short_of_memory(self: RunningBatch) -> None:
        if next(steps) == 9:
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(RunningBatch, "step", once_short_of_memory)
    for batch_size, order in ((10, 1), (32, -1)):  # the first is halved on the way
        packed = run(bundled, requests[::order], batch_size)
        assert packed.keys() == alone.keys()
        for key, completion in packed.items():
            assert reference.same_or_tied(bundled, alone[key], completion), (
                key,
                alone[key].text,
                completion.text,
            )


def test_rows_of_unequal_length_retire_and_refill_without_mixing(tiny: LanguageModel) -> None:
    cells = mixed_cells(tiny)
    requests = [
        Request("x" * (1 + 7 * i % 23), cells[i % len(cells)], Decoding(max_new_tokens=1 + 5 * i % 17), key=i)
        for i in range(60)
    ]
    alone = run(tiny, requests, batch_size=1)
    packed = run(tiny, requests, batch_size=9)
    assert {k: c.token_ids for k, c in packed.items()} == {k: c.token_ids for k, c in alone.items()}


@pytest.mark.parametrize(
    ("scope", "where"),
    [
        ("completion", reference.completion_positions),
        ("prompt", reference.prompt_positions),
        ("all", reference.all_positions),
    ],
)
def test_greedy_decoding_equals_a_plain_uncached_loop(
    tiny: LanguageModel, scope: str, where: reference.Where
) -> None:
    vector = random_vector(tiny, 3, size=0.5)
    requests = [
        Request(q, (vector.at(1, 1.5, scope=scope),), Decoding(max_new_tokens=12), key=q) for q in QUESTIONS
    ]
    for q, completion in run(tiny, requests, batch_size=4).items():
        ids = tiny.renderer.encode_prompt(str(q))
        push = 1.5 * vector.direction[1]
        assert list(completion.token_ids) == reference.greedy(
            tiny, ids, [(1, lambda h, push=push: h + push, where)], 12
        )


@pytest.mark.parametrize("scope", ["thinking", "answer"])
def test_thinking_and_answer_are_told_apart_inside_a_batch(scope: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "[assistant]", "[assistant]{% if messages[0]['content'][0] == 'T' %}<think>{% endif %}"
    )
    tiny = LanguageModel(tiny_hf(), tokenizer, "at times a reasoner")
    vector = random_vector(tiny, 3, size=0.5)

    def where(ids: list[int], prompt_length: int) -> list[int]:
        kinds = tiny.thinking.kinds(ids[:prompt_length], ids[prompt_length:])
        inside = [place for place, kind in enumerate(kinds, prompt_length - 1) if kind == "thinking"]
        outside = sorted(set(range(prompt_length - 1, len(ids))) - set(inside))
        return inside if scope == "thinking" else outside

    prompts = ["plain", "Think", "think <think>", "Think <think> shut </think>", "Think hard"]
    decoding = Decoding(max_new_tokens=24)
    requests = [Request(p, (vector.at(1, 1.5, scope=scope),), decoding, key=p) for p in prompts]
    for p, completion in run(tiny, requests, batch_size=3).items():
        ids = tiny.renderer.encode_prompt(str(p))
        push = 1.5 * vector.direction[1]
        assert list(completion.token_ids) == reference.greedy(
            tiny, ids, [(1, lambda h, push=push: h + push, where)], 24
        )


def test_thinking_tokens_are_counted_up_to_and_with_the_closing_marker(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (opening,), (closing,) = map(tiny.renderer.encode, (tiny.markers.opening, tiny.markers.closing))
    script = [opening, 50, 51, closing, 60, 61]
    step = RunningBatch.step

    def scripted(self: RunningBatch) -> None:
        step(self)
        for row in self.rows:
            row.generated[-1] = script[len(row.generated) - 1]

    monkeypatch.setattr(RunningBatch, "step", scripted)
    (completion,) = TransformersEngine(tiny).generate([Request("hello", decoding=Decoding(max_new_tokens=6))])
    assert completion.token_ids == tuple(script)
    assert completion.thinking_tokens == 3


def test_sampled_rows_are_the_same_in_any_packing_and_differ_by_sample(tiny: LanguageModel) -> None:
    decoding = Decoding(max_new_tokens=12, temperature=0.9, top_p=0.9, seed=4)
    requests = [Request(q, (), decoding, sample=s, key=(q, s)) for q in QUESTIONS for s in range(3)]
    greedy = [Request(q, (), Decoding(max_new_tokens=12), key=(q, "greedy")) for q in QUESTIONS]
    alone = run(tiny, requests + greedy, batch_size=1)
    packed = run(tiny, (greedy + requests)[::-1], batch_size=7)
    assert {k: c.token_ids for k, c in packed.items()} == {k: c.token_ids for k, c in alone.items()}
    assert len({c.token_ids for c in alone.values()}) == len(alone)


def test_sampling_follows_the_models_distribution(tiny: LanguageModel) -> None:
    draws = 1500
    decoding = Decoding(max_new_tokens=1, temperature=0.7)
    requests = [Request("hello", (), decoding, sample=s, key=s) for s in range(draws)]
    drawn = [c.token_ids[0] if c.token_ids else tiny.stop_ids[0] for c in run(tiny, requests, 256).values()]
    ids = torch.tensor([tiny.renderer.encode_prompt("hello")])
    with torch.inference_mode():
        expected = (tiny.hf(ids).logits[0, -1] / 0.7).softmax(-1)
    for p, token in zip(*(part.tolist() for part in expected.topk(8)), strict=True):
        assert abs(drawn.count(token) - draws * p) < 4 * (draws * p * (1 - p)) ** 0.5


def test_a_batch_that_runs_out_of_memory_is_halved_and_nothing_changes(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = grid(tiny, Decoding(max_new_tokens=9))
    expected = {k: c.token_ids for k, c in run(tiny, requests, 32).items()}
    step, refused = RunningBatch.step, []

    def small_memory(self: RunningBatch) -> None:
        if len(self.rows) > 5:
            refused.append(len(self.rows))
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(RunningBatch, "step", small_memory)
    engine = TransformersEngine(tiny, 32)
    found = {c.request.key: c.token_ids for c in engine.generate(requests)}
    assert found == expected
    assert engine.batch_size == 4
    assert len(refused) == 3


@pytest.mark.parametrize("where", ["_bind", "_repack", "_refill", "step"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_memory_may_run_out_anywhere(
    where: str, at: int, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    v = random_vector(tiny, 1)
    requests = [
        Request(f"question {i}", (v.at(1, 0.3 * (i % 3)),), Decoding(4 + i % 5), key=i) for i in range(24)
    ]
    expected = {k: c.token_ids for k, c in run(tiny, requests, 8).items()}
    original, calls = getattr(PackedBatch, where), itertools.count(1)

    def refused(self: PackedBatch, *args: object) -> None:
        if next(calls) == at:
            raise torch.OutOfMemoryError
        original(self, *args)

    monkeypatch.setattr(PackedBatch, where, refused)
    found = list(TransformersEngine(tiny, 8).generate(requests))
    assert next(calls) > at, "it never ran out"
    assert len(found) == len(requests)
    assert {c.request.key: c.token_ids for c in found} == expected


def test_prompts_run_in_smaller_batches_when_memory_ran_out(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_together, sizes = Prefixes._run, []

    def small_memory(self: Prefixes, rows: Sequence[object], first: int | None) -> None:
        sizes.append(len(rows))
        if len(rows) > 3:
            torch.empty(1 << 50)  # what a CPU says when memory runs out is no torch.OutOfMemoryError
        run_together(self, rows, first)  # type: ignore[arg-type]

    requests = [Request(f"question {i}", decoding=Decoding(3), key=i) for i in range(24)]
    monkeypatch.setattr(Prefixes, "_run", small_memory)
    assert len(run(tiny, requests, 8)) == 24
    assert sizes[:3] == [8, 4, 2]


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_row_that_overflows_leaves_the_one_after_it_alone(tiny: LanguageModel, batch_size: int) -> None:
    v = random_vector(tiny, 1)
    most = float(2e38 / v.direction[1:3].abs().max())
    overflowing = (v.at(1, most, scope="all"), v.at(1, most, scope="all"))
    sound = [Request(f"hi {i}", decoding=Decoding(20), key=i) for i in range(9)]
    sick = [Request("x" * 30 + str(i), overflowing, Decoding(3), key=f"sick {i}") for i in range(3)]
    alone = {k: c.token_ids for k, c in run(tiny, sound, 1).items()}
    together = {k: c.token_ids for k, c in run(tiny, [*sick, *sound], batch_size).items()}
    assert {k: together[k] for k in alone} == alone


def test_a_single_row_that_does_not_fit_is_an_error_with_a_remedy(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_self: RunningBatch) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(RunningBatch, "step", no_memory)
    with pytest.raises(SteerkitError, match="out of memory with a single row"):
        list(TransformersEngine(tiny, 4).generate([Request("hello")]))


def test_requests_are_drawn_from_the_caller_as_they_are_needed(tiny: LanguageModel) -> None:
    drawn = 0

    def endless() -> Iterator[Request]:
        nonlocal drawn
        for i in itertools.count():
            drawn += 1
            yield Request("hello", decoding=Decoding(max_new_tokens=2), key=i)

    completions = TransformersEngine(tiny, 4).generate(endless())
    for _ in range(10):
        next(completions)
    assert drawn <= 48


def test_no_hook_is_left_after_an_error_or_an_abandoned_stream() -> None:
    tiny = tiny_model()
    steering = random_vector(tiny).at(1, 1.0)
    completions = TransformersEngine(tiny, 2).generate([Request(q, (steering,)) for q in QUESTIONS])
    next(completions)
    assert not any(block._forward_hooks for block in tiny.blocks), "between steps the model is the user's own"
    completions.close()
    bad = tiny.blocks[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(TransformersEngine(tiny, 2).generate([Request("hello", (steering,))]))
    bad.remove()
    assert not any(block._forward_hooks for block in tiny.blocks)
    assert not tiny.is_steered


def test_scores_are_the_log_probabilities_of_plain_transformers(bundled: LanguageModel) -> None:
    lm = bundled
    cells = mixed_cells(lm)[:2]
    vector, layer = (cells[1][0].vector, cells[1][0].layers[0])
    asked = [
        ScoreRequest(q, answer, cell, key=(q, answer))
        for q, answer in zip(
            QUESTIONS, ["Hello, how are you?", "Paris", "William Shakespeare", "Red"], strict=True
        )
        for cell in cells
    ]
    for request, score in zip(asked, TransformersEngine(lm).score(asked), strict=True):
        text = lm.renderer.encode_pair(request.prompt, request.continuation)
        push = vector.direction[layer]
        where = list(range(text.prompt_length - 1, len(text.ids)))
        edits = [(layer, lambda h, push=push: h + push, where)] if request.interventions else []
        logits = reference.steered_logits(lm, text.ids, edits)[:-1].log_softmax(-1)
        expected = logits.gather(-1, torch.tensor(text.ids[1:])[:, None])[text.prompt_length - 1 :, 0]
        torch.testing.assert_close(torch.tensor(score.log_probabilities), expected, rtol=2e-4, atol=2e-4)


def test_a_vector_of_another_model_is_refused(tiny: LanguageModel) -> None:
    other = tiny_model(seed=1)
    wider = tiny_model(seed=1, width=64)
    with pytest.raises(ModelMismatchError, match="width 64"):
        list(TransformersEngine(tiny).generate([Request("hello", (random_vector(wider).at(1),))]))
    foreign = Request("hello", (random_vector(other).at(1),), Decoding(max_new_tokens=2))
    with pytest.raises(ModelMismatchError, match="other weights"):
        list(TransformersEngine(tiny).generate([foreign]))
    assert list(TransformersEngine(tiny, allow_mismatch=True).generate([foreign]))


def test_a_prompt_that_the_context_cannot_hold_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="reads 512"):
        list(TransformersEngine(tiny).generate([Request("x" * 500)]))


def test_a_prompt_of_one_token_is_steered_like_any_other() -> None:
    tiny = tiny_model()
    tiny.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    steering = random_vector(tiny, 3, size=0.5).at(1, 1.5)
    push = 1.5 * steering.vector.direction[1]
    for prompts in (["a", "b"], ["a", "hello"]):
        found = run(tiny, [Request(p, (steering,), Decoding(max_new_tokens=8), key=p) for p in prompts], 4)
        for p, completion in found.items():
            edits = [(1, lambda h: h + push, reference.completion_positions)]
            ids = tiny.renderer.encode_prompt(str(p))
            assert list(completion.token_ids) == reference.greedy(tiny, ids, edits, 8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 2},
    ],
)
def test_a_decoding_that_cannot_be_meant_is_refused(wrong: dict) -> None:
    with pytest.raises(MisuseError, match=next(iter(wrong))):
        Decoding(**wrong)


def test_a_second_thread_s_engine_is_told_who_holds_the_model(tiny: LanguageModel) -> None:
    told: list[type[Exception]] = []

    def attempt() -> None:
        try:
            list(TransformersEngine(tiny).generate([Request("hello")]))
        except SteerkitError as error:
            told.append(type(error))

    with steer(tiny, random_vector(tiny).at(1)):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert told == [ModelInUseError]


def test_a_batch_that_ran_out_of_memory_holds_none_when_it_starts_again(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, admit, held = RunningBatch.step, RunningBatch.admit, []

    def refuses_once(self: RunningBatch) -> None:
        if not held:
            held.append(weakref.ref(self._cache))
            raise torch.OutOfMemoryError
        step(self)

    def starting_again(self: RunningBatch, joining: list) -> None:
        if held:
            assert held[0]() is None, "the keys and values of the lost batch are still held"
        admit(self, joining)

    monkeypatch.setattr(RunningBatch, "step", refuses_once)
    monkeypatch.setattr(RunningBatch, "admit", starting_again)
    assert len(list(TransformersEngine(tiny, 4).generate([Request(q) for q in QUESTIONS]))) == len(QUESTIONS)


def test_steered_prompts_share_the_blocks_below_and_lose_nothing(bundled: LanguageModel) -> None:
    v = random_vector(bundled, 3)
    early, late = bundled.n_layers // 3, bundled.n_layers // 2
    cells = [
        (v.at(layer, s, scope=scope),)
        for layer in (early, late)
        for s in (1.0, -2.0)
        for scope in ("all", "prompt")
    ]
    requests = [
        Request(question, cell, Decoding(max_new_tokens=6), key=(i, j))
        for i, question in enumerate(QUESTIONS)
        for j, cell in enumerate(cells)
    ]
    # What is tried at first use is tried before rows are counted.
    run(bundled, requests[: len(cells)], batch_size=len(cells))
    rows_at_first_block: list[int] = []
    rows_at_last_block: list[int] = []
    watch = [
        bundled.blocks[place].register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append(args[0].shape[:2])
        )
        for place, seen in ((0, rows_at_first_block), (-1, rows_at_last_block))
    ]
    try:
        packed = run(bundled, requests, batch_size=len(requests))
    finally:
        for handle in watch:
            handle.remove()
    prompts = [(a[0], b[0]) for a, b in zip(rows_at_first_block, rows_at_last_block, strict=True) if a[1] > 1]
    assert prompts == [(len(QUESTIONS), len(requests) // 2)] * 2, (
        "one pass a layer, one row a prompt below it"
    )
    alone = run(bundled, requests, batch_size=1)
    for key, completion in packed.items():
        assert reference.same_or_tied(bundled, alone[key], completion)


def test_a_prompt_is_encoded_once_however_often_it_is_asked_and_checked(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = tiny.renderer.encode

    def counting(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    monkeypatch.setattr(tiny.renderer, "encode", counting)
    engine = TransformersEngine(tiny)
    requests = [Request(f"Why {i % 2}?", (random_vector(tiny).at(1, i),), Decoding(2)) for i in range(1, 9)]
    for request in requests:
        engine.check(request)
    list(engine.generate(requests))
    assert len(encoded) == len(set(encoded)) == 2
