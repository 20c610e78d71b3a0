"""A request's body: JSON, read within bounds of size and time, and held against what is known."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest

from steerkit.serving.limits import Limits
from steerkit.serving.refusals import RefusalError

CLOSE = {"Connection": "close"}  # what is left of the body is not read
LONGEST_NAME = 80
HEARD_OUT = 4  # so many times the longest body

Body = TypeVar("Body", bound=BaseModel)

# Fields of OpenAI's and vLLM's that mean nothing here at these values, and anything else at others.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
}
# Fields about who asks, which change nothing.
UNREAD = {"user", "safety_identifier", "prompt_cache_key"}


async def read_body(http: HttpRequest, limits: Limits, kind: type[Body]) -> Body:
    """Return what a request asks for. Raises RefusalError for a body that is too long, too slow, or not understood."""
    given = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise RefusalError(
            "the body is JSON: send the header Content-Type: application/json", status=415, headers=CLOSE
        )
    try:
        async with asyncio.timeout(limits.read_seconds):
            data = await _data(http, limits.longest_body)
    except TimeoutError as error:
        raise RefusalError(
            f"the body did not come within {limits.read_seconds:g} seconds", status=408, headers=CLOSE
        ) from error
    return checked(_parsed(data), kind)


async def _data(http: HttpRequest, most: int) -> bytes:
    """The bytes of a body. What is too long is read all the same, and thrown away, so that its sender hears of it."""
    data, count = bytearray(), 0
    async for chunk in http.stream():
        count += len(chunk)
        if count <= most:
            data += chunk
        elif count > HEARD_OUT * most:
            break
        else:
            data.clear()
    if count > most:
        raise RefusalError(
            f"the body is longer than {most} bytes", status=413, headers=CLOSE, code="too_long"
        )
    return bytes(data)


def checked(fields: dict[str, Any], kind: type[Body]) -> Body:
    """Return a body's fields as what they ask for. Raises RefusalError naming the first that is wrong."""
    taken = {}
    for name, value in fields.items():
        if name in UNREAD or value is None:
            continue
        if name in NEUTRAL and name not in kind.model_fields:
            if value not in NEUTRAL[name]:
                raise RefusalError(f"{name!r} is not supported here: leave it out", param=name)
            continue
        taken[name] = value
    try:
        return kind.model_validate(taken)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        parts = [str(part)[:LONGEST_NAME] for part in first["loc"][:4]]
        # Of a value that may be of several kinds, the kind is a part of the place.
        where = ".".join(part for part in parts if part != "str" and not part.startswith("list["))
        if first["type"] == "extra_forbidden":
            raise RefusalError(f"unknown field {where!r}", param=where, code="unknown_field") from error
        raise RefusalError(f"{where!r}: {first['msg']}", param=where or None) from error


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RefusalError(f"the body is not JSON: {str(error)[:200]}", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise RefusalError(f"the body is a JSON object, got {type(fields).__name__}", code="invalid_json")
    return fields


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no number that can be meant")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
