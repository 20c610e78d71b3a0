"""From a request's fields to what the engine is asked for; what cannot be carried out is refused here, by its field."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import EncodedText, Message, Prompt
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.remote.arguments import ARGUMENT, PROMPT_TOKENS, READERS
from steerkit.engines.remote.readers import ONE_CHOICE
from steerkit.engines.remote.wire import read_prompt_tokens
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.base import Intervention
from steerkit.interventions.prompt_edit import PromptEdit, check_text
from steerkit.interventions.readers import Reader
from steerkit.serving.acting import Acting
from steerkit.serving.limits import CHARACTERS_A_TOKEN, Limits
from steerkit.serving.refusals import RefusalError, refusing
from steerkit.serving.schema import Asked, ChatBody, CompletionBody

SHORT = 16  # tokens of a completion whose request does not say, as OpenAI and vLLM have it
OPENAI = Decoding(temperature=1.0)


@dataclass(frozen=True)
class Job:
    """A request that may be run: a row for each choice, prompt by prompt, or a text to score."""

    rows: tuple[Request, ...] = ()
    scored: ScoreRequest | None = None
    streams: bool = False
    tells_usage: bool = False
    tells_ids: bool = False
    logprobs: int | None = None
    choices_a_prompt: int = 1


class Admission:
    """Checks requests for one model, and makes rows of them. Used by one thread at a time.

    `folder` holds the vectors that may be named, `name` is the model's, `decoding` fills in what a request leaves out.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        limits: Limits,
        *,
        name: str,
        folder: Path | None = None,
        exact: bool = True,
        decoding: Decoding = OPENAI,
    ) -> None:
        self._lm = engine.lm
        self._limits = limits
        self._name = name
        self._decoding = decoding
        self._acting = Acting(engine.lm, folder, exact=exact)
        self._vocabulary: int = engine.lm.hf.get_input_embeddings().num_embeddings

    def chat(self, body: ChatBody) -> Job:
        """Return what a chat request comes to. Raises RefusalError for what is not carried out."""
        self._check_model(body.model)
        prompt, system = _conversation(body)
        self._check_characters([*_texts(prompt), system or ""], "messages")
        interventions, readers = self._acting.of(body)
        with refusing("messages"):
            ids = tuple(self._lm.renderer.encode_prompt(prompt, system))
        edited = any(isinstance(each, PromptEdit) for each in interventions)
        wanted = body.max_completion_tokens or body.max_tokens
        how = self._how(body, ids, wanted, self._limits.usual_tokens)
        request = Request(prompt, interventions, how, readers=readers)
        # Tokens that are given are not kept by the engine, as those of a grid's prompts are.
        request = replace(request, system=system) if edited else replace(request, prompt_ids=ids)
        if body.top_logprobs and not body.logprobs:
            raise RefusalError("'top_logprobs' needs 'logprobs': true", param="top_logprobs")
        return self._job(body, [request], body.top_logprobs if body.logprobs else None)

    def completion(self, body: CompletionBody) -> Job:
        """Return what a request for completions comes to. Raises RefusalError for what is not carried out."""
        self._check_model(body.model)
        prompts = [self._ids(each) for each in _several(body.prompt)]
        interventions, readers = self._acting.of(body)
        if body.prompt_logprobs is not None:
            return Job(scored=self._scored(body, prompts, interventions, readers))
        first = read_prompt_tokens((body.vllm_xargs or {}).get(PROMPT_TOKENS))
        if first is not None and any(first != len(ids) for ids in prompts):
            raise RefusalError(f"{PROMPT_TOKENS!r} is for 'prompt_logprobs'", param=PROMPT_TOKENS)
        rows = []
        for ids in prompts:
            how = self._how(body, ids, body.max_tokens, SHORT)
            name = self._lm.renderer.decode_raw(ids)
            with refusing(ARGUMENT):
                rows.append(Request(name, interventions, how, readers=readers, prompt_ids=ids))
        return self._job(body, rows, body.logprobs)

    def _job(self, body: Asked, prompts: list[Request], logprobs: int | None) -> Job:
        count = body.n * len(prompts)
        if count > self._limits.most_choices:
            raise RefusalError(
                f"{count} choices in one request: at most {self._limits.most_choices}", param="n"
            )
        if count > 1 and prompts[0].readers:
            raise RefusalError(ONE_CHOICE, param=READERS)
        if logprobs is not None and logprobs > self._limits.most_logprobs:
            raise RefusalError(
                f"'logprobs' names at most {self._limits.most_logprobs} tokens", param="logprobs"
            )
        rows = tuple(replace(each, sample=sample) for each in prompts for sample in range(body.n))
        usage = body.stream_options is not None and body.stream_options.include_usage
        if body.stream_options is not None and not body.stream:
            raise RefusalError("'stream_options' needs 'stream': true", param="stream_options")
        return Job(rows, None, body.stream, usage, body.return_token_ids, logprobs, body.n)

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._name:
            raise RefusalError(
                f"the model {name[:200]!r} is not served here: this is {self._name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def _check_characters(self, texts: Iterable[str], field: str) -> None:
        most = CHARACTERS_A_TOKEN * self._lm.context_length
        if (count := sum(map(len, texts))) > most:
            raise RefusalError(
                f"{count} characters are more than {self._lm.context_length} tokens hold",
                param=field,
                code="context_length_exceeded",
            )

    def _ids(self, prompt: str | list[int]) -> tuple[int, ...]:
        """The tokens of a raw prompt, with those that the tokenizer adds to a text."""
        if isinstance(prompt, str):
            self._check_characters([prompt], "prompt")
            with refusing("prompt"):
                check_text(prompt, "prompt")
                prompt = list(self._lm.tokenizer(prompt)["input_ids"])
        elif any(token >= self._vocabulary for token in prompt):
            raise RefusalError(f"{max(prompt)} is no token of {self._name}", param="prompt")
        if not prompt:
            raise RefusalError("the prompt is empty", param="prompt")
        return tuple(prompt)

    def _how(self, body: Asked, ids: tuple[int, ...], wanted: int | None, usual: int) -> Decoding:
        """The decoding that a request asks for behind a prompt of these tokens."""
        rest = self._lm.context_length - len(ids)
        most = min(rest, self._limits.most_tokens or rest)
        tokens = min(usual, most) if wanted is None else wanted
        if rest < 1 or tokens > most:
            raise RefusalError(
                f"the prompt has {len(ids)} tokens and {tokens} are asked for: {self._name} is served for "
                f"{self._lm.context_length} together and {most if most > 0 else 0} behind this prompt",
                param="max_tokens" if rest >= 1 else None,
                code="context_length_exceeded",
            )
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        limits = self._limits
        if len(stop) > limits.most_stops or not all(0 < len(text) <= limits.longest_stop for text in stop):
            raise RefusalError(
                f"'stop' holds at most {limits.most_stops} texts of 1 to {limits.longest_stop} characters",
                param="stop",
            )
        given = {
            name: getattr(body, name) for name in ("temperature", "top_p", "min_p", "repetition_penalty")
        }
        given = {name: value for name, value in given.items() if value is not None}
        if body.top_k is not None:
            given["top_k"] = max(0, body.top_k)  # vLLM's -1 is all of them too
        seed = secrets.randbits(32) if body.seed is None else body.seed
        with refusing("temperature"):
            return replace(
                self._decoding,
                max_new_tokens=tokens,
                seed=seed,
                stop=tuple(stop),
                stop_token_ids=tuple(body.stop_token_ids),
                **given,
            )

    def _scored(
        self,
        body: CompletionBody,
        prompts: list[tuple[int, ...]],
        interventions: tuple[Intervention, ...],
        readers: tuple[Reader, ...],
    ) -> ScoreRequest:
        """A text to be scored, from `steerkit_prompt_tokens` on; an unsteered one from its second token on."""
        if len(prompts) > 1 or body.n > 1 or body.stream or body.max_tokens not in (None, 1):
            raise RefusalError(
                "'prompt_logprobs' scores one prompt: leave out n and stream, and set max_tokens to 1",
                param="prompt_logprobs",
            )
        (ids,) = prompts
        if len(ids) > self._lm.context_length:
            raise RefusalError(
                f"the prompt has {len(ids)} tokens, but {self._name} reads {self._lm.context_length}",
                param="prompt",
                code="context_length_exceeded",
            )
        with refusing(PROMPT_TOKENS):
            begins = read_prompt_tokens((body.vllm_xargs or {}).get(PROMPT_TOKENS))
            if begins is None and interventions:
                raise MisuseError(
                    f"a steered text is scored behind its prompt: give {PROMPT_TOKENS}, its tokens"
                )
            begins = begins or 1
            if begins > len(ids):
                raise MisuseError(f"{PROMPT_TOKENS} is {begins}, but the prompt has {len(ids)} tokens")
        with refusing(ARGUMENT):
            return ScoreRequest("", "", interventions, readers=readers, encoded=EncodedText(ids, begins))


def _conversation(body: ChatBody) -> tuple[Prompt, str | None]:
    """The prompt and the system prompt of chat messages: one question is a text, which a base model takes too."""
    messages = [
        Message(role="system" if each.role == "developer" else each.role, content=each.text)
        for each in body.messages
    ]
    led = len(messages) == 2 and messages[0]["role"] == "system"
    if (led or len(messages) == 1) and messages[-1]["role"] == "user":
        return messages[-1]["content"], messages[0]["content"] if led else None
    return tuple(messages), None


def _texts(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def _several(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    return list(prompt) or [""]
