"""Between the scheduler and a client: several rows in one stream, and clients that leave, or do not read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Request
from steerkit.engines.transformers.session import Event
from steerkit.serving.refusals import RefusalError, json_text

Result = TypeVar("Result")
AHEAD = 64  # events of several rows that wait to be sent


class Streams(Protocol):
    """What a scheduler does here."""

    def stream(self, request: Request, **options: Any) -> AsyncGenerator[Event, None]:
        """Yield a request's events; it is cancelled where the consumer stops."""


async def merged(
    scheduler: Streams, rows: Sequence[Request], **options: Any
) -> AsyncGenerator[tuple[int, Event], None]:
    """Yield the events of rows as they come, each with its row's place. All are cancelled where the consumer stops.

    `options` are those of `Session.submit`. Raises the first error of a row.
    """
    if len(rows) == 1:
        async with contextlib.aclosing(scheduler.stream(rows[0], **options)) as events:
            async for event in events:
                _raise_error(event)
                yield 0, event
        return
    waiting: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue(AHEAD)

    async def follow(place: int, row: Request) -> None:
        try:
            async with contextlib.aclosing(scheduler.stream(row, **options)) as events:
                async for event in events:
                    await waiting.put((place, event))
        except Exception as error:  # whatever it is, the consumer has to know
            await waiting.put(error)

    tasks = [asyncio.create_task(follow(place, row)) for place, row in enumerate(rows)]
    try:
        left = len(rows)
        while left:
            found = await waiting.get()
            if isinstance(found, Exception):
                raise found
            _raise_error(found[1])
            yield found
            left -= found[1].is_last
    finally:
        await _cancelled(tasks)


def _raise_error(event: Event) -> None:
    if event.error is not None:
        raise event.error


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_left(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return what `work` returns; None, and `work` is cancelled, where the client leaves before."""
    job, left = asyncio.create_task(work), asyncio.create_task(_left(http.receive))
    try:
        await asyncio.wait({job, left}, return_when=asyncio.FIRST_COMPLETED)
        return job.result() if job.done() else None
    finally:
        await _cancelled([job, left])


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events: `first` and then `pieces`, each JSON, and at the end what OpenAI's clients look for.

    Ends early, and with it what is behind `pieces`, where the client leaves or does not read for `write_seconds`.
    """

    media_type = "text/event-stream"

    def __init__(self, first: str, pieces: AsyncGenerator[str, None], write_seconds: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._pieces = pieces
        self._write_seconds = write_seconds

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        sending, left = asyncio.create_task(self._sent(send)), asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _cancelled([sending, left])
            await self._pieces.aclose()

    async def _sent(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)

        async def written(data: str, *, more: bool = True) -> None:
            body = f"data: {data}\n\n".encode("ascii")
            async with asyncio.timeout(self._write_seconds):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        with contextlib.suppress(TimeoutError, OSError):  # who does not read, or has left, is told no more
            await written(self._first)
            try:
                async for piece in self._pieces:
                    await written(piece)
            except SteerkitError as error:
                await written(json_text(RefusalError(str(error), status=500).body))
            await written("[DONE]", more=False)
