"""An OpenAI-compatible chat endpoint, asked one question at a time; see `steerkit.core.http` for how it is retried."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from steerkit.core.errors import MisuseError
from steerkit.core.http import Client, PassingError, RefusedError, Replica

LARGEST_REPLY = 1 << 20  # bytes
COMPLETIONS = "/chat/completions"

Message = Mapping[str, str]


class ChatEndpoint:
    """`base_url` as OpenAI's clients take it (`http://localhost:8000/v1`), and a model that it serves.

    The key, if the endpoint wants one, is read from the environment variable `api_key_variable` alone. `timeout`,
    `tries` and `backoff` as in `Client`. Safe to use from several threads. Raises MisuseError for a setting that
    cannot be meant.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key_variable: str, timeout: float, tries: int, backoff: float
    ) -> None:
        if not model.strip():
            raise MisuseError("name the model that the endpoint is to run, such as --judge-model NAME")
        self._client = Client(
            [base_url.rstrip("/").removesuffix(COMPLETIONS)],
            key_variable=api_key_variable,
            timeout=timeout,
            tries=tries,
            backoff=backoff,
            largest_answer=LARGEST_REPLY,
        )
        self.base_url = self._client.replicas[0].url
        self.model = model

    def reply(self, messages: Sequence[Message], max_tokens: int, gone: threading.Event) -> str:
        """Return the model's reply at temperature 0. Raises SteerkitError where there is none, or `gone` is set."""
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}

        def ask(replica: Replica) -> str:
            answer = self._client.exchange(replica, COMPLETIONS, body)
            try:
                content = answer["choices"][0]["message"]["content"]
            except (KeyError, IndexError, TypeError) as error:
                raise PassingError(f"{self.base_url} sends no chat completion") from error
            if content is not None and not isinstance(content, str):
                raise PassingError(f"{self.base_url} sends a message that is no text")
            return content or ""  # none where a reply was cut off inside its thinking

        try:
            return self._client.tried(ask, gone)
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            raise MisuseError(f"{error}: check the address and the model {self.model!r}") from error
