"""The server engine: the same requests, sent to OpenAI-compatible servers that run `steerkit.integrations.vllm`.

1. Prompts are rendered and tokenised here and sent as token ids, so a prompt is the same tokens as in every engine.
2. Several servers (replicas) share the work: a request goes to the one with the fewest requests under way. One that
   fails is left alone for a while, longer each time, and its requests go to the others.
3. What may pass (no answer in time, a lost connection, 408, 429, 5xx) is tried again with back-off; any other refusal
   is raised with the server's own words. A request has at most one attempt under way and yields one completion.
4. A server is used only once it has shown that it knows steering: one without the plugin would ignore it silently.
   Steerings carry the digests of their vectors, so a server that holds another vector of that name refuses.
5. `check` tries a steering on every server, so a grid that one of them would refuse does not begin.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest
from steerkit.engines.remote.served_model import ServedModel, log_probabilities, row_seed
from steerkit.engines.remote.wire import ARGUMENT, DIGESTS, PROMPT_TOKENS, digests_of
from steerkit.interventions.steering import Steering
from steerkit.models.load import DTYPES

API_KEY_VARIABLE = "STEERKIT_SERVER_API_KEY"
WORTH_ANOTHER_TRY = (408, 425, 429)
CONCURRENCY = 64
TIMEOUT = 300.0  # seconds
LONGEST_PAUSE = 30.0
# Names no vector, so that a server with the plugin refuses it and one without answers.
PROBE_SPEC = "@"
# A server fills in what a request leaves out from the model's generation_config.json, where other penalties may stand.
NEUTRAL = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}

Job = TypeVar("Job")
Answer = dict[str, Any]


@dataclass
class Replica:
    """One server, and how it has been doing."""

    url: str
    under_way: int = 0
    failures: int = 0
    rests_until: float = 0.0
    knows_steering: bool = False


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass. `pause` is how long the server asked to be left alone, in seconds."""

    def __init__(self, reason: str, pause: float = 0.0, *, broken: bool = True) -> None:
        super().__init__(reason)
        self.pause = pause
        self.broken = broken


class Replicas:
    """Which server takes the next request. `backoff` is the first rest of one that failed, in seconds."""

    def __init__(self, urls: Sequence[str], backoff: float) -> None:
        self._replicas = [Replica(url) for url in urls]
        self._backoff = backoff
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas)

    def borrow(self) -> tuple[Replica, float]:
        """The server to use, and how long to wait before using it (where all are resting)."""
        with self._lock:
            now = time.monotonic()
            replica = min(self._replicas, key=lambda r: (max(0.0, r.rests_until - now), r.under_way))
            replica.under_way += 1
            return replica, max(0.0, replica.rests_until - now)

    def give_back(self, replica: Replica, *, failed: bool) -> None:
        """The attempt is over. A server that failed rests, twice as long as the time before."""
        with self._lock:
            replica.under_way -= 1
            if not failed:
                replica.failures = 0
                return
            now = time.monotonic()
            if replica.rests_until <= now:  # requests that fail together count as one failure
                replica.failures += 1
                replica.knows_steering = False  # it may come back as another one
                replica.rests_until = now + min(LONGEST_PAUSE, self._backoff * 2 ** (replica.failures - 1))


class ServerEngine:
    """Completes and scores requests on servers.

    `urls` are the servers' base addresses (`http://host:8000`), all serving one model; `reference` names that model
    for this machine, which needs its tokenizer: a bundled name, a folder or a hub id. `served_name` is the model's
    name on the servers (default: the first that they list). `concurrency` is the most requests under way,
    `timeout` the seconds that one may take, `attempts` how often one is tried. The API key, if the servers want one,
    is read from the environment variable STEERKIT_SERVER_API_KEY alone and sent as a bearer token. `dtype` is the
    number format that the servers were started with: for the record, as they do not say.
    """

    name = "server"

    def __init__(
        self,
        urls: Sequence[str],
        reference: str | ServedModel,
        *,
        served_name: str | None = None,
        concurrency: int = CONCURRENCY,
        timeout: float = TIMEOUT,
        attempts: int = 8,
        backoff: float = 0.5,
        dtype: str = "auto",
        allow_mismatch: bool = False,
    ) -> None:
        if not urls:
            raise MisuseError("the server engine needs at least one address, such as http://localhost:8000")
        for url in urls:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise MisuseError(f"{url!r} is not the address of a server; write http://host:port")
        for what, value in (("concurrency", concurrency), ("attempts", attempts)):
            if value < 1:
                raise MisuseError(f"{what} is at least 1, got {value}")
        if dtype not in DTYPES:
            raise MisuseError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
        if timeout <= 0:
            raise MisuseError(f"the timeout is a positive number of seconds, got {timeout}")
        key = os.environ.get(API_KEY_VARIABLE, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise MisuseError(f"the key in {API_KEY_VARIABLE} holds characters that no key has: set it again")
        # OpenAI's own clients are given the address with /v1 behind it.
        self.urls = tuple(url.rstrip("/").removesuffix("/v1") for url in urls)
        self.model = reference if isinstance(reference, ServedModel) else ServedModel(reference)
        self.batch_size = concurrency
        self.dtype = dtype
        self._replicas = Replicas(self.urls, backoff)
        self._served_name = served_name
        self._timeout = timeout
        self._attempts = attempts
        self._backoff = backoff
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._exact = not allow_mismatch
        self._context_length = self.model.context_length  # until a server says that it reads less
        self._taken: set[tuple[str, ...]] = set()

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request before it is sent.

        Only a server knows which vectors it has and which layers it lets be steered, so steerings that were not
        tried before are tried on every server, at the price of one token. A server that cannot be reached is left
        out, as it is later; SteerkitError where none can be.
        """
        self.model.check(request.steerings, exact=self._exact)
        self.model.encode(request, self._context_length)
        self._try_everywhere(request.steerings)
        self.model.encode(request, self._context_length)  # which a server may have said is shorter

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as they arrive, in any order."""
        return self._spread(requests, self._complete)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Log-probability of each continuation token, teacher-forced, in the order of the requests."""
        scores: dict[int, ContinuationScore] = dict(self._spread(enumerate(requests), self._score))
        return [scores[place] for place in range(len(requests))]

    def _spread(self, jobs: Iterable[Job], work: Callable[[Job, threading.Event], Any]) -> Iterator[Any]:
        """Results of `work` for each job as they come, `concurrency` at once; stops asking when the caller does."""
        waiting = iter(jobs)
        gone = threading.Event()
        with ThreadPoolExecutor(self.batch_size, thread_name_prefix="steerkit-server") as pool:
            running: set[Future[Any]] = set()
            try:
                while True:
                    room = self.batch_size - len(running)
                    running |= {pool.submit(work, job, gone) for job in itertools.islice(waiting, room)}
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                gone.set()  # those that are waiting to try again give up
                for future in running:
                    future.cancel()

    def _complete(self, request: Request, gone: threading.Event) -> Completion:
        self.model.check(request.steerings, exact=self._exact)
        ids = self.model.encode(request, self._context_length)
        decoding = request.decoding
        body = {
            "prompt": list(ids),
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            **NEUTRAL,
            "stop_token_ids": list(self.model.stop_ids),
            "return_token_ids": True,
        }
        if decoding.temperature > 0:
            body["seed"] = row_seed(decoding, ids, request.sample)
        choice = self._choice(body, request.steerings, {}, gone)
        token_ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        if not isinstance(token_ids, list) or finish not in ("stop", "length"):
            raise SteerkitError(
                f"a server answered without token ids, or ended with {finish!r}: it must be vLLM"
            )
        if finish == "length" and len(token_ids) < decoding.max_new_tokens:
            raise MisuseError(
                f"a server cut a completion off at {len(token_ids)} of {decoding.max_new_tokens} tokens: start it "
                "without a limit of its own (--override-generation-config), or lower --max-new-tokens"
            )
        return self.model.completion(request, ids, token_ids, finish)

    def _score(self, job: tuple[int, ScoreRequest], gone: threading.Event) -> tuple[int, ContinuationScore]:
        place, request = job
        self.model.check(request.steerings, exact=self._exact)
        text = self.model.renderer.encode_pair(request.prompt, request.continuation, request.system)
        if not text.prompt_length:
            raise MisuseError("the prompt shares no token with its continuation: give a longer prompt")
        body = {"prompt": list(text.ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        choice = self._choice(body, request.steerings, {PROMPT_TOKENS: text.prompt_length}, gone)
        scored = choice.get("prompt_logprobs")
        if not isinstance(scored, list) or len(scored) != len(text.ids):
            raise SteerkitError("a server answered without log-probabilities of the prompt: it must be vLLM")
        taken = log_probabilities(
            scored[i][str(text.ids[i])]["logprob"] for i in range(text.prompt_length, len(text.ids))
        )
        return place, ContinuationScore(request, taken)

    def _try_everywhere(self, steerings: Sequence[Steering]) -> None:
        key = tuple(steering.digest for steering in steerings)
        if key in self._taken:
            return
        body = {"prompt": [0], "max_tokens": 1, "temperature": 0.0, **_steered(steerings)}
        out_of_reach: list[_TryAgainError] = []
        for replica in self._replicas:
            try:
                self._ask(replica, body)
            except _TryAgainError as error:
                out_of_reach.append(error)
        if len(out_of_reach) == len(self.urls):
            raise SteerkitError(
                f"no server answers ({out_of_reach[0]}): see that they run"
            ) from out_of_reach[0]
        self._taken.add(key)

    def _choice(
        self,
        body: Mapping[str, Any],
        steerings: Sequence[Steering],
        more: Mapping[str, Any],
        gone: threading.Event,
    ) -> Answer:
        body = {**body, **_steered(steerings, more)}
        answer = self._tried(lambda replica: self._ask(replica, body), gone)
        try:
            return answer["choices"][0]
        except (KeyError, IndexError, TypeError) as error:
            raise SteerkitError(f"a server's answer holds no completion: {str(answer)[:200]}") from error

    def _tried(self, attempt: Callable[[Replica], Answer], gone: threading.Event) -> Answer:
        reason: Exception | None = None
        for number in range(self._attempts):
            replica, rest = self._replicas.borrow()
            failed = False
            try:
                if gone.wait(rest):
                    raise SteerkitError("the engine was closed before this request was sent")
                return attempt(replica)
            except _TryAgainError as error:
                failed, reason, pause = error.broken, error, error.pause
            finally:
                self._replicas.give_back(replica, failed=failed)
            if not failed:  # the server is well and asks for patience
                spread = random.uniform(
                    0.5, 1.0
                )  # so that requests refused together do not come back together
                gone.wait(max(pause, min(LONGEST_PAUSE, self._backoff * 2**number) * spread))
        raise SteerkitError(
            f"no server answered in {self._attempts} attempts ({reason}): see that they run, then run this again"
        ) from reason

    def _ask(self, replica: Replica, body: Mapping[str, Any]) -> Answer:
        self._get_to_know(replica)
        return self._exchange(replica, "/v1/completions", {"model": self._served_name, **body})

    def _get_to_know(self, replica: Replica) -> None:
        """Learn of each server that it serves the model, how much it reads, and that it steers."""
        if replica.knows_steering:
            return
        listed = self._exchange(replica, "/v1/models", None).get("data") or []
        served = {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)}
        name = self._served_name or next(iter(served), "")
        if name not in served:
            raise MisuseError(f"{replica.url} serves {', '.join(served) or 'no model'}, not {name!r}")
        self._served_name = name
        self._context_length = min(
            self._context_length, served[name].get("max_model_len") or self._context_length
        )
        probe = {
            "model": self._served_name,
            "prompt": [0],
            "max_tokens": 1,
            "vllm_xargs": {ARGUMENT: PROBE_SPEC},
        }
        status, answer, pause = self._send(replica, "/v1/completions", probe)
        error = answer.get("error")
        if status == 400 and isinstance(error, dict) and error.get("param") == ARGUMENT:
            replica.knows_steering = True
        elif status >= 500 or status in WORTH_ANOTHER_TRY:
            raise _TryAgainError(f"{replica.url} answered {status}", pause, broken=status >= 500)
        else:
            raise MisuseError(
                f"{replica.url} does not know steering (it answered {status} where it should refuse): install "
                "steerkit beside vLLM there"
            )

    def _exchange(self, replica: Replica, path: str, body: Mapping[str, Any] | None) -> Answer:
        status, answer, pause = self._send(replica, path, body)
        if status == 200:
            return answer
        error = answer.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        if status >= 500 or status in WORTH_ANOTHER_TRY:
            broken = status >= 500 and status != 503
            raise _TryAgainError(f"{replica.url} answered {status}: {message}", pause, broken=broken)
        raise MisuseError(f"{replica.url} refused the request ({status}): {message or str(answer)[:200]}")

    def _send(self, replica: Replica, path: str, body: Mapping[str, Any] | None) -> tuple[int, Answer, float]:
        """One HTTP exchange: status, answer, and how many seconds the server asks to wait."""
        parts = urllib.parse.urlsplit(replica.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout)
        try:
            method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, parts.path + path, data, self._headers)
            response = connection.getresponse()
            text = response.read()
            answer = json.loads(text) if text else {}
            if not isinstance(answer, dict):
                answer = {"answer": answer}
            return response.status, answer, _seconds(response.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _TryAgainError(f"{replica.url}: {error or type(error).__name__}") from error
        finally:
            connection.close()


def _steered(steerings: Sequence[Steering], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a request's body says of its steerings; nothing for none."""
    if not steerings:
        return {}
    specs = [steering.spec() for steering in steerings]
    return {"vllm_xargs": {ARGUMENT: specs, DIGESTS: digests_of(steerings), **(more or {})}}


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header in seconds; its other form, a date, counts as nothing asked."""
    return min(LONGEST_PAUSE, float(retry_after)) if retry_after and retry_after.isdecimal() else 0.0
