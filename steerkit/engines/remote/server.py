"""The server engine: the same requests, sent to OpenAI-compatible servers that run `steerkit.integrations.vllm`.

1. Prompts are rendered and tokenised here and sent as token ids, so a prompt is the same tokens as in every engine.
2. Several servers (replicas) share the work, and what may pass is tried again (`steerkit.core.http`). A request has at
   most one attempt under way and yields one completion.
3. A server is used only once it has shown that it knows steering: one without the plugin would ignore it silently,
   and one whose vLLM the plugin does not fit says so.
   Steerings carry the digests of their vectors, so a server that holds another vector of that name refuses.
4. `check` tries a steering on every server, so a grid that one of them would refuse does not begin.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.http import Answer, Client, PassingError, RefusedError, Replica, spread
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest, refuse, steerings_of
from steerkit.engines.remote.arguments import ARGUMENT, PROMPT_TOKENS, READERS
from steerkit.engines.remote.readers import parted_at, readings_from, refuse_readers, to_reader_argument
from steerkit.engines.remote.served_model import ServedModel, log_probabilities, sampling, tokens_to_ask
from steerkit.engines.remote.wire import supports, to_argument
from steerkit.interventions.base import Intervention
from steerkit.models.load import DTYPES

API_KEY_VARIABLE = "STEERKIT_SERVER_API_KEY"
COMPLETIONS = "/v1/completions"
CONCURRENCY = 64
TIMEOUT = 300.0  # seconds
# Names no vector, so that a server with the plugin refuses it and one without answers.
PROBE_SPEC = "@"


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
        if concurrency < 1:
            raise MisuseError(f"concurrency is at least 1, got {concurrency}")
        if dtype not in DTYPES:
            raise MisuseError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
        self._client = Client(
            # OpenAI's own clients are given the address with /v1 behind it.
            [url.rstrip("/").removesuffix("/v1") for url in urls],
            key_variable=API_KEY_VARIABLE,
            timeout=timeout,
            tries=attempts,
            backoff=backoff,
        )
        self.urls = tuple(replica.url for replica in self._client.replicas)
        self.model = reference if isinstance(reference, ServedModel) else ServedModel(reference)
        self.batch_size = concurrency
        self.dtype = dtype
        self._served_name = served_name
        self._exact = not allow_mismatch
        self._context_length = self.model.context_length  # until a server says that it reads less
        self._taken: set[str] = set()

    def supports(self, intervention: Intervention) -> str | None:
        """Return why the engine cannot carry out an intervention; None where it can."""
        return supports(intervention)

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request before it is sent.

        Only a server knows which vectors it has and which layers it lets be steered, so steerings that were not
        tried before are tried on every server, at the price of one token. A server that cannot be reached is left
        out, as it is later; SteerkitError where none can be.
        """
        self._check(request)
        self.model.encode(request, self._context_length)
        self._try_everywhere(request)
        self.model.encode(request, self._context_length)  # which a server may have said is shorter

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as they arrive, in any order."""
        return spread(requests, self._complete, self.batch_size)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Return each continuation token's log-probability in nats, teacher-forced, in the order of the requests."""
        scores = dict(spread(enumerate(requests), self._score, self.batch_size))
        return [scores[place] for place in range(len(requests))]

    def _complete(self, request: Request, gone: threading.Event) -> Completion:
        self._check(request)
        ids = self.model.encode(request, self._context_length)
        body = {"prompt": list(ids), **sampling(self.model, request, ids), "return_token_ids": True}
        answer = self._answer(body, request, {}, gone)
        choice = answer["choices"][0]
        token_ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        if not isinstance(token_ids, list) or finish not in ("stop", "length"):
            raise SteerkitError(
                f"a server answered without token ids, or ended with {finish!r}: it must be vLLM"
            )
        if finish == "length" and len(token_ids) < tokens_to_ask(request):
            raise MisuseError(
                f"a server cut a completion off at {len(token_ids)} of {tokens_to_ask(request)} tokens: start it "
                "without a limit of its own (--override-generation-config), or lower max_new_tokens"
            )
        done = self.model.completion(request, ids, token_ids, finish)
        read = readings_from(answer.get("kv_transfer_params"), request.readers, len(ids), done.tokens)
        return dataclasses.replace(done, readings=read)

    def _score(self, job: tuple[int, ScoreRequest], gone: threading.Event) -> tuple[int, ContinuationScore]:
        place, request = job
        self._check(request)
        text = self.model.encode_scored(request)
        start = text.prompt_length
        body = {"prompt": list(text.ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = self._answer(body, request, {PROMPT_TOKENS: start}, gone)
        scored = answer["choices"][0].get("prompt_logprobs")
        if not isinstance(scored, list) or len(scored) != len(text.ids):
            raise SteerkitError("a server answered without log-probabilities of the prompt: it must be vLLM")
        taken = log_probabilities(scored[i][str(text.ids[i])]["logprob"] for i in range(start, len(text.ids)))
        read = readings_from(answer.get("kv_transfer_params"), request.readers, len(text.ids), 0)
        return place, ContinuationScore(request, taken, tuple(text.ids), parted_at(read, start))

    def _check(self, request: Request | ScoreRequest) -> None:
        refuse(self, request.interventions)
        refuse_readers(self.name, request.readers)
        self.model.check(request, exact=self._exact)

    def _try_everywhere(self, request: Request) -> None:
        asked = _asked(request)
        key = json.dumps(asked)
        if key in self._taken:
            return
        body = {"prompt": [0], "max_tokens": 1, "temperature": 0.0, **asked}
        failures: list[PassingError] = []
        for replica in self._client.replicas:
            try:
                self._ask(replica, body)
            except PassingError as error:
                failures.append(error)
        if len(failures) == len(self.urls):
            raise SteerkitError(f"no server answers ({failures[0]}): see that they run") from failures[0]
        self._taken.add(key)

    def _answer(
        self,
        body: Mapping[str, Any],
        request: Request | ScoreRequest,
        more: Mapping[str, Any],
        gone: threading.Event,
    ) -> Answer:
        """Ask until a server answers, and see that the answer holds a choice."""
        body = {**body, **_asked(request, more)}
        answer = self._client.tried(lambda replica: self._ask(replica, body), gone)
        if not (isinstance(answer.get("choices"), list) and answer["choices"]):
            raise SteerkitError(f"a server's answer holds no completion: {str(answer)[:200]}")
        return answer

    def _ask(self, replica: Replica, body: Mapping[str, Any]) -> Answer:
        self._get_to_know(replica)
        return self._client.exchange(replica, COMPLETIONS, {"model": self._served_name, **body})

    def _get_to_know(self, replica: Replica) -> None:
        """Learn of each server that it serves the model, how much it reads, and that it steers."""
        if replica.known:
            return
        listed = self._client.exchange(replica, "/v1/models").get("data") or []
        served = {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)}
        name = self._served_name or next(iter(served), "")
        if name not in served:
            raise MisuseError(f"{replica.url} serves {', '.join(served) or 'no model'}, not {name!r}")
        self._served_name = name
        reads = served[name].get("max_model_len") or self._context_length
        self._context_length = min(self._context_length, reads)
        probe = {"model": name, "prompt": [0], "max_tokens": 1, "vllm_xargs": {ARGUMENT: PROBE_SPEC}}
        try:
            self._client.exchange(replica, COMPLETIONS, probe)
        except RefusedError as error:
            if error.status == 400 and error.error.get("param") == ARGUMENT:
                replica.known = True
                return
            if "steerkit" in str(error.error.get("message")):  # its plugin says why
                raise MisuseError(f"{replica.url} cannot steer: {error.error['message']}") from error
            answered = str(error.status)
        else:
            answered = "200"
        raise MisuseError(
            f"{replica.url} does not know steering (it answered {answered} where it should refuse): install "
            "steerkit beside vLLM there"
        )


def _asked(request: Request | ScoreRequest, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a request's body says of its steerings, with `more` where there are any, and of its readers."""
    steerings = steerings_of(request.interventions)
    extra = {ARGUMENT: to_argument(steerings), **(more or {})} if steerings else {}
    if request.readers:
        extra[READERS] = to_reader_argument(request.readers)
    return {"vllm_xargs": extra} if extra else {}
