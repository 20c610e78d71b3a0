"""The application: the routes, behind a guard, with every error in OpenAI's form."""

from __future__ import annotations

import base64
import hmac
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from steerkit.serving.refusals import RefusalError, refusal_response
from steerkit.serving.routes import Served, routes

log = logging.getLogger("steerkit.serving")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_app(served: Served, *, key: str | None = None, hosts: Sequence[str] = LOOPBACK) -> FastAPI:
    """Return the application. It starts the scheduler with its own start, and closes it with its own end.

    With a `key` every path but /health wants it, as a bearer token or as the password that a browser asks for. Without
    one only requests to one of `hosts` are answered, so that no page in a browser reaches the server by a name of its
    own.
    """

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        served.scheduler.start()
        try:
            yield
        finally:
            served.scheduler.close()

    app = FastAPI(title="steerkit", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(routes(served))
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Guard, key=key, hosts=hosts)
    return app


class Guard:
    """Lets requests with the key through, or where there is none, requests to a host that the server is known by."""

    def __init__(self, app: ASGIApp, *, key: str | None, hosts: Sequence[str]) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._hosts = set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on; there are no websockets."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http" and (reason := self._refusal(scope)) is not None:
            await refusal_response(reason)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _fits(self, given: bytes | None) -> bool:
        return given is not None and self._key is not None and hmac.compare_digest(given, self._key)

    def _refusal(self, scope: Scope) -> RefusalError | None:
        headers = Headers(scope=scope)
        if self._key is None:
            host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
            if host.strip("[]") not in self._hosts:
                return RefusalError(
                    f"this server answers to {', '.join(sorted(self._hosts))} alone", status=403
                )
            return None
        if scope["path"] == "/health" or self._fits(_given(headers.get("authorization", ""))):
            return None
        api = scope["path"].startswith("/v1")
        return RefusalError(
            "this server wants its key, as Authorization: Bearer KEY",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer" if api else 'Basic realm="steerkit"'},
        )


def _given(header: str) -> bytes | None:
    """The key in an Authorization header: a bearer token, or the password of whatever user."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip().encode()
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except ValueError:
        return None


async def _refused(_http: HttpRequest, error: Exception) -> Response:
    if isinstance(error, HTTPException):  # of a path or a method that there is not
        headers = dict(error.headers or {})
        error = RefusalError(str(error.detail), status=error.status_code, headers=headers)
    assert isinstance(error, RefusalError)
    return refusal_response(error)


async def _failed(http: HttpRequest, error: Exception) -> Response:
    log.error("%s failed", http.url.path, exc_info=error)
    return refusal_response(RefusalError("the server failed; its log says how", status=500))
