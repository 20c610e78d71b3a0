"""What is refused, and how: errors in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.responses import Response

from steerkit.core.errors import SteerkitError

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusalError(Exception):
    """A request that is not carried out: the HTTP status, what is wrong, the field that it is about, a short code."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body."""
        kind = "server_error" if self.status >= 500 else TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def json_text(value: Any) -> str:
    """Return a value as JSON in ASCII, in which half a character that a completion ends with is legal."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer whose body is `value`."""
    return Response(json_text(value), status, headers, "application/json")


def refusal_response(error: RefusalError) -> Response:
    """Return the answer to a request that is refused."""
    return json_response(error.body, error.status, error.headers)


@contextmanager
def refusing(field: str) -> Iterator[None]:
    """Turn the errors of a user's mistake inside the block into refusals of `field`."""
    try:
        yield
    except SteerkitError as error:
        raise RefusalError(str(error), param=field) from error
