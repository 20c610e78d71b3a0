"""What the server answers: chat completions, completions, models and its health."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from steerkit.core.errors import InputError, MisuseError, QueueFullError, SteerkitError
from steerkit.engines.base import Completion
from steerkit.engines.transformers.session import Event
from steerkit.serving.admission import Admission, Job
from steerkit.serving.answers import Form, Said, scored
from steerkit.serving.bodies import read_body
from steerkit.serving.limits import RETRY_SECONDS, Limits
from steerkit.serving.refusals import RefusalError, json_response, json_text
from steerkit.serving.scheduler import Scheduler
from steerkit.serving.schema import ChatBody, CompletionBody
from steerkit.serving.streams import EventStream, merged, until_left

Result = TypeVar("Result")
GONE = Response(status_code=499)  # nobody reads it
NOTHING = Said()


@dataclass(frozen=True)
class Served:
    """What is served: a model under a name, by a scheduler, within limits."""

    name: str
    scheduler: Scheduler
    admission: Admission
    limits: Limits

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint."""
        return self.scheduler.session.engine.lm.fingerprint

    def text_of(self, token: int) -> str:
        """A token's own text."""
        return self.scheduler.session.engine.lm.renderer.decode_raw([token])


def routes(served: Served) -> APIRouter:
    """Return the routes of what is served."""
    router = APIRouter()
    # One thread: vectors are kept by name, and a long text to tokenise holds up no stream.
    checking = ThreadPoolExecutor(1, thread_name_prefix="steerkit-admission")

    async def admitted(check: Callable[[Any], Job], body: Any) -> Job:
        return await asyncio.get_running_loop().run_in_executor(checking, check, body)

    @router.post("/v1/chat/completions")
    async def chat(http: HttpRequest) -> Response:
        return await answered(http, ChatBody, served.admission.chat, chat=True)

    @router.post("/v1/completions")
    async def completions(http: HttpRequest) -> Response:
        return await answered(http, CompletionBody, served.admission.completion, chat=False)

    async def answered(http: HttpRequest, kind: Any, check: Callable[[Any], Job], *, chat: bool) -> Response:
        try:
            body = await read_body(http, served.limits, kind)
            job = await admitted(check, body)
        except ClientDisconnect:
            return GONE
        if job.scored is not None:
            score = await until_left(http, _kept(served.scheduler.score(job.scored)))
            return GONE if score is None else json_response(scored(score, served.name, served.fingerprint))
        form = Form(job, chat, served.name, served.fingerprint, served.text_of)
        if job.streams:
            return await _streamed(http, served, form)
        ended = await until_left(http, _kept(_completed(served, job)))
        if ended is None:
            return GONE
        choices = [_said(event) for event in ended]
        return json_response(form.whole(choices, [c for event in ended if (c := event.completion)]))

    @router.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [entry()]})

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != served.name:
            raise RefusalError(
                f"the model {name[:200]!r} is not served here", status=404, code="model_not_found"
            )
        return json_response(entry())

    started = int(time.time())

    def entry() -> dict[str, Any]:
        reads = served.scheduler.session.engine.lm.context_length
        return {
            "id": served.name,
            "object": "model",
            "created": started,
            "owned_by": "steerkit",
            "max_model_len": reads,
        }

    @router.get("/health")
    async def health() -> Response:
        return (
            json_response({"status": "ok"})
            if served.scheduler.alive
            else json_response({"status": "stopped"}, 503)
        )

    return router


async def _kept(work: Awaitable[Result]) -> Result:
    """Await something whose errors are those of the request."""
    with refusing_errors():
        return await work


async def _completed(served: Served, job: Job) -> list[Event]:
    """The last events of all rows, in their order, which say everything."""
    rows = merged(served.scheduler, job.rows, streams=False, top_logprobs=job.logprobs)
    async with contextlib.aclosing(rows) as events:
        ended = {place: event async for place, event in events}
    return [ended[place] for place in range(len(job.rows))]


async def _streamed(http: HttpRequest, served: Served, form: Form) -> Response:
    """A stream, begun once the first row says something: until then the request may still be refused."""
    pieces = _pieces(served, form)
    try:
        first = await until_left(http, _kept(anext(pieces)))
    except BaseException:
        await pieces.aclose()
        raise
    if first is None:
        await pieces.aclose()
        return GONE
    return EventStream(first, pieces, served.limits.write_seconds)


async def _pieces(served: Served, form: Form) -> AsyncGenerator[str, None]:
    """The pieces of a stream as JSON."""
    done: dict[int, Completion] = {}
    said: dict[int, Said] = {}  # so far, of which the lengths count
    rows = merged(served.scheduler, form.job.rows, streams=True, top_logprobs=form.job.logprobs)
    async with contextlib.aclosing(rows) as events:
        async for place, event in events:
            if form.chat and place not in said:
                yield json_text(form.opening(place))
            new = _said(event, said.get(place, NOTHING))
            said[place] = Said(offset=new.offset + len(new.text), tokens=new.tokens + len(new.token_ids))
            if event.completion is not None:
                done[place] = event.completion
            yield json_text(form.piece(place, new, event.completion))
    if form.job.tells_usage:
        yield json_text(form.closing([done[place] for place in range(len(form.job.rows))]))


def _said(event: Event, before: Said = NOTHING) -> Said:
    """What an event says, behind what was said `before`; the last one has the tokens of a stop text too."""
    completion = event.completion
    return Said(
        event.text,
        event.token_ids if completion is None else event.written[before.tokens :],
        event.logprobs,
        None if completion is None else completion.finish,
        before.offset,
        before.tokens,
    )


@contextlib.contextmanager
def refusing_errors() -> Iterator[None]:
    """Turn what the scheduler raises inside the block into refusals."""
    try:
        yield
    except QueueFullError as error:
        raise RefusalError(
            str(error), status=429, code="queue_full", headers={"Retry-After": str(RETRY_SECONDS)}
        ) from error
    except (MisuseError, InputError) as error:
        raise RefusalError(str(error)) from error
    except SteerkitError as error:
        raise RefusalError(str(error), status=500) from error
