"""PromptEdit: a changed prompt, as data. The baselines that a steering vector has to beat are mostly these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message, Prompt
from steerkit.core.registry import LOGIT_RULES
from steerkit.interventions.base import Intervention, Names, preset_forms, quoted, spec_of, written_text
from steerkit.interventions.gate import Gate, PositionGate, as_gate

TEXTS = ("system", "instruction", "begin")


@dataclass(frozen=True, eq=False, repr=False)
class PromptEdit(Intervention):
    """Another system prompt, an instruction behind the question, or a forced beginning of the completion.

    `system` takes the place of the request's system prompt. `instruction` is added behind the last message, after an
    empty line. `begin` is text that the completion begins with: its tokens are forced one by one and count as the
    model's own, for scopes, half-lives and lengths alike. `name` is for tables and decides nothing.
    """

    system: str | None = None
    instruction: str | None = None
    begin: str | None = None
    name: str = ""
    gate: Gate | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "prompt"

    def __post_init__(self) -> None:
        if not any(getattr(self, text) for text in TEXTS):
            raise MisuseError(
                f"prompt edit {self.name!r} changes nothing: give it a system prompt, an instruction or a beginning"
            )
        for text in (*TEXTS, "name"):
            check_text(getattr(self, text), text)
        object.__setattr__(self, "gate", row_gate(self.gate, "a prompt edit"))

    @property
    def label(self) -> str:
        """Its name, or what it changes."""
        return self.name or " + ".join(text for text in TEXTS if getattr(self, text))

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return the prompt with the instruction behind its last message."""
        if self.instruction is None:
            return prompt
        if isinstance(prompt, str):
            return f"{prompt}\n\n{self.instruction}"
        *before, last = prompt
        return (*before, Message(role=last["role"], content=f"{last['content']}\n\n{self.instruction}"))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        texts = {text: getattr(self, text) for text in ("name", *TEXTS)}
        return {"kind": self.kind, **texts, "gate": None if self.gate is None else self.gate.to_json()}

    def spec(self, names: Names) -> str:
        """Return the canonical spec string: a preset by its name, else all texts, in quotes."""
        gate = [] if self.gate is None else self.gate.fields(names)
        texts = {text: value for text in TEXTS if (value := getattr(self, text)) is not None}
        if preset_forms().get(self.name) == texts:
            return spec_of(quoted(self.name), gate)
        fields = [(text, written_text(value)) for text, value in texts.items()]
        named = [("name", written_text(self.name))] if self.name else []
        return spec_of("prompt", [*named, *fields, *gate])


def edited_prompt(
    prompt: Prompt, system: str | None, interventions: Iterable[Intervention]
) -> tuple[Prompt, str | None]:
    """Return the prompt and system prompt under the edits among `interventions`, in order; gates are not asked."""
    for edit in interventions:
        if isinstance(edit, PromptEdit):
            prompt, system = edit.prompt(prompt), system if edit.system is None else edit.system
    return prompt, system


def means_no_vector(name: str) -> bool:
    """Return whether a bare `name` at the head of a spec string means something else than a vector."""
    return name == "prompt" or name in preset_forms() or name in LOGIT_RULES


def head_of(name: str) -> str:
    """Return how a spec string begins for a vector of this name: quoted if a bare one means another thing."""
    return written_text(name) if means_no_vector(name) else quoted(name)


def check_text(text: str | None, what: str) -> None:
    """Raise MisuseError for a text that no file and no tokenizer can hold."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise MisuseError(
            f"the {what} {text!r} is no valid Unicode: it holds half of a surrogate pair"
        ) from error


def row_gate(given: object, what: str) -> Gate | None:
    """Return the gate that `given` stands for. Raises MisuseError for one that decides position by position."""
    gate = as_gate(given)
    if isinstance(gate, PositionGate):
        raise MisuseError(
            f"{what} is gated row by row: {gate.name!r} is a vector, which gates positions of a steering; give a probe "
            "or a registered gate"
        )
    return gate
