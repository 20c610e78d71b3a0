"""Decorations: what can be done to a request besides steering, so that a sweep compares it on equal terms.

A system prompt, an instruction behind the question, and a bias on how a completion may open are the baselines
that a steering vector has to beat. Like a steering, a decoration is frozen data with a digest and may be gated
by a probe, which reads the undecorated prompt.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources

from steerkit.errors import MisuseError
from steerkit.prompts import Message, Prompt
from steerkit.steering import ProbeGate, shortest


@dataclass(frozen=True, eq=False)
class Decoration:
    """A changed prompt, changed logits, or both.

    `system` takes the place of the request's system prompt. `instruction` is added behind the last message,
    after an empty line. `bias` (nats) is added to the logit of each token that continues one of `openers`, as
    long as the completion has said nothing but the beginning of one.
    """

    name: str
    system: str | None = None
    instruction: str | None = None
    openers: tuple[str, ...] = ()
    bias: float = 0.0
    gate: ProbeGate | None = None

    def __post_init__(self) -> None:
        if not (self.system or self.instruction or self.openers):
            raise MisuseError(
                f"decoration {self.name!r} changes nothing: give it a system prompt, an instruction or openers"
            )
        if not math.isfinite(self.bias):
            raise MisuseError(f"decoration {self.name!r}: a bias is a finite number of nats, got {self.bias}")
        if bool(self.openers) != bool(self.bias):
            raise MisuseError(f"decoration {self.name!r}: openers and a bias other than 0 go together")

    @functools.cached_property
    def open(self) -> Decoration:
        """This decoration without its gate: what it does to a row for which the gate fires."""
        return replace(self, gate=None)

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt with the instruction behind its last message."""
        if self.instruction is None:
            return prompt
        if isinstance(prompt, str):
            return f"{prompt}\n\n{self.instruction}"
        *before, last = prompt
        return (*before, Message(role=last["role"], content=f"{last['content']}\n\n{self.instruction}"))

    def system_prompt(self, system: str | None) -> str | None:
        """The system prompt under this decoration."""
        return system if self.system is None else self.system

    def spec(self) -> str:
        """The canonical spec string, by name; the protocol of a run holds the texts."""
        fields = [f"bias={shortest(self.bias)}"] if self.openers else []
        fields += self.gate.fields if self.gate else []
        return self.name + ("@" + ",".join(fields) if fields else "")

    def fields(self) -> dict[str, object]:
        """What a run's protocol records under the decoration's name: all of it but the gate."""
        return {
            "system": self.system,
            "instruction": self.instruction,
            "openers": list(self.openers),
            "bias": self.bias,
        }

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what this decoration does; its name does not."""
        gate = None if self.gate is None else self.gate.content
        content = [self.system, self.instruction, list(self.openers), float(self.bias).hex(), gate]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def biased_tokens(openers: Sequence[Sequence[int]], generated: Sequence[int]) -> Iterator[int]:
    """The tokens that continue an opener of which `generated` is the beginning, each once."""
    n = len(generated)
    continuing = (opener[n] for opener in openers if len(opener) > n and list(opener[:n]) == list(generated))
    yield from dict.fromkeys(continuing)


def built_in_decorations() -> dict[str, Decoration]:
    """The decorations that travel with the package, by name."""
    text = (resources.files("steerkit") / "data" / "decorations.json").read_text(encoding="utf-8")
    return {
        name: Decoration(
            name,
            entry.get("system"),
            entry.get("instruction"),
            tuple(entry.get("openers", ())),
            entry.get("bias", 0.0),
        )
        for name, entry in json.loads(text).items()
    }
