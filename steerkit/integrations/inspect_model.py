"""Inspect's model provider `steerkit/MODEL`: any Inspect task on a steered model, through our own engine.

    inspect eval task.py --model steerkit/smollm2-135m-instruct \\
        -M steer=abstain.safetensors@layer=14,strength=1.5

MODEL is what `--model` is elsewhere (a bundled name, a hub id, a folder, a GGUF file). Model arguments: `steer`,
one spec or several, applied in order; `engine` (with `--model-base-url` for a server), `device`, `dtype`, `batch_size`,
`allow_mismatch`, `template_options` (a mapping, for the chat template). Every intervention is there that the engine
supports, the transformers engine unless another is named.

1. Completions are what `steerkit generate` gives: greedy unless a temperature is set, the same seeds. A prompt
   that is asked again (another epoch) is the next sample of it.
2. A setting that would change the completion and that the engine does not have is an error, never ignored.
3. Inspect's concurrent calls are gathered into one running batch; one that cannot be run fails alone.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message, Prompt, TemplateOption
from steerkit.engines.base import Completion, Decoding, Engine, Request
from steerkit.engines.catalogue import EngineOptions, open_engine
from steerkit.integrations.inspect_specs import specs
from steerkit.interventions.spec import parse_all
from steerkit.models.thinking import unwrapped

# What the provider honours, and what Inspect sees to itself. Anything else that is set would be lost.
HONOURED = {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs", "num_choices"}
OF_INSPECT = {
    "adaptive_connections",
    "attempt_timeout",
    "batch",
    "cache",
    "cache_prompt",
    "extra_headers",
    "fail_on_refusal",
    "fallback_models",
    "internal_tools",
    "max_connections",
    "max_retries",
    "max_tool_output",
    "parallel_tool_calls",
    "reasoning_history",
    "stream_idle_timeout",
    "system_message",
    "timeout",
}
MAX_TOKENS = 2048  # where a task names no limit, as Inspect's own local providers have it
GATHER = 0.05  # seconds in which concurrent calls are waited for before a batch starts


class SteeredModelAPI(ModelAPI):
    """A steered model as Inspect's `ModelAPI`."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        steer: str | Sequence[str] = (),
        engine: str = "transformers",
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        allow_mismatch: bool = False,
        device_map: str | Mapping[str, int | str] | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        quantization: str | None = None,
        template_options: Mapping[str, TemplateOption] | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.interventions = parse_all(specs(steer))
        servers = (base_url,) if base_url else ()
        options = EngineOptions(
            model_name,
            device,
            dtype,
            batch_size,
            allow_mismatch,
            servers,
            device_map=device_map,
            max_memory=max_memory,
            quantization=quantization,
            template_options=template_options or {},
        )
        self._engine = open_engine(engine, options)
        self._worker = Worker(self._engine)
        self._asked: Counter[str] = Counter()

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[Any],
        tool_choice: Any,  # noqa: ARG002  (there are no tools to choose from)
        config: GenerateConfig,
    ) -> ModelOutput:
        """Complete one conversation; `num_choices` gives several samples of it."""
        refuse_unknown(tools, config)
        prompt, system = prompt_of(input, has_chat_template=self._engine.model.renderer.has_chat_template)
        decoding = Decoding(
            max_new_tokens=config.max_tokens or self.max_tokens(),
            temperature=config.temperature or 0.0,
            top_p=1.0 if config.top_p is None else config.top_p,
            seed=config.seed or 0,
            top_k=config.top_k or 0,
            stop=tuple(config.stop_seqs or ()),
        )
        count = config.num_choices or 1
        rendered = self._engine.model.renderer.render(prompt, system)
        first = self._asked[rendered]
        self._asked[rendered] += count
        pending = [
            self._worker.submit(Request(prompt, self.interventions, decoding, system, first + index))
            for index in range(count)
        ]
        while not all(future.done() for future in pending):
            await anyio.sleep(0.01)
        completions = [future.result() for future in pending]
        return ModelOutput(
            model=self.model_name,
            choices=[choice(self.model_name, c) for c in completions],
            usage=usage(completions),
        )

    def max_tokens(self) -> int:
        """Return the limit on a completion where the task names none: at most half of what the model reads."""
        return min(MAX_TOKENS, self._engine.model.context_length // 2)

    def max_connections(self) -> int:
        """Return how many conversations may be under way: as many as rows decode together."""
        return self._engine.batch_size

    def collapse_user_messages(self) -> bool:
        """Return True: chat templates want the roles to alternate."""
        return True

    def close(self) -> None:
        """End the engine's thread."""
        self._worker.close()


class Worker:
    """One thread that runs an engine over whatever requests are waiting."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Request, Future[Completion]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="steerkit-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Completion]:
        """Return the completion of `request`, to come."""
        future: Future[Completion] = Future()
        self._queue.put((request, future))
        return future

    def close(self) -> None:
        """Let the thread end after what was submitted."""
        self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        waiting: list[tuple[Request, Future[Completion]]] = []
        while True:
            try:
                entry = self._queue.get(timeout=GATHER if waiting else None)
            except queue.Empty:
                self._run(waiting)
                waiting = []
                continue
            if entry is None:
                self._run(waiting)
                return
            waiting.append(entry)

    def _run(self, waiting: Sequence[tuple[Request, Future[Completion]]]) -> None:
        requests = [replace(request, key=index) for index, (request, _) in enumerate(waiting)]
        try:
            for completion in self._engine.generate(requests):
                waiting[int(str(completion.request.key))][1].set_result(completion)
        except Exception as error:  # whatever it is belongs to the caller, not to this thread
            unfinished = [entry for entry in waiting if not entry[1].done()]
            if len(waiting) == 1:
                unfinished[0][1].set_exception(error)
                return
            for entry in unfinished:
                self._run([entry])


def refuse_unknown(tools: Sequence[Any], config: GenerateConfig) -> None:
    """Raise MisuseError for what would change the completion and is not there."""
    if tools:
        raise MisuseError("the steerkit provider has no tools: use a task without them")
    for name, value in config.model_dump(exclude_none=True).items():
        if value and name not in HONOURED | OF_INSPECT:
            raise MisuseError(f"the steerkit provider has no {name}: leave it out")


def prompt_of(messages: Sequence[ChatMessage], *, has_chat_template: bool) -> tuple[Prompt, str | None]:
    """Return Inspect's messages as a prompt and a system message.

    A model without a chat template takes one user message, after a system message if there is one.
    """
    for message in messages:
        if message.role == "tool":
            raise MisuseError("the steerkit provider has no tools: a conversation cannot hold their results")
        parts = [] if isinstance(message.content, str) else message.content
        if any(part.type not in ("text", "reasoning") for part in parts):
            raise MisuseError("the steerkit provider reads text only")
    plain = tuple(Message(role=message.role, content=message.text) for message in messages)
    if has_chat_template:
        return plain, None
    system = plain[0]["content"] if plain and plain[0]["role"] == "system" else None
    rest = plain[1:] if system is not None else plain
    if len(rest) != 1 or rest[0]["role"] != "user":
        raise MisuseError("a model without a chat template takes a single user message")
    return rest[0]["content"], system


def choice(model: str, completion: Completion) -> ChatCompletionChoice:
    """Return a completion as Inspect's choice, what it thought as reasoning content apart from its answer."""
    reason = "stop" if completion.finish == "stop" else "max_tokens"
    content: str | list[Content] = completion.text
    if thought := completion.text_of("thinking"):
        said = unwrapped(f"{completion.answer}\n{completion.text_of('tool')}".strip())
        content = [ContentReasoning(reasoning=thought), ContentText(text=said)]
    message = ChatMessageAssistant(content=content, model=model, source="generate")
    return ChatCompletionChoice(message=message, stop_reason=reason)


def usage(completions: Sequence[Completion]) -> ModelUsage:
    """Count the tokens read (the prompt once) and written."""
    read, written = completions[0].prompt_tokens, sum(c.tokens for c in completions)
    return ModelUsage(
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        reasoning_tokens=sum(c.thinking_tokens for c in completions) or None,
    )
