"""The scheduler: many tasks ask one model, each hears of its own request alone, and whoever leaves is forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from steerkit.core.errors import MisuseError, QueueFullError, SteerkitError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.session import Session
from steerkit.models import LanguageModel
from steerkit.serving.scheduler import Scheduler
from tests.engines.test_session import alone, mixed_requests


@pytest.fixture
def scheduler(tiny: LanguageModel) -> Iterator[Scheduler]:
    with Scheduler(Session(TransformersEngine(tiny, 8), most_waiting=32)) as running:
        yield running


async def text_of(scheduler: Scheduler, request: Request) -> tuple[str, Completion | None]:
    text = ""
    async for event in scheduler.stream(request):
        text += event.text
        if event.is_last:
            return text, event.completion
    raise AssertionError("it never ended")


def test_each_task_hears_of_its_own_request(tiny: LanguageModel, scheduler: Scheduler) -> None:
    requests = mixed_requests(tiny, 12)

    async def all_at_once() -> tuple[list[tuple[str, Completion | None]], list[Completion]]:
        streamed = asyncio.gather(*(text_of(scheduler, request) for request in requests[::2]))
        whole = asyncio.gather(*(scheduler.complete(request) for request in requests[1::2]))
        return await streamed, await whole

    streamed, whole = asyncio.run(all_at_once())
    expected = [done.text for done in alone(tiny, requests)]
    assert [text for text, _ in streamed] == expected[::2]
    assert [done.text for _, done in streamed if done] == expected[::2]
    assert [done.text for done in whole] == expected[1::2]
    assert scheduler.session.idle


def test_a_task_that_stops_listening_cancels_its_request(scheduler: Scheduler) -> None:
    async def leave() -> None:
        async for _ in scheduler.stream(Request("Hi", decoding=Decoding(400))):
            break

    async def both() -> Completion:
        await leave()
        return await scheduler.complete(Request("Hi", decoding=Decoding(5)))

    assert asyncio.run(both()).tokens == 5
    assert scheduler.session.idle


def test_what_cannot_be_asked_is_raised_before_the_first_event(scheduler: Scheduler) -> None:
    with pytest.raises(MisuseError, match="lower max_new_tokens"):
        asyncio.run(scheduler.complete(Request("Hi", decoding=Decoding(10_000))))
    crowd = [Request(f"Hi {i}", decoding=Decoding(60)) for i in range(60)]

    async def too_many() -> list[object]:
        return list(await asyncio.gather(*map(scheduler.complete, crowd), return_exceptions=True))

    ended = asyncio.run(too_many())
    assert any(isinstance(each, QueueFullError) for each in ended)
    assert all(isinstance(each, QueueFullError | Completion) for each in ended)


def test_work_that_needs_the_model_runs_on_its_thread_between_steps(scheduler: Scheduler) -> None:
    async def both() -> tuple[Completion, str, float]:
        request = asyncio.ensure_future(scheduler.complete(Request("Hi", decoding=Decoding(60))))
        await asyncio.sleep(0)
        score = await scheduler.score(ScoreRequest("Hi", "you"))
        return await request, await scheduler.run(lambda: threading.current_thread().name), score.total

    done, name, total = asyncio.run(both())
    assert (done.tokens, name) == (60, "steerkit-scheduler")
    assert total < 0
    with pytest.raises(ZeroDivisionError):
        asyncio.run(scheduler.run(lambda: 1 // 0))


def test_a_model_that_another_thread_steers_is_waited_for(tiny: LanguageModel, scheduler: Scheduler) -> None:
    async def beside() -> Completion:
        with tiny.steered_by_this_thread():
            asked = asyncio.ensure_future(scheduler.complete(Request("Hi", decoding=Decoding(5))))
            await asyncio.sleep(0.1)
            assert not asked.done()
        return await asked

    assert asyncio.run(beside()).tokens == 5


def test_whoever_waits_when_it_closes_is_told(tiny: LanguageModel) -> None:
    scheduler = Scheduler(Session(TransformersEngine(tiny, 2)))
    with pytest.raises(SteerkitError, match="start it first"):
        asyncio.run(scheduler.complete(Request("Hi")))
    scheduler.start()

    async def closed() -> None:
        asked = asyncio.ensure_future(scheduler.complete(Request("Hi", decoding=Decoding(450))))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(scheduler.close)
        await asked

    with pytest.raises(SteerkitError, match="closed before the request was answered"):
        asyncio.run(closed())
    assert not scheduler.alive
