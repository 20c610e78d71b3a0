"""A session on a thread of its own, for any number of asyncio tasks.

1. The model belongs to that thread: it alone steps, and what else needs the model while it serves goes through `run`.
2. After each step events go to the tasks that wait for them, all of a loop in one call.
3. A task that stops listening cancels its request.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from steerkit.core.errors import ModelInUseError, SteerkitError
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest
from steerkit.engines.transformers.session import Event, Session, Ticket

T = TypeVar("T")
IN_USE = 0.02  # seconds until a model that another thread steers is asked for again


class _Mailbox(NamedTuple):
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event]


class Scheduler:
    """Runs a session between `start` and `close`, which a `with` block calls."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._thread: threading.Thread | None = None
        self._closing = False
        self._lock = threading.Lock()  # held while the two below change
        self._mailboxes: dict[Ticket, _Mailbox] = {}
        self._work: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, so that a request would be answered."""
        return self._thread is not None and self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Start the thread."""
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="steerkit-scheduler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the step under way; requests that are not answered get an error."""
        self._closing = True
        self.session.poke()
        if self._thread is not None:
            self._thread.join()
        self._end_all(SteerkitError("the server was closed before the request was answered"))

    def __enter__(self) -> Scheduler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def stream(self, request: Request, **options: Any) -> AsyncGenerator[Event, None]:
        """Yield a request's events, the last of which has the completion or an error; `options` as in `Session.submit`.

        Raises what `Session.submit` does before the first event.
        """
        await asyncio.to_thread(self.session.check, request)  # a long prompt takes its time to be read
        events: asyncio.Queue[Event] = asyncio.Queue()
        with self._lock:
            if not self.alive:
                raise SteerkitError("the scheduler does not run: start it first")
            ticket = self.session.submit(request, **options)
            self._mailboxes[ticket] = _Mailbox(asyncio.get_running_loop(), events)
        try:
            while True:
                event = await events.get()
                yield event
                if event.is_last:
                    return
        finally:
            with self._lock:
                gone = self._mailboxes.pop(ticket, None)
            if gone is not None:
                self.session.cancel(ticket)

    async def complete(self, request: Request) -> Completion:
        """Return a request's completion; raises the error for which there is none."""
        async for event in self.stream(request, streams=False):
            if event.error is not None:
                raise event.error
            if event.completion is not None:
                return event.completion
        raise AssertionError("a stream ends with a completion or an error")

    async def score(self, request: ScoreRequest) -> ContinuationScore:
        """Return the score of a given continuation, taken between two steps."""
        [score] = await self.run(lambda: self.session.engine.score([request]))
        return score

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work`, which needs the model for itself, between two steps; requests wait meanwhile."""
        done: Future[T] = Future()
        with self._lock:
            self._work.append((done, work))
        self.session.poke()
        return await asyncio.wrap_future(done)

    def _loop(self) -> None:
        while not self._closing:
            self.session.wait()
            self._do_work()
            try:
                events = self.session.step()
            except ModelInUseError:  # the user's own code steers it: its turn ends, and ours comes
                time.sleep(IN_USE)
            except Exception as error:
                self._end_all(SteerkitError(f"the server could not go on: {error}"))
            else:
                self._deliver(events)

    def _do_work(self) -> None:
        while self._work:
            with self._lock:
                done, work = self._work.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

    def _deliver(self, events: Iterable[Event]) -> None:
        by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Event], Event]]]
        by_loop = defaultdict(list)
        with self._lock:
            for event in events:
                if (mailbox := self._mailboxes.get(event.ticket)) is not None:
                    by_loop[mailbox.loop].append((mailbox.events, event))
                if event.is_last:
                    self._mailboxes.pop(event.ticket, None)
        for loop, letters in by_loop.items():
            with suppress(RuntimeError):  # a loop that was closed has nobody left who waits
                loop.call_soon_threadsafe(_put, letters)

    def _end_all(self, error: SteerkitError) -> None:
        with self._lock:
            tickets = list(self._mailboxes)
        for ticket in tickets:
            self.session.cancel(ticket)
        self._deliver(Event(ticket, error=error) for ticket in tickets)


def _put(letters: Iterable[tuple[asyncio.Queue[Event], Event]]) -> None:
    for queue, event in letters:
        queue.put_nowait(event)
