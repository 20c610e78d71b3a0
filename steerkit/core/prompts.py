"""From a prompt to tokens: chat templates, the plain form, and where a completion begins.

1. Everything is rendered to text once and tokenised without added special tokens, so the beginning-of-sequence
   marker stands there exactly once: where the chat template wrote it, or where the plain form did.
2. What a chat template raises is one MisuseError that names the template and what it was given.
3. How a template takes contents and system messages is tried once, on a prompt of our own. Where it takes no system
   message, raises on it or leaves it out, that text goes in front of the first user turn, and a warning says so.
4. The template is the one of the first rendering: another put in its place later is refused.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from steerkit.core.errors import MisuseError
from steerkit.core.texts import is_blank


class Message(TypedDict):
    """One chat message."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
TemplateOption = bool | int | float | str

PLAIN_PROMPT = "Question: {prompt}\nAnswer:"
PLAIN_SYSTEM = "{system}\n\n"
ROLES = ("system", "user", "assistant")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer decodes a part of a character to

# Texts that no template writes by itself and none changes, put through one to see what becomes of them.
PROBES = ("7301946285", "6094158372", "2850371946")
# How turns begin in the templates of the families that there are, for prompts rendered for another one.
FOREIGN_TURN = re.compile(
    r"<\|(im_start|im_end|start_header_id|eot_id|start|header_start|turn|begin_of_text)\|>"
    r"|<\|(system|user|assistant)\|>|\[/?INST\]|<start_of_turn>|<end_of_turn>|<｜(User|Assistant)｜>"
)


def check_prompt(prompt: Any) -> Prompt:
    """Return `prompt` as plain data, or raise MisuseError saying what is wrong with it."""
    if isinstance(prompt, str):
        if is_blank(prompt):
            raise MisuseError("the prompt is empty: give a question, or a list of chat messages")
        return prompt
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise MisuseError(f"a prompt is a text or a list of chat messages, got {type(prompt).__name__}")
    if not prompt:
        raise MisuseError("a prompt is a text or a list of chat messages, got an empty list")
    return tuple(map(_checked_message, prompt))


def _checked_message(message: Any) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise MisuseError(f"a chat message needs exactly 'role' and 'content', got {message!r}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise MisuseError(f"a chat message's role is one of {', '.join(ROLES)}, got {role!r}")
    if not isinstance(content, str):
        what = (
            "a list of parts" if isinstance(content, list) else "null" if content is None else repr(content)
        )
        raise MisuseError(
            f"a chat message's content must be a text, and that of a message of {role} is {what}: write the text itself"
        )
    if others := message.keys() - {"role", "content"}:
        raise MisuseError(f"a chat message needs exactly 'role' and 'content', got {min(others)!r} too")
    return Message(role=role, content=content)


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


@dataclass(frozen=True, slots=True)
class _Form:
    """How a chat template takes messages: contents as parts, as those of some image models, and system messages."""

    in_parts: bool = False
    takes_system: bool = True
    keeps_prompt: bool = True


class Renderer:
    """Turns prompts into token ids for one tokenizer.

    With a chat template, the template renders the prompt and opens the assistant's turn; `options` are passed to it, as
    `enable_thinking=False`. Without one, the plain form `Question: …\\nAnswer:` is used, led by the tokenizer's own
    beginning-of-sequence marker if it adds one by itself, and a completion is joined to it with a space.

    Raises MisuseError for an option that no template can be given; one that this template does not read is warned of.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, TemplateOption] | None = None) -> None:
        self._tokenizer = tokenizer
        self._own_texts: dict[int, str | None] = {}
        self._special: dict[int, bool] = {}
        self._said: set[str] = set()
        self.options: Mapping[str, TemplateOption] = MappingProxyType(dict(options or {}))
        self._said_of_rendered = False
        self._is_silent = False
        if self.options:
            self._check_options()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Warn of nothing inside the block."""
        before, self._is_silent = self._is_silent, True
        try:
            yield
        finally:
            self._is_silent = before

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts are rendered by a chat template, and not in the plain form."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    @property
    def takes_system(self) -> bool:
        """Whether a system prompt has a place of its own; where it has none it goes into the first user turn."""
        return self._form.takes_system

    @property
    def digest(self) -> str:
        """SHA-256 over whatever decides the rendering: the chat template and its options, or the plain form."""
        form: dict[str, Any] = {"plain": [self._plain_start, PLAIN_SYSTEM, PLAIN_PROMPT, " "]}
        if self.has_chat_template:
            form = {"chat": self._tokenizer.chat_template}
            if self.options:
                form["options"] = dict(self.options)
            if not self._form.takes_system:
                form["system"] = "in the first user turn"
            if self._form.in_parts:
                form["content"] = "in parts"
        return hashlib.sha256(json.dumps(form, sort_keys=True, default=repr).encode()).hexdigest()

    def render(self, prompt: Prompt, system: str | None = None) -> str:
        """The text up to which the model has read when it starts to answer.

        Raises MisuseError for what `check_prompt` refuses and for what the chat template refuses, a template that
        cannot be used at all or was replaced since the first rendering; warns, once, of a system prompt that goes into
        the user turn, and of a prompt that was rendered already.
        """
        prompt = check_prompt(prompt)
        if all(is_blank(text) for text in _texts(prompt)):
            raise MisuseError("the prompt is empty: give at least one chat message with a text")
        self._warn_of_rendered(prompt)
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
        if self._tokenizer.chat_template != self._template:
            raise MisuseError(
                "the tokenizer's chat template was replaced after prompts had been rendered with another: load the "
                "model again, as sk.load_model(lm.hf, lm.tokenizer)"
            )
        form = self._form
        if not form.keeps_prompt:
            raise MisuseError(
                f"{self._name} leaves the prompt out of what it writes: mend it, or take it away"
            )
        if not form.takes_system and messages[0]["role"] == "system":
            messages = _in_user_turn(messages)
            self._say(
                f"{self._name} takes no system message: the system prompt goes into the first user turn"
            )
        return self.render_messages(messages)

    def render_messages(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text that the chat template makes of messages as they are, with the model's turn opened or not.

        Raises MisuseError for whatever the template raises.
        """
        return self._applied(messages, self._form, opens=add_generation_prompt)

    @functools.cached_property
    def generation_prompt(self) -> str:
        """What the chat template writes for the model's turn to begin; empty without one, or where none can be told."""
        if not self.has_chat_template:
            return ""
        asked = "What is it?"
        try:
            alone = self.render_messages([Message(role="user", content=asked)], add_generation_prompt=False)
            whole = self.render(asked)
        except MisuseError:  # the template raises at every prompt, which says so where one is rendered
            return ""
        return whole[common_prefix_length(alone, whole) :]

    @functools.cached_property
    def _template(self) -> Any:
        """The chat template, as it is at the first rendering."""
        return self._tokenizer.chat_template

    @functools.cached_property
    def _plain_start(self) -> str:
        return "" if self.has_chat_template else _own_bos(self._tokenizer)

    @functools.cached_property
    def _form(self) -> _Form:
        """How the chat template takes messages; where it takes no prompt at all, that is said by the first one."""
        if not self.has_chat_template:
            return _Form()
        asked, system, _ = PROBES
        user = Message(role="user", content=asked)
        for form in (_Form(), _Form(in_parts=True)):
            if asked in (self._tried([user], form) or ""):
                break
        else:
            return _Form(keeps_prompt=self._tried([user], _Form()) is None)
        led = self._tried([Message(role="system", content=system), user], form) or ""
        return _Form(form.in_parts, takes_system=asked in led and system in led)

    def _tried(self, messages: Sequence[Message], form: _Form) -> str | None:
        try:
            return self._applied(messages, form)
        except MisuseError:
            return None

    def _applied(self, messages: Sequence[Message], form: _Form, *, opens: bool = True) -> str:
        """What the template makes of messages. Raises MisuseError for whatever it raises."""
        given: Sequence[Mapping[str, Any]] = messages
        if form.in_parts:
            given = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        chosen = {}
        if isinstance(self._template, Mapping) and len(self._template) == 1:
            (chosen["chat_template"],) = self._template.values()
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    given, tokenize=False, add_generation_prompt=opens, **chosen, **self.options
                )
            )
        except Exception as error:  # a template is a program of others, which raises whatever it likes
            raise MisuseError(self._refusal(error, [m["role"] for m in messages])) from error

    @property
    def _name(self) -> str:
        return f"the chat template of {getattr(self._tokenizer, 'name_or_path', '') or 'this tokenizer'}"

    def _refusal(self, error: Exception, roles: Sequence[str]) -> str:
        """One line: which template says no, to what, why, and what to do."""
        from jinja2.exceptions import TemplateError, TemplateSyntaxError, UndefinedError

        reason = " ".join(str(error).split()) or type(error).__name__
        where = "its chat_template.jinja, or the chat_template in its tokenizer_config.json"
        if isinstance(error, TemplateSyntaxError):
            return f"{self._name} has a syntax error in line {error.lineno} ({reason}): mend {where}"
        if isinstance(self._template, Mapping):
            names = ", ".join(map(str, self._template))
            return f"{self._name} is one of several ({names}), and none is named default: keep one of them in {where}"
        if not isinstance(self._template, str):
            return f"{self._name} is no text but a {type(self._template).__name__}: mend {where}"
        if isinstance(error, UndefinedError) and (missing := re.match(r"'(\w+)' is undefined", reason)):
            return (
                f"{self._name} needs {missing[1]!r}, which nobody gives it: pass --template-option "
                f"{missing[1]}=VALUE (in Python template_options), or mend {where}"
            )
        if type(error) is TemplateError:  # what raise_exception raises
            return (
                f"{self._name} refuses messages of the roles {', '.join(roles)} ({reason}): write the prompt with the "
                "roles that it takes, as user and assistant in turn"
            )
        return f"{self._name} fails on messages of the roles {', '.join(roles)} ({reason}): mend {where}"

    def _check_options(self) -> None:
        reserved = {"messages", *inspect.signature(self._tokenizer.apply_chat_template).parameters}
        for name, value in self.options.items():
            if not name.isidentifier() or name in reserved:
                raise MisuseError(
                    f"{name!r} is no option of a chat template: it is set by steerkit, or no name"
                )
            if not isinstance(value, bool | int | float | str) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise MisuseError(
                    f"the template option {name} is a boolean, a number or a text, got {value!r}"
                )
        if not self.has_chat_template:
            raise MisuseError("this model has no chat template, so no template option can be passed to one")
        read = _variables(self._tokenizer.chat_template)
        if unread := [name for name in self.options if name not in read]:
            options = ", ".join(sorted(read - reserved)) or "no option"
            self._say(f"{self._name} does not read {', '.join(unread)}; it reads {options}")

    def _say(self, line: str) -> None:
        """Warn of something once."""
        if line not in self._said and not self._is_silent:
            self._said.add(line)
            warnings.warn(line, stacklevel=3)

    def _warn_of_rendered(self, prompt: Prompt) -> None:
        if self._said_of_rendered or self._is_silent:
            return
        texts = _texts(prompt)
        mark = next(filter(None, map(self.turn_marker_in, texts)), None)
        if mark is not None:
            self._said_of_rendered = True
            start = " ".join("".join(texts).split())[:40]
            self._say(
                f"the prompt {start!r} holds {mark}: it was rendered by a chat template already, and is rendered once "
                "more: give the question alone (said once)"
            )

    def turn_marker_in(self, text: str) -> str | None:
        """Return what in `text` shows that it was rendered by a chat template, or None."""
        tokens, reply = self._turn_markers
        for mark in tokens:
            if mark in text:
                return mark
        if foreign := FOREIGN_TURN.search(text):
            return foreign[0]
        if not self.has_chat_template:
            start, end = PLAIN_PROMPT.split("{prompt}")
            plain = text.strip()
            return start.strip() if plain.startswith(start.strip()) and plain.endswith(end.strip()) else None
        framed = any(sign in reply for sign in "<[|{#")
        return reply if reply and (reply in text if framed else text.rstrip().endswith(reply)) else None

    @functools.cached_property
    def _turn_markers(self) -> tuple[tuple[str, ...], str]:
        """The special tokens around a turn, and what stands between a user's text and the reply."""
        ends = {getattr(self._tokenizer, name, None) for name in ("bos_token", "eos_token")}
        if not self.has_chat_template:
            return tuple(sorted(filter(None, ends))), ""
        asked, replied, again = PROBES
        roles = ("user", "assistant", "user")
        turns = [Message(role=r, content=c) for r, c in zip(roles, (asked, replied, again), strict=True)]
        text = self._tried(turns, self._form) or ""
        head, _, behind = text.partition(asked)
        reply = behind.partition(replied)[0].strip() if replied in behind else ""
        special = [token for token in self._tokenizer.all_special_tokens if token in head + reply]
        return tuple(sorted({*special, *filter(None, ends)})), reply

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
        try:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        except Exception as error:  # tokenizers raise bare exceptions
            reason = " ".join(str(error).split())
            raise MisuseError(f"the tokenizer cannot take the text {text[:40]!r} ({reason})") from error

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Token ids of a text as it goes on from another, where the tokenizer keeps the two apart."""
        alone, whole = self.encode(before), self.encode(before + text)
        return whole[common_prefix_length(alone, whole) :]

    def encode_prompt(self, prompt: Prompt, system: str | None = None) -> list[int]:
        """Token ids of the rendered prompt. Raises MisuseError as `render` and `encode`, and where there are none."""
        ids = self.encode(self.render(prompt, system))
        if not ids:
            raise MisuseError(
                "the prompt has no token once it is rendered: mend the chat template or the tokenizer"
            )
        return ids

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

    @functools.cached_property
    def _before(self) -> tuple[list[int], str]:
        """A letter's tokens and text, behind which a token shows its own text."""
        before = list(self._tokenizer("a", add_special_tokens=False)["input_ids"])
        return before, self.decode_raw(before)

    def own_text(self, token: int) -> str | None:
        """What a token adds to the end of a text; None for one without a text of its own, as part of a character."""
        if token not in self._own_texts:
            before, lead = self._before
            text = self.decode_raw([*before, token])
            own = text[len(lead) :] if text.startswith(lead) else ""
            self._own_texts[token] = own if own and REPLACEMENT not in own else None
        return self._own_texts[token]

    def is_special(self, token: int) -> bool:
        """Whether a token is left out where special ones are, as a text that people read has it."""
        if token not in self._special:
            whole = self.decode_raw([token])
            self._special[token] = bool(whole) and not self.decode_raw([token], special=False)
        return self._special[token]

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return what each token adds to the text: parts of one character stand with the token that ends it."""
        text = self.decode_raw(ids)
        return tuple(text[a:b] for a, b in itertools.pairwise(self.offsets(ids, text)))

    def offsets(self, ids: Sequence[int], text: str) -> list[int]:
        """Return where in `text`, which `ids` decode to or which begins so, each token begins, and where the last ends.

        A token that holds a part of a character begins with it, or behind it where another has begun it.
        """
        owns = [self.own_text(token) or "" for token in ids]
        if "".join(owns) == text:
            return list(itertools.accumulate(map(len, owns), initial=0))
        begins, at = [], 0
        whole = 0  # the first token behind the last one that ended a character, and where it begins
        since = 0
        for i, own in enumerate(owns):
            begins.append(min(at, len(text)))
            if own and text.startswith(own, at):
                at += len(own)
            elif own and not at and text.startswith(own.lstrip()):
                at += len(own.lstrip())
            else:
                # Only the tokens since then are read again: a long text of such tokens is read once, not at each.
                read = self.decode_raw(ids[whole : i + 1])
                ended = read.rstrip(REPLACEMENT)
                if not text.startswith(ended, since):
                    read = self.decode_raw(ids[: i + 1])
                    ended = read.rstrip(REPLACEMENT)
                    since = 0
                at = max(at, min(since + len(ended), len(text)))
                if ended != read:
                    continue
            whole, since = i + 1, at
        return [*begins, len(text)]


def common_prefix_length(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading tokens two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _texts(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def _in_user_turn(messages: Sequence[Message]) -> list[Message]:
    """The messages with the leading system ones in front of the first user turn, or as one where there is none."""
    count = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    said = [message["content"] for message in messages[:count]]
    rest = list(messages[count:])
    if rest and rest[0]["role"] == "user":
        said.append(rest.pop(0)["content"])
    return [Message(role="user", content="\n\n".join(said)), *rest]


def _variables(template: Any) -> set[str]:
    """The names that a chat template reads from what it is given."""
    import jinja2.meta

    texts = template.values() if isinstance(template, Mapping) else [template]
    found: set[str] = set()
    for text in map(str, texts):
        try:
            parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
            found |= jinja2.meta.find_undeclared_variables(parsed)
        except jinja2.TemplateSyntaxError:  # or tags of transformers' own
            found |= set(re.findall(r"\w+", text))
    return found


def _own_bos(tokenizer: Any) -> str:
    """The beginning-of-sequence text that the tokenizer adds by itself, or nothing."""
    added = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return tokenizer.bos_token if added else ""
