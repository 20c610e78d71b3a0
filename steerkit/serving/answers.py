"""Answers in OpenAI's form: whole ones, and the pieces of streams.

What was read of a request's one choice stands where vLLM's plugin puts it (see `steerkit.engines.remote.readers`), with
what its gates read and its policies decided:

    "kv_transfer_params": {"steerkit": {"readings": […], "gates": […], "decisions": […]}}
"""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from steerkit.engines.base import Completion, ContinuationScore
from steerkit.engines.remote.arguments import ARGUMENT
from steerkit.engines.transformers.logprobs import TokenLogprobs
from steerkit.interventions.base import reference
from steerkit.interventions.readers import Reading
from steerkit.serving.admission import Job
from steerkit.serving.logprobs import TextOf, of_chat, of_completion


@dataclass(frozen=True)
class Said:
    """What one choice said in one step, or altogether: text, tokens, their log-probabilities, and how it ended.

    `offset` is how many characters it had said before, `tokens` how many tokens.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: str | None = None
    offset: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Form:
    """How the answers to one request are written, a chat's or not; each names `model` and `fingerprint`.

    `text_of` gives a token's own text.
    """

    job: Job
    chat: bool
    model: str
    fingerprint: str
    text_of: TextOf
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Said], done: Sequence[Completion]) -> dict[str, Any]:
        """Return the body of an answer that has all choices."""
        made = []
        for index, said in enumerate(choices):
            choice = self._choice(index, said)
            if self.chat:
                choice["message"] = {"role": "assistant", "content": said.text, "refusal": None}
            else:
                choice["text"] = said.text
            made.append(choice | self._ids(index, said, whole=True))
        body = self._body("chat.completion" if self.chat else "text_completion", made)
        body["usage"] = usage(self.job, done)
        if self.chat and self.job.tells_ids:
            body["prompt_token_ids"] = self._prompt_ids(0)
        return body | _more(done)

    def piece(self, index: int, said: Said, done: Completion | None = None) -> dict[str, Any]:
        """Return a piece of a stream, in which one choice goes on, or is `done`."""
        choice = self._choice(index, said)
        if self.chat:
            choice["delta"] = {"content": said.text} if said.text else {}
        else:
            choice["text"] = said.text
        choice |= self._ids(index, said, whole=False)
        more = {} if done is None or len(self.job.rows) > 1 else _more([done])
        return self._body(self._piece_kind, [choice]) | more

    def opening(self, index: int) -> dict[str, Any]:
        """Return the first piece of a chat's choice, which says whose turn it is."""
        delta = {"role": "assistant", "content": ""}
        return self._body(self._piece_kind, [{"index": index, "delta": delta, "finish_reason": None}])

    def closing(self, done: Sequence[Completion]) -> dict[str, Any]:
        """Return the piece behind the last one, with the numbers of tokens."""
        return self._body(self._piece_kind, []) | {"usage": usage(self.job, done)}

    @property
    def _piece_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _choice(self, index: int, said: Said) -> dict[str, Any]:
        told = None
        if self.job.logprobs is not None:
            if self.chat:
                told = of_chat(said.logprobs, self.text_of)
            else:
                told = of_completion(said.logprobs, self.text_of, said.offset)
        return {"index": index, "finish_reason": said.finish, "logprobs": told}

    def _prompt_ids(self, index: int) -> list[int] | None:
        """The tokens of a choice's prompt; None where an edit of the prompt, which a gate may leave out, decides."""
        return list(self.job.rows[index].prompt_ids) or None

    def _ids(self, index: int, said: Said, *, whole: bool) -> dict[str, Any]:
        if not self.job.tells_ids:
            return {}
        prompt = {"prompt_token_ids": self._prompt_ids(index)} if whole and not self.chat else {}
        return {"token_ids": list(said.token_ids), **prompt}

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def usage(job: Job, done: Sequence[Completion]) -> dict[str, Any]:
    """Return how many tokens prompts and completions have; a prompt counts once, whatever its choices."""
    asked = sum(each.prompt_tokens for each in done[:: job.choices_a_prompt])
    said = sum(each.tokens for each in done)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def scored(score: ContinuationScore, model: str, fingerprint: str) -> dict[str, Any]:
    """Return the answer to a request for `prompt_logprobs`, as vLLM has it: nothing of tokens before the completion."""
    assert score.request.encoded is not None
    ids, start = score.request.encoded.ids, score.request.encoded.prompt_length
    nats: list[dict[str, Any] | None] = [None] * start
    for token, nat in zip(ids[start:], score.log_probabilities, strict=True):
        nats.append({str(token): {"logprob": nat, "rank": None, "decoded_token": None}})
    choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": None, "prompt_logprobs": nats}
    body: dict[str, Any] = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
        "choices": [choice],
        "usage": {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)},
    }
    if score.readings:
        # Of a text that is scored all of it is the prompt.
        joined = [Reading(each.reader, each.prompt + each.completion, ()) for each in score.readings]
        body["kv_transfer_params"] = {ARGUMENT: {"readings": list(map(_reading, joined))}}
    return body


def _more(done: Sequence[Completion]) -> dict[str, Any]:
    """What was read and decided, of one choice; several have nowhere to put it."""
    if len(done) != 1:
        return {}
    (completion,) = done
    told = {
        "readings": list(map(_reading, completion.readings)),
        "gates": list(map(dataclasses.asdict, completion.gates)),
        "decisions": list(map(dataclasses.asdict, completion.decisions)),
    }
    found = {name: value for name, value in told.items() if value}
    return {"kv_transfer_params": {ARGUMENT: found}} if found else {}


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "reader": reading.reader.spec(reference),
        "prompt": [_number(value) for value in reading.prompt],
        "completion": [_number(value) for value in reading.completion],
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
