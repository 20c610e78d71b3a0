"""Several requests at once: their events as they come, and what has been written so far."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Completion, Request
from steerkit.interventions.readers import Reader
from steerkit.serving.scheduler import Scheduler

K = TypeVar("K", bound=Hashable)

PAUSE = 0.12  # seconds between two looks at what has been written


@dataclass
class Written:
    """What is there of one request: text, tokens and what was read of them so far, then its completion or its error."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    readings: dict[Reader, list[float | None]] = field(default_factory=dict)
    completion: Completion | None = None
    error: SteerkitError | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.completion is not None or self.error is not None


async def write(scheduler: Scheduler, requests: Mapping[K, Request]) -> AsyncIterator[Mapping[K, Written]]:
    """Run all requests at once and yield what is written of each, by key: a few times a second, and when all are over.

    One that fails ends with its error and leaves the others alone. All are cancelled when the consumer stops.
    """
    written = {key: Written() for key in requests}
    tasks = [
        asyncio.create_task(_follow(scheduler, request, written[key])) for key, request in requests.items()
    ]
    try:
        pending = set(tasks)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=PAUSE)
            yield written
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(scheduler: Scheduler, request: Request, written: Written) -> None:
    try:
        async with contextlib.aclosing(scheduler.stream(request)) as events:
            async for event in events:
                written.text += event.text
                written.token_ids += event.token_ids
                for reader, values in event.readings.items():
                    written.readings.setdefault(reader, []).extend(values)
                written.completion, written.error = event.completion, event.error
    except SteerkitError as error:
        written.error = error
