"""Clients that leave, or do not read, end what is written for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest

from steerkit.core.errors import QueueFullError, SteerkitError
from steerkit.engines.base import Completion, Request
from steerkit.engines.transformers.session import Event, Ticket
from steerkit.serving.streams import EventStream, merged, until_left

ROWS = [Request(str(number)) for number in range(5)]


class Endless:
    """A scheduler whose rows never end, but those that are told to; it knows which are under way."""

    def __init__(self, *, ends: int = 0, refuses: str = "", fails: str = "") -> None:
        self.under_way: set[str] = set()
        self._ends, self._refuses, self._fails = ends, refuses, fails

    async def stream(self, request: Request, **_options: Any) -> AsyncGenerator[Event, None]:
        prompt = str(request.prompt)
        if prompt == self._refuses:
            raise QueueFullError("too many wait")
        ticket, number = Ticket(request), 0
        self.under_way.add(prompt)
        try:
            while True:
                await asyncio.sleep(0)
                number += 1
                if self._ends and number == self._ends:
                    yield Event(ticket, completion=Completion(request, "", (), "length", 1))
                    return
                failed = SteerkitError("lost") if prompt == self._fails else None
                yield Event(ticket, text=f"{prompt} ", error=failed)
        finally:
            self.under_way.remove(prompt)


def test_rows_are_merged_and_each_ends() -> None:
    async def all_of_it() -> list[tuple[int, Event]]:
        return [found async for found in merged(Endless(ends=4), ROWS)]

    found = asyncio.run(all_of_it())
    assert len(found) == 5 * 4
    for place, row in enumerate(ROWS):
        mine = [event for at, event in found if at == place]
        assert "".join(event.text for event in mine) == f"{row.prompt} " * 3
        assert mine[-1].is_last


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS])
def test_a_consumer_that_stops_cancels_all_rows(rows: list[Request]) -> None:
    scheduler = Endless()

    async def some() -> None:
        events = merged(scheduler, rows)
        for _ in range(7):
            await anext(events)
        assert scheduler.under_way
        await events.aclose()

    asyncio.run(some())
    assert not scheduler.under_way


@pytest.mark.parametrize("broken", [{"refuses": "3"}, {"fails": "3"}])
def test_one_row_that_fails_ends_the_others(broken: dict[str, str]) -> None:
    scheduler = Endless(**broken)

    async def some() -> None:
        async for _ in merged(scheduler, ROWS):
            pass

    with pytest.raises(SteerkitError, match=r"too many wait|lost"):
        asyncio.run(some())
    assert not scheduler.under_way


async def _pieces(scheduler: Endless) -> AsyncGenerator[str, None]:
    async for _, event in merged(scheduler, ROWS):
        yield event.text


def test_a_client_that_reads_nothing_is_given_up() -> None:
    scheduler, sent = Endless(), []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:  # its buffers are full
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    asyncio.run(EventStream("first", _pieces(scheduler), 0.05)({}, receive, send))
    assert len(sent) == 4
    assert not scheduler.under_way


def test_a_client_that_leaves_ends_its_stream() -> None:
    scheduler, gone = Endless(), asyncio.Event()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 20:
            gone.set()
        await asyncio.sleep(0)

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    asyncio.run(EventStream("first", _pieces(scheduler), 5.0)({}, receive, send))
    assert not scheduler.under_way
    assert sent[1]["body"] == b"data: first\n\n"


def test_a_client_that_leaves_ends_work_of_which_nothing_was_sent() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def work() -> None:
        async for _ in merged(scheduler, ROWS):
            pass

    scheduler = Endless()
    assert asyncio.run(until_left(HttpRequest({"type": "http"}, receive), work())) is None
    assert not scheduler.under_way


def test_what_fails_within_a_stream_is_said_in_it() -> None:
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    asyncio.run(EventStream("first", _pieces(Endless(fails="2")), 5.0)({}, receive, send))
    assert b'"message":"lost"' in sent[-2]
    assert sent[-1] == b"data: [DONE]\n\n"
