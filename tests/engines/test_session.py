"""A session: whatever shares its batch, and whenever it comes, each request gets what it gets alone."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch

from steerkit.core.errors import MisuseError, ModelInUseError, QueueFullError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.engines.transformers import stepping
from steerkit.engines.transformers.batch import Row, RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.prefixes import Prefixes
from steerkit.engines.transformers.session import Event, Session, Ticket
from steerkit.interventions.readers import NamedReader, VectorReader
from steerkit.models import LanguageModel
from tests.engines.test_transformers import QUESTIONS, mixed_cells
from tests.tiny import random_vector

HOWS = [
    Decoding(4),
    Decoding(7, temperature=0.9, top_p=0.9, seed=3),
    Decoding(6, repetition_penalty=1.3),
    Decoding(9, stop=("e", "th")),
]


def mixed_requests(lm: LanguageModel, count: int) -> list[Request]:
    cells = mixed_cells(lm)
    return [
        Request(
            QUESTIONS[i % len(QUESTIONS)] + "?" * (i % 5),
            cells[i % len(cells)],
            HOWS[i % len(HOWS)],
            sample=i % 3,
            key=i,
        )
        for i in range(count)
    ]


def alone(lm: LanguageModel, requests: Iterable[Request]) -> list[Completion]:
    """Their completions one at a time, in the order of the requests."""
    engine = TransformersEngine(lm, 1)
    return [done for request in requests for done in engine.generate([request])]


@pytest.fixture(scope="module")
def expected(tiny: LanguageModel) -> dict[object, Completion]:
    """What the mixed requests get alone."""
    return {done.request.key: done for done in alone(tiny, mixed_requests(tiny, 64))}


def same(found: dict[object, Completion], expected: dict[object, Completion]) -> bool:
    return all(
        (done.text, done.token_ids, done.finish)
        == (expected[key].text, expected[key].token_ids, expected[key].finish)
        for key, done in found.items()
    )


def drained(session: Session, coming: Sequence[Request] = ()) -> dict[Ticket, list[Event]]:
    """All events of a session by ticket; one request of those to come is submitted at each step."""
    events: defaultdict[Ticket, list[Event]] = defaultdict(list)
    left = list(coming)
    while left or not session.idle:
        if left:
            session.submit(left.pop(0))
        for event in session.step():
            events[event.ticket].append(event)
    return events


def completions(events: dict[Ticket, list[Event]]) -> dict[object, Completion]:
    found = {}
    for ticket, told in events.items():
        assert [event.is_last for event in told] == [False] * (len(told) - 1) + [True]
        done = told[-1].completion
        assert done is not None, told[-1].error
        assert done.request is ticket.request
        assert "".join(event.text for event in told) == done.text
        assert tuple(token for event in told for token in event.token_ids) == done.token_ids
        for reading in done.readings:
            values = (value for event in told for value in event.readings.get(reading.reader, ()))
            assert tuple(values) == reading.completion
        found[done.request.key] = done
    return found


@pytest.mark.parametrize("coming", [64, 1])
def test_requests_that_come_and_go_get_what_they_get_alone(
    tiny: LanguageModel, expected: dict[object, Completion], coming: int
) -> None:
    """They come all at once, and one a step."""
    requests = mixed_requests(tiny, 64)
    session = Session(TransformersEngine(tiny, 12))
    for request in requests[:coming]:
        session.submit(request)
    found = completions(drained(session, requests[coming:]))
    assert len(found) == 64
    assert same(found, expected)


def test_a_prompt_that_comes_again_is_not_run_again(
    tiny: LanguageModel, expected: dict[object, Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ran = Prefixes._run, list[object]()

    def counted(self: Prefixes, rows: Sequence[Row], first: int | None) -> None:
        ran.extend(row.prefix_key for row in rows)
        run(self, rows, first)

    monkeypatch.setattr(Prefixes, "_run", counted)
    monkeypatch.setattr(stepping, "KEPT_TOKENS", 10_000)
    requests = mixed_requests(tiny, 64)
    session = Session(TransformersEngine(tiny, 8))
    left, found = iter(requests), dict[object, Completion]()
    for request in itertools.islice(left, 8):
        session.submit(request)
    while not session.idle:
        for event in session.step():
            if event.completion is not None:
                found[event.ticket.request.key] = event.completion
                for request in itertools.islice(left, 1):
                    session.submit(request)
    assert same(found, expected)
    assert len(ran) == len(set(ran)) < 40


def test_prefixes_that_are_kept_have_an_end(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "KEPT_TOKENS", 100)
    session = Session(TransformersEngine(tiny, 2))
    prefixes = session._stepping._batch._prefixes  # type: ignore[attr-defined]
    for number in range(12):
        session.submit(Request("So " * number + "why?", (), Decoding(2 + number)))
        session.step()
        kept = {id(prefix.source): prefix.tokens for prefix in prefixes._known.values()}
        assert sum(kept.values()) <= 100
    assert kept
    while not session.idle:
        session.step()
    assert not prefixes._known


def test_what_the_engine_refuses_is_refused_when_it_is_submitted(tiny: LanguageModel) -> None:
    session = Session(TransformersEngine(tiny, 2), most_waiting=2)
    with pytest.raises(MisuseError, match="lower max_new_tokens"):
        session.submit(Request("Hi", decoding=Decoding(100_000)))
    session.submit(Request("one", decoding=Decoding(3)))
    session.submit(Request("two", decoding=Decoding(3)))
    with pytest.raises(QueueFullError, match="2 requests wait already: try again later"):
        session.submit(Request("three"))
    assert len(completions(drained(session))) == 1  # both have the key None
    assert session.idle
    assert session.step() == []


def test_a_cancelled_request_has_no_further_event_and_changes_nobody(
    tiny: LanguageModel, expected: dict[object, Completion]
) -> None:
    requests = mixed_requests(tiny, 6)
    session = Session(TransformersEngine(tiny, 4))
    tickets = [session.submit(request) for request in requests]
    events = session.step() + session.step()
    for gone in (tickets[1], tickets[5]):  # one that decodes, one that waits
        session.cancel(gone)
    before = len([event for event in events if event.ticket is tickets[1]])
    while not session.idle:
        events += session.step()
    session.cancel(tickets[0])  # is over already
    assert session.step() == []
    assert session.idle
    by_ticket: dict[Ticket, list[Event]] = {t: [e for e in events if e.ticket is t] for t in tickets}
    assert len(by_ticket.pop(tickets[1])) == before
    assert not by_ticket.pop(tickets[5])
    found = completions(by_ticket)
    assert found.keys() == {0, 2, 3, 4}
    assert same(found, expected)


def test_what_is_read_comes_with_the_tokens(tiny: LanguageModel) -> None:
    vector = random_vector(tiny, 4)
    readers = (VectorReader(vector, 1), NamedReader("log-probability"), VectorReader(vector, 3))
    requests = [
        replace(request, readers=readers[: 1 + i % 3]) for i, request in enumerate(mixed_requests(tiny, 8))
    ]
    session = Session(TransformersEngine(tiny, 6))
    events = drained(session, requests)
    found = completions(events)
    for done in alone(tiny, requests):
        for ours, plain in zip(found[done.request.key].readings, done.readings, strict=True):
            assert ours.prompt == pytest.approx(plain.prompt, abs=1e-4, nan_ok=True)
            assert ours.completion == pytest.approx(plain.completion, abs=1e-4, nan_ok=True)
    with_readings = [event for told in events.values() for event in told[:-1] if event.readings]
    assert len(with_readings) > 10, "they do not come before the end"


def test_log_probabilities_are_the_steered_models_own(tiny: LanguageModel) -> None:
    prompt = QUESTIONS[1]
    hows = [Decoding(8), Decoding(8, temperature=1.2, seed=1), Decoding(8, repetition_penalty=1.5)]
    session = Session(TransformersEngine(tiny, 4))
    tickets = [session.submit(Request(prompt, (), how, key=i), top_logprobs=i) for i, how in enumerate(hows)]
    quiet = session.submit(Request(prompt, (), hows[0]), streams=False, top_logprobs=3)
    plain = session.submit(Request(prompt, (), hows[0]))
    events = drained(session)
    assert len(events[quiet]) == 1
    assert not any(event.logprobs for event in events[plain])
    for n, ticket in [*enumerate(tickets), (3, quiet)]:
        said = [each for event in events[ticket] for each in event.logprobs]
        done = events[ticket][-1].completion
        assert done is not None
        ids = tiny.renderer.encode_prompt(prompt)
        with torch.inference_mode():
            logits = tiny.hf(torch.tensor([[*ids, *done.token_ids]])).logits[0, len(ids) - 1 : -1]
        expected = logits.float().log_softmax(-1)
        assert [each.token_id for each in said] == list(done.token_ids)
        for each, nats in zip(said, expected, strict=True):
            values, likeliest = nats.topk(n)
            assert each.logprob == pytest.approx(float(nats[each.token_id]), abs=1e-4)
            assert [token for token, _ in each.top] == likeliest.tolist()
            assert [value for _, value in each.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_batch_that_is_halved_takes_nothing_back(
    tiny: LanguageModel, expected: dict[object, Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = mixed_requests(tiny, 24)
    step, steps = RunningBatch.step, itertools.count(1)

    def sometimes(self: RunningBatch) -> None:
        if next(steps) in (6, 9):
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(RunningBatch, "step", sometimes)
    engine = TransformersEngine(tiny, 16)
    session = Session(engine)
    found = completions(drained(session, requests))
    assert same(found, expected)
    assert engine.batch_size == 16, "once nothing runs, memory may be asked for in full again"


def test_an_error_of_the_model_ends_the_rows_that_decode_and_the_session_goes_on(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = RunningBatch.step

    def broken(self: RunningBatch) -> None:
        if any(row.prompt_ids == bad for row in self.rows):
            raise RuntimeError("shapes do not match")
        step(self)

    bad = tuple(tiny.renderer.encode_prompt("bad"))
    monkeypatch.setattr(RunningBatch, "step", broken)
    session = Session(TransformersEngine(tiny, 2))
    requests = [Request(prompt, (), Decoding(6), key=prompt) for prompt in ("good", "bad", "better", "best")]
    tickets = [session.submit(request) for request in requests]
    events = drained(session)
    for ticket in tickets[:2]:
        [event] = events.pop(ticket)
        assert str(event.error) == "the model could not go on: RuntimeError: shapes do not match"
    found = completions(events)
    assert same(found, {done.request.key: done for done in alone(tiny, requests[2:])})
    assert len(found) == 2


def test_a_model_that_another_thread_steers_is_left_alone(tiny: LanguageModel) -> None:
    session = Session(TransformersEngine(tiny, 4))
    session.submit(Request("before", (), Decoding(4), key=0))
    events = session.step()
    session.submit(Request("after", (), Decoding(4), key=1))
    opened, over = threading.Event(), threading.Event()

    def steer() -> None:
        with tiny.steered_by_this_thread():
            opened.set()
            over.wait(10)

    other = threading.Thread(target=steer)
    other.start()
    opened.wait(10)
    try:
        for _ in range(2):
            with pytest.raises(ModelInUseError):
                session.step()
    finally:
        over.set()
        other.join()
    found = drained(session)
    for event in events:
        found[event.ticket].insert(0, event)
    assert len(completions(found)) == 2
