"""An OpenAI-compatible chat endpoint, asked one question at a time: retried, bounded in time, one-line errors.

What may pass (a refused connection, a timeout, 408, 425, 429 and 5xx, an answer that is no chat completion) is
tried again, after a wait that doubles, with jitter, or after what the server asks for in `Retry-After`.
What will not (any other status, a redirect: the key would go to another host) is an error at once.
"""

from __future__ import annotations

import datetime
import email.utils
import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError

PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504, 529}
LONGEST_WAIT = 60.0  # seconds; a server that asks for more is not waited for
LARGEST_REPLY = 1 << 20  # bytes
CHUNK = 1 << 16
COMPLETIONS = "/chat/completions"

Message = Mapping[str, str]


class ChatEndpoint:
    """`base_url` as OpenAI's clients take it (`http://localhost:8000/v1`), and a model that it serves.

    The key, if the endpoint wants one, is read from the environment variable `api_key_variable` alone.
    `timeout` (seconds) bounds each wait for the server and the reading of a whole reply; a try that failed is
    repeated `retries` times, at first after `backoff` seconds. Safe to use from several threads. Raises
    MisuseError for a URL or a key that cannot be meant.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_variable: str,
        timeout: float,
        retries: int,
        backoff: float = 0.5,
    ) -> None:
        if not model.strip():
            raise MisuseError("name the model that the endpoint is to run, such as --judge-model NAME")
        if timeout <= 0 or retries < 0 or backoff < 0:
            raise MisuseError("an endpoint's timeout is above 0 seconds, retries and backoff at least 0")
        self.base_url = _checked_url(base_url)
        self.model = model
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self._key_variable = api_key_variable
        self._key = os.environ.get(api_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise MisuseError(f"the key in {api_key_variable} holds characters that no key has: set it again")
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._closed = threading.Event()

    def close(self) -> None:
        """Let no further try begin: threads that wait for their next one give up."""
        self._closed.set()

    def reply(self, messages: Sequence[Message], max_tokens: int) -> str:
        """The model's reply at temperature 0. Raises SteerkitError where the endpoint gives none."""
        fields = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        # Escapes keep it ASCII, and a lone surrogate in a completion legal.
        body = json.dumps(fields).encode("ascii")
        for tries_left in range(self.retries, -1, -1):
            try:
                return self._try_once(body)
            except _PassingError as error:
                wait = self._wait(self.retries - tries_left, error.retry_after)
                if not tries_left or wait > LONGEST_WAIT:
                    advice = f"after {self.retries - tries_left + 1} tries; see that it is up, and run again"
                    raise SteerkitError(f"{self.base_url}: {error} {advice}") from error
                if self._closed.wait(wait):
                    raise SteerkitError(f"{self.base_url}: {error}, and the run was stopped") from error
        raise AssertionError("the last try returns or raises")

    def _wait(self, tried: int, retry_after: float | None) -> float:
        """Seconds until the next try; half of our own wait is random, so that threads do not come back at once."""
        ours = min(LONGEST_WAIT, self.backoff * 2**tried) * random.uniform(0.5, 1.0)
        return ours if retry_after is None else max(ours, retry_after)

    def _try_once(self, body: bytes) -> str:
        if self._closed.is_set():
            raise SteerkitError(f"{self.base_url}: the run was stopped")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.base_url + COMPLETIONS, body, headers, method="POST")
        deadline = time.monotonic() + self.timeout
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return _content(_read(response, deadline))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, deadline) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            said = f"no answer within {self.timeout:g} s" if late else f"cannot be reached ({_line(reason)})"
            raise _PassingError(said) from error

    def _refusal(self, error: urllib.error.HTTPError, deadline: float) -> SteerkitError | _PassingError:
        """What a status other than 200 means, with the server's own words."""
        try:
            said = _line(_read(error, deadline).decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException, _PassingError):
            said = ""
        if self._key:
            said = said.replace(self._key, "(the key)")
        status = f"answers {error.code}" + (f" ({said})" if said else "")
        if error.code in PASSING_STATUSES:
            return _PassingError(status, _retry_after(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            return SteerkitError(f"{self.base_url} {status}: put its key into {self._key_variable}")
        return SteerkitError(f"{self.base_url} {status}: check the address and the model {self.model!r}")


class _PassingError(Exception):
    """A failure that another try may not meet; `retry_after` is the server's wish, in seconds."""

    def __init__(self, said: str, retry_after: float | None = None) -> None:
        super().__init__(said)
        self.retry_after = retry_after


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever a redirect points."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _checked_url(base_url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(base_url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets or a port that cannot be read
        sound = False
    if not sound or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", base_url):
        raise MisuseError(f"{base_url!r} is no endpoint's base URL; write http://localhost:8000/v1")
    if parts.username or parts.password:
        raise MisuseError("a URL is no place for a password: put the key into the environment variable")
    return base_url.rstrip("/").removesuffix(COMPLETIONS)


def _read(response: Any, deadline: float) -> bytes:
    """The whole body; a server that sends drop by drop is cut off at the deadline."""
    body = bytearray()
    while chunk := response.read1(CHUNK):
        body += chunk
        if len(body) > LARGEST_REPLY:
            raise _PassingError(f"sends more than {LARGEST_REPLY >> 20} MiB for one reply")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _content(body: bytes) -> str:
    """The text of a chat completion."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _PassingError(f"sends no chat completion ({_line(body.decode('utf-8', 'replace'))})") from error
    if content is None:  # a reply cut off inside its thinking
        return ""
    if not isinstance(content, str):
        raise _PassingError("sends a message that is no text")
    return content


def _retry_after(value: str | None) -> float | None:
    """`Retry-After` in seconds: a number, or a date from which the present is taken."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    now = datetime.datetime.now(datetime.UTC if then.tzinfo else None)
    return max(0.0, (then - now).total_seconds())


def _line(said: object) -> str:
    """What a stranger says, as one line of bounded length."""
    line = " ".join(str(said).split())
    return line if len(line) <= 160 else line[:159] + "…"
