"""A session: whatever shares its batch, and whenever it comes, each request gets what it gets alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest

from steerkit.core.errors import MisuseError, QueueFullError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.session import Event, Session, Ticket
from steerkit.models import LanguageModel
from tests.engines.test_transformers import QUESTIONS, mixed_cells

HOWS = [
    Decoding(9),
    Decoding(14, temperature=0.9, top_p=0.9, seed=3),
    Decoding(11, repetition_penalty=1.3),
    Decoding(17, stop=("e", "th")),
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
    engine = TransformersEngine(lm, 1)
    return [done for request in requests for done in engine.generate([request])]


def drained(session: Session, coming: Sequence[Request] = (), every: int = 1) -> dict[Ticket, list[Event]]:
    """All events of a session by ticket; another request is submitted every few steps."""
    events: defaultdict[Ticket, list[Event]] = defaultdict(list)
    left, steps = list(coming), 0
    while left or not session.idle:
        if left and steps % every == 0:
            session.submit(left.pop(0))
        for event in session.step():
            events[event.ticket].append(event)
        steps += 1
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
        found[done.request.key] = done
    return found


@pytest.mark.parametrize(("batch_size", "every"), [(64, 1), (6, 1), (16, 3)])
def test_requests_that_come_and_go_get_what_they_get_alone(
    tiny: LanguageModel, batch_size: int, every: int
) -> None:
    requests = mixed_requests(tiny, 64)
    expected = alone(tiny, requests)
    session = Session(TransformersEngine(tiny, batch_size))
    found = completions(drained(session, requests, every))
    assert {key: (c.text, c.token_ids, c.finish) for key, c in found.items()} == {
        c.request.key: (c.text, c.token_ids, c.finish) for c in expected
    }


def test_what_the_engine_refuses_is_refused_when_it_is_submitted(tiny: LanguageModel) -> None:
    session = Session(TransformersEngine(tiny, 2), most_waiting=2)
    with pytest.raises(MisuseError, match="lower max_new_tokens"):
        session.submit(Request("Hi", decoding=Decoding(100_000)))
    session.submit(Request("one"))
    session.submit(Request("two"))
    with pytest.raises(QueueFullError, match="2 requests wait already: try again later"):
        session.submit(Request("three"))
    assert len(completions(drained(session))) == 1  # both have the key None
    assert session.idle
    assert session.step() == []


def test_a_cancelled_request_has_no_further_event_and_changes_nobody(tiny: LanguageModel) -> None:
    requests = mixed_requests(tiny, 6)
    expected = alone(tiny, requests)
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
    assert {key: c.text for key, c in completions(by_ticket).items()} == {
        c.request.key: c.text for i, c in enumerate(expected) if i not in (1, 5)
    }
