"""One HTTP client for every server that steerkit asks: JSON there and back, retried, bounded in time and size.

1. What may pass (no answer in time, a lost connection, an answer that is no JSON, 408, 425, 429 and 5xx) is tried
   again, after a wait that doubles, with jitter, or after what the server asks for in `Retry-After` (seconds or a
   date). A server that asks for more than LONGEST_WAIT is not waited for.
2. Any other status is final: RefusedError, in the server's own words. So is a redirect: the key would go along.
3. Several servers that do the same (replicas) share the work: a request goes to the one with the fewest under way.
   One that fails rests, twice as long as the time before, and its requests go to the others.
4. The key is read from an environment variable alone, sent as a bearer token, and never part of a message.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import itertools
import json
import os
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from steerkit.core.errors import MisuseError, SteerkitError

if TYPE_CHECKING:
    import tenacity

WORTH_ANOTHER_TRY = (408, 425, 429)
ASKS_FOR_PATIENCE = (*WORTH_ANOTHER_TRY, 503)  # the server is well, and has too much to do
LONGEST_WAIT = 60.0  # seconds

Job = TypeVar("Job")
Result = TypeVar("Result")
Answer = dict[str, Any]


class PassingError(Exception):
    """A try failed in a way that another may not. `pause` is how long the server asks to be left alone, in seconds.

    `broken` says that the server is to rest; else only this request waits.
    """

    def __init__(self, reason: str, pause: float = 0.0, *, broken: bool = True) -> None:
        super().__init__(reason)
        self.pause = pause
        self.broken = broken


class RefusedError(MisuseError):
    """A server's refusal for good: its status, and the `error` object of its answer, if it sends one."""

    def __init__(self, message: str, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


@dataclass
class Replica:
    """One server, and how it has been doing. `known` is for a client that introduces itself first."""

    url: str
    under_way: int = 0
    failures: int = 0
    rests_until: float = 0.0
    last_failure: str = ""
    known: bool = False


class Client:
    """A client of servers that all do the same. `urls` are what paths are appended to.

    `timeout` (seconds) bounds each wait for a server and the reading of a whole answer, which has at most
    `largest_answer` bytes. A request is tried `tries` times, at first after `backoff` seconds. Safe to use from
    several threads. Raises MisuseError for a URL, a number or a key that cannot be meant.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key_variable: str,
        timeout: float,
        tries: int,
        backoff: float = 0.5,
        largest_answer: int = 1 << 26,
    ) -> None:
        if timeout <= 0 or backoff < 0:
            raise MisuseError("a server's timeout is above 0 seconds, the first wait at least 0")
        if tries < 1:
            raise MisuseError(f"a request is tried at least once, got {tries} tries")
        self.replicas = [Replica(checked_url(url)) for url in urls]
        self.timeout, self.tries = timeout, tries
        self._backoff = backoff
        self._largest = largest_answer
        self._key_variable = key_variable
        self._key = os.environ.get(key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise MisuseError(f"the key in {key_variable} holds characters that no key has: set it again")
        self._lock = threading.Lock()
        import httpx  # not before a server is asked: start-up time

        # Asked for plain, so that what is counted against the largest answer is what arrives.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=1.0)
        self._http = httpx.Client(headers=headers, timeout=timeout, limits=limits)

    def tried(self, attempt: Callable[[Replica], Result], gone: threading.Event) -> Result:
        """Return what `attempt` does with a replica, tried again where it raises PassingError.

        Gives up once `gone` is set. Raises SteerkitError where the last try failed.
        """
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            stop=tenacity.stop_after_attempt(self.tries),
            wait=self._pause,
            sleep=tenacity.sleep_using_event(gone),
            reraise=True,
        )
        try:
            result: Result = retrying(self._attempt, attempt, gone)
        except PassingError as error:
            tries = retrying.statistics["attempt_number"]
            raise SteerkitError(
                f"{error} after {tries} tries; see that the server is up, then run this again"
            ) from error
        return result

    def exchange(self, replica: Replica, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Return a server's answer to one POST of `body`, or to a GET. Raises PassingError, RefusedError."""
        status, headers, data = self._send(replica.url + path, body)
        text = data.decode("utf-8", "replace")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if status == 200:
            if not isinstance(answer, dict):
                raise PassingError(f"{replica.url} sends no JSON object ({self._line(text)})")
            return answer
        error = answer.get("error") if isinstance(answer, dict) else None
        error = error if isinstance(error, dict) else {}
        said = self._line(error.get("message") or text)
        message = f"{replica.url} answers {status}" + (f" ({said})" if said else "")
        if status >= 500 or status in WORTH_ANOTHER_TRY:
            pause = retry_after(headers.get("Retry-After"))
            rests = status not in ASKS_FOR_PATIENCE or pause > LONGEST_WAIT
            raise PassingError(message, pause, broken=rests)
        if status in (401, 403):
            message += f": put its key into {self._key_variable}"
        raise RefusedError(message, status, error)

    def _send(self, url: str, body: Mapping[str, Any] | None) -> tuple[int, Mapping[str, str], bytes]:
        import httpx

        # Escapes keep it ASCII, and a lone surrogate in a completion legal.
        content = None if body is None else json.dumps(body).encode("ascii")
        deadline = time.monotonic() + self.timeout
        data = bytearray()
        try:
            with self._http.stream("GET" if body is None else "POST", url, content=content) as response:
                for chunk in response.iter_raw():
                    data += chunk
                    if len(data) > self._largest:
                        raise PassingError(f"{url} sends more than {self._largest >> 20} MiB for one answer")
                    if time.monotonic() > deadline:  # a server that sends drop by drop
                        raise httpx.ReadTimeout("")
                return response.status_code, response.headers, bytes(data)
        except httpx.TimeoutException as error:
            raise PassingError(f"{url}: no answer within {self.timeout:g} s") from error
        except httpx.HTTPError as error:
            reason = self._line(error) or type(error).__name__
            raise PassingError(f"{url} cannot be reached ({reason})") from error

    def _attempt(self, attempt: Callable[[Replica], Result], gone: threading.Event) -> Result:
        """One try, on the server that is free first; whether it failed decides how long that server rests."""
        with self._lock:
            now = time.monotonic()
            replica = min(self.replicas, key=lambda r: (max(0.0, r.rests_until - now), r.under_way))
            rest = replica.rests_until - now
            replica.under_way += 1
        failure: PassingError | None = None
        try:
            if rest > LONGEST_WAIT:
                raise SteerkitError(f"{replica.last_failure}, and asks for {rest:.0f} s: run this again then")
            # Half as long again at most, so that those that wait do not come back at once.
            if gone.wait(max(0.0, rest) * random.uniform(1.0, 1.5)):
                raise SteerkitError(f"{replica.url} was not asked: the run was stopped")
            return attempt(replica)
        except PassingError as error:
            failure = error
            raise
        finally:
            self._give_back(replica, failure)

    def _give_back(self, replica: Replica, failure: PassingError | None) -> None:
        with self._lock:
            replica.under_way -= 1
            if failure is None or not failure.broken:
                replica.failures = 0
                return
            now = time.monotonic()
            if replica.rests_until <= now:  # requests that fail together count as one failure
                replica.failures += 1
                replica.last_failure = str(failure)
                replica.known = False  # it may come back as another one
                doubled = min(LONGEST_WAIT / 2, self._backoff * 2.0 ** (replica.failures - 1))
                replica.rests_until = now + max(doubled, failure.pause)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next try of a request: none where its server rests, as another may be free."""
        assert state.outcome is not None
        failure = state.outcome.exception()
        assert isinstance(failure, PassingError)
        if failure.broken:
            return 0.0
        doubled = min(LONGEST_WAIT / 2, self._backoff * 2.0 ** (state.attempt_number - 1))
        return max(failure.pause, doubled * random.uniform(0.5, 1.0))

    def _line(self, said: object) -> str:
        """What a stranger says, as one line of bounded length, without the key."""
        line = " ".join(str(said).split())
        if self._key:
            line = line.replace(self._key, "(the key)")
        return line if len(line) <= 300 else line[:299] + "…"


def spread(
    jobs: Iterable[Job], work: Callable[[Job, threading.Event], Result], workers: int
) -> Iterator[Result]:
    """Yield what `work` makes of each job, as they end, `workers` at a time; jobs are drawn as they are needed.

    `work` is called in other threads, with an event that is set once the caller has left: by an error, which is
    raised after what ended before it, or because it wants no more. Work that is under way is not waited for.
    """
    waiting = iter(jobs)
    gone = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="steerkit-http")
    running: set[Future[Result]] = set()
    try:
        while True:
            running |= {
                pool.submit(work, job, gone) for job in itertools.islice(waiting, workers - len(running))
            }
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: future.exception() is not None):
                yield future.result()
    finally:
        gone.set()
        pool.shutdown(wait=False, cancel_futures=True)


def checked_url(url: str) -> str:
    """Return a server's address without the slashes at its end. Raises MisuseError where it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets or a port that cannot be read
        sound = False
    if not sound or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise MisuseError(f"{url!r} is not the address of a server; write http://localhost:8000")
    if parts.username or parts.password:
        raise MisuseError("a URL is no place for a password: put the key into the environment variable")
    return url.rstrip("/")


def retry_after(value: str | None) -> float:
    """Return the seconds that a `Retry-After` header asks for, a number or a date; 0 for none that can be read."""
    if value is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    now = datetime.datetime.now(datetime.UTC if then.tzinfo else None)
    return max(0.0, (then - now).total_seconds())
