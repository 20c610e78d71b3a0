"""The front end's checks of HTTP requests, made as soon as these are read, and how a request is refused."""

from __future__ import annotations

import functools
from typing import Any, Protocol

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.remote.arguments import ARGUMENT, READERS, our_names
from steerkit.engines.remote.readers import ONE_CHOICE


class Checks(Protocol):
    """What checks the extra arguments of a request."""

    def check(self, extra_args: dict[str, Any]) -> None:
        """Raise SteerkitError for what is refused."""


def check_http(admission: Checks) -> None:
    """Check HTTP requests as soon as they are read: a stream that has begun can no longer be refused with a 4xx.

    Two would lose their steering without a word. Beam search builds sampling parameters of its own, and vLLM passes
    over fields that it does not know, such as ours outside `vllm_xargs`.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    def check(request: Any, *, beams: bool) -> None:
        if our_names(request.model_extra):
            raise refused(f"{ARGUMENT!r} stands in vllm_xargs, not beside it")
        if beams and our_names(request.vllm_xargs):
            raise refused("beam search cannot be steered in vLLM: drop use_beam_search")
        try:
            admission.check(request.vllm_xargs or {})
            if READERS in (request.vllm_xargs or {}):
                check_one_answer(request)
        except SteerkitError as error:
            raise refused(str(error)) from error

    def wrap(kind: Any, name: str, *, beams: bool) -> None:
        original = getattr(kind, name)
        original = getattr(original, "__wrapped__", original)  # of an engine that was in this process before

        @functools.wraps(original)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            check(self, beams=beams)
            return original(self, *args, **kwargs)

        setattr(kind, name, checked)

    for kind in (ChatCompletionRequest, CompletionRequest, ResponsesRequest):
        wrap(kind, "to_sampling_params", beams=False)
    for kind in (ChatCompletionRequest, CompletionRequest):
        wrap(kind, "to_beam_search_params", beams=True)


def check_one_answer(request: Any) -> None:
    """Raise MisuseError where an HTTP request with readers has no one answer that could hold the readings."""
    if getattr(request, "stream", False):
        raise MisuseError(f"{READERS!r} is answered with the whole completion: leave out stream")
    prompt = getattr(request, "prompt", None)
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    if several or (getattr(request, "n", None) or 1) > 1:
        raise MisuseError(ONE_CHOICE)


def refused(message: str) -> Exception:
    """Return what vLLM answers with 400, by whose parameter a client knows a server that steers."""
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(message, parameter=ARGUMENT)
    return error
