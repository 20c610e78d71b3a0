"""From a prompt to tokens: chat templates, the plain form, and where a completion begins.

Everything is rendered to text once and tokenised without added special tokens, so the beginning-of-sequence
marker stands there exactly once: where the chat template wrote it, or where the plain form did.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from steerkit.core.errors import MisuseError


class Message(TypedDict):
    """One chat message."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]

PLAIN_PROMPT = "Question: {prompt}\nAnswer:"
PLAIN_SYSTEM = "{system}\n\n"
ROLES = ("system", "user", "assistant")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer decodes a part of a character to


def check_prompt(prompt: Any) -> Prompt:
    """Return `prompt` as plain data, or raise MisuseError saying what is wrong with it."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise MisuseError("the prompt is empty: give a question, or a list of chat messages")
        return prompt
    if isinstance(prompt, Sequence) and prompt:
        for message in prompt:
            if not isinstance(message, dict) or set(message) != {"role", "content"}:
                raise MisuseError(f"a chat message needs exactly 'role' and 'content', got {message!r}")
            if message["role"] not in ROLES or not isinstance(message["content"], str):
                raise MisuseError(f"a chat message's role is one of {', '.join(ROLES)}, got {message!r}")
        return tuple(Message(role=m["role"], content=m["content"]) for m in prompt)
    raise MisuseError(f"a prompt is a text or a list of chat messages, got {type(prompt).__name__}")


def as_text(prompt: Prompt) -> str:
    """A prompt as text; chat messages one below the other."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A prompt with its completion as token ids; `ids[:prompt_length]` is shared with the prompt alone."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def completion_length(self) -> int:
        """Number of tokens that belong to the completion."""
        return len(self.ids) - self.prompt_length


class Renderer:
    """Turns prompts into token ids for one tokenizer.

    With a chat template, the template renders the prompt and opens the assistant's turn. Without one, the
    plain form `Question: …\\nAnswer:` is used, led by the tokenizer's own beginning-of-sequence marker if it
    adds one by itself, and a completion is joined to it with a space.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        self._plain_start = "" if self.has_chat_template else _own_bos(tokenizer)
        self._own_texts: dict[int, str | None] = {}
        self._special: dict[int, bool] = {}

    @property
    def digest(self) -> str:
        """SHA-256 over whatever decides the rendering: the chat template, or the plain form."""
        form: dict[str, Any] = {"plain": [self._plain_start, PLAIN_SYSTEM, PLAIN_PROMPT, " "]}
        if self.has_chat_template:
            form = {"chat": self._tokenizer.chat_template}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()

    def render(self, prompt: Prompt, system: str | None = None) -> str:
        """The text up to which the model has read when it starts to answer."""
        prompt = check_prompt(prompt)
        if not self.has_chat_template:
            if not isinstance(prompt, str):
                raise MisuseError(
                    "this model has no chat template, so it cannot take a list of chat messages: "
                    "give the prompt as one text, or use an instruction-tuned model"
                )
            lead = PLAIN_SYSTEM.format(system=system) if system else ""
            return self._plain_start + lead + PLAIN_PROMPT.format(prompt=prompt)
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if system:
            if messages[0]["role"] == "system":
                raise MisuseError("the prompt has a system message already: drop it, or the separate one")
            messages.insert(0, Message(role="system", content=system))
        return self.render_messages(messages)

    def render_messages(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text that the chat template makes of messages, which opens the model's turn or leaves it unopened."""
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    @functools.cached_property
    def generation_prompt(self) -> str:
        """What the chat template writes for the model's turn to begin; empty without one, or where none can be told."""
        if not self.has_chat_template:
            return ""
        asked = "What is it?"
        try:
            alone = self.render_messages([Message(role="user", content=asked)], add_generation_prompt=False)
            whole = self.render(asked)
        except Exception:  # the template raises at every prompt, which says so where one is rendered
            return ""
        return whole[common_prefix_length(alone, whole) :]

    def join(self, rendered_prompt: str, completion: str) -> str:
        """The rendered prompt followed by a completion, without a closing marker."""
        space = "" if self.has_chat_template or completion[:1].isspace() else " "
        return rendered_prompt + space + completion

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered text, nothing added. Raises MisuseError for text that is no Unicode."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MisuseError(
                f"the text holds half a character at position {error.start} (a lone surrogate, as undecodable bytes "
                "become): write it in UTF-8"
            ) from error
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Token ids of a text as it goes on from another, where the tokenizer keeps the two apart."""
        alone, whole = self.encode(before), self.encode(before + text)
        return whole[common_prefix_length(alone, whole) :]

    def encode_prompt(self, prompt: Prompt, system: str | None = None) -> list[int]:
        """Token ids of the rendered prompt."""
        return self.encode(self.render(prompt, system))

    def encode_pair(self, prompt: Prompt, completion: str, system: str | None = None) -> EncodedText:
        """Prompt and completion tokenised together; the completion is what lies past the common prefix."""
        rendered = self.render(prompt, system)
        alone = self.encode(rendered)
        ids = self.encode(self.join(rendered, completion))
        shared = common_prefix_length(alone, ids)
        if shared == len(ids):
            raise MisuseError(f"the completion {completion!r} adds no token to its prompt: give it some text")
        return EncodedText(tuple(ids), shared)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return self.decode_raw(ids, special=False).strip()

    def decode_raw(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Text of generated tokens with nothing stripped, and with `special` the special tokens in it."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=not special))

    def own_text(self, token: int) -> str | None:
        """What a token adds to the end of a text; None for one without a text of its own, as part of a character."""
        if token not in self._own_texts:
            before = self._tokenizer("a", add_special_tokens=False)["input_ids"]
            lead, text = self.decode_raw(before), self.decode_raw([*before, token])
            own = text[len(lead) :] if text.startswith(lead) else ""
            self._own_texts[token] = own if own and REPLACEMENT not in own else None
        return self._own_texts[token]

    def is_special(self, token: int) -> bool:
        """Whether a token is left out where special ones are, as a text that people read has it."""
        if token not in self._special:
            whole = self.decode_raw([token])
            self._special[token] = bool(whole) and not self.decode_raw([token], special=False)
        return self._special[token]

    def offsets(self, ids: Sequence[int], text: str) -> list[int]:
        """Return where in `text`, which `ids` decode to or which begins so, each token begins, and where the last ends.

        A token that holds a part of a character begins with it, or behind it where another has begun it.
        """
        owns = [self.own_text(token) or "" for token in ids]
        if "".join(owns) == text:
            return list(itertools.accumulate(map(len, owns), initial=0))
        begins, at = [], 0
        for i, own in enumerate(owns):
            begins.append(min(at, len(text)))
            if own and text.startswith(own, at):
                at += len(own)
            elif own and not at and text.startswith(own.lstrip()):
                at += len(own.lstrip())
            else:
                read = self.decode_raw(ids[: i + 1]).rstrip(REPLACEMENT)
                at = max(at, min(len(read), len(text)))
        return [*begins, len(text)]


def common_prefix_length(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading tokens two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _own_bos(tokenizer: Any) -> str:
    """The beginning-of-sequence text that the tokenizer adds by itself, or nothing."""
    added = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return tokenizer.bos_token if added else ""
