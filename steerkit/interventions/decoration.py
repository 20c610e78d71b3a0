"""Decorations: what can be done to a request besides steering, so that a sweep compares it on equal terms.

A system prompt, an instruction behind the question, a bias on how a completion may open, and a rule on the logits
while the model thinks are the baselines that a steering vector has to beat. Like a steering, a decoration is
frozen data with a digest and may be gated by a probe, which reads the undecorated prompt. What a rule is to
a tokenizer's tokens, `steerkit.interventions.rules` says.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message, Prompt
from steerkit.interventions.steering import ProbeGate, shortest


@dataclass(frozen=True)
class ThinkingBudget:
    """After `tokens` thinking tokens the end-of-thinking marker is forced, and nothing else; the answer follows.

    Counted over the whole completion: a block that is opened again once the budget is spent is closed at once.
    0 closes a block that the prompt opened before anything is thought.
    """

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise MisuseError(f"a thinking budget is at least 0 tokens, got {self.tokens}")


@dataclass(frozen=True)
class SwitchPenalty:
    """TIP, the thought-switching penalty (arXiv 2501.18585): z̃_v = z_v - α for v in V while t < Ψ + β.

    V are the tokens that begin one of `words`, t the token to come, and Ψ the first token of the current thought:
    a thought begins where thinking begins and behind each of `words`. `alpha` is in nats, `beta` in tokens; the
    paper's values are the defaults. Only thinking is penalised.
    """

    words: tuple[str, ...]
    alpha: float = 3.0
    beta: int = 600

    def __post_init__(self) -> None:
        _check_words(self.words)
        if not 0 < self.alpha < math.inf:
            raise MisuseError(f"TIP's alpha is a positive number of nats, got {self.alpha}")
        if self.beta < 1:
            raise MisuseError(f"TIP's beta is at least 1 token, got {self.beta}")


@dataclass(frozen=True)
class CyclicReflex:
    """CyclicReflex (arXiv 2506.11077): a bias on reflection words that rises and falls as thinking goes on.

    z̃_v = z_v + δ(t) for v in V, with the triangular wave δ(t) = A·|4·((t - C/4) mod C)/C - 2| - A: 0 at t = 0, its
    crest A at a quarter of the `period` C, its trough -A at three quarters. V are the tokens that begin one of
    `words`, t counts thinking tokens. `amplitude` A is in nats; the paper's values are the defaults. Only thinking
    is biased.
    """

    words: tuple[str, ...]
    amplitude: float = 3.0
    period: int = 600

    def __post_init__(self) -> None:
        _check_words(self.words)
        if not 0 < self.amplitude < math.inf:
            raise MisuseError(f"CyclicReflex's amplitude is a positive number of nats, got {self.amplitude}")
        if self.period < 2:
            raise MisuseError(f"CyclicReflex's period is at least 2 tokens, got {self.period}")

    def bias(self, t: int) -> float:
        """δ(t) in nats."""
        phase = (t - self.period / 4) % self.period
        return self.amplitude * abs(4 * phase / self.period - 2) - self.amplitude


Rule = ThinkingBudget | SwitchPenalty | CyclicReflex
RULES: dict[str, type[ThinkingBudget] | type[SwitchPenalty] | type[CyclicReflex]] = {
    "thinking-budget": ThinkingBudget,
    "tip": SwitchPenalty,
    "cyclic-reflex": CyclicReflex,
}


@dataclass(frozen=True, eq=False)
class Decoration:
    """A changed prompt, changed logits, or both.

    `system` takes the place of the request's system prompt. `instruction` is added behind the last message,
    after an empty line. `bias` (nats) is added to the logit of each token that continues one of `openers`, as
    long as the completion has said nothing but the beginning of one. `rule` acts while the model thinks.
    """

    name: str
    system: str | None = None
    instruction: str | None = None
    openers: tuple[str, ...] = ()
    bias: float = 0.0
    gate: ProbeGate | None = None
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if not (self.system or self.instruction or self.openers or self.rule):
            raise MisuseError(
                f"decoration {self.name!r} changes nothing: give it a system prompt, an instruction, openers or a rule"
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

    @property
    def settings(self) -> dict[str, int | float]:
        """The rule's numbers by name: what a spec string may change."""
        return {} if self.rule is None else _numbers(self.rule)

    def spec(self) -> str:
        """The canonical spec string, by name; the protocol of a run holds the texts."""
        fields = [f"bias={shortest(self.bias)}"] if self.openers else []
        fields += [f"{key}={shortest(value)}" for key, value in self.settings.items()]
        fields += self.gate.fields if self.gate else []
        return self.name + ("@" + ",".join(fields) if fields else "")

    def fields(self) -> dict[str, object]:
        """What a run's protocol records under the decoration's name: what all cells of that name share.

        So a rule's words are there, and its numbers are not: each cell's spec string has its own.
        """
        fields: dict[str, object] = {
            "system": self.system,
            "instruction": self.instruction,
            "openers": list(self.openers),
            "bias": self.bias,
        }
        if self.rule is not None:
            fields["rule"] = {"kind": _kind(self.rule), "words": list(_words(self.rule))}
        return fields

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what this decoration does; its name does not."""
        gate = None if self.gate is None else self.gate.content
        content: list[object] = [
            self.system,
            self.instruction,
            list(self.openers),
            float(self.bias).hex(),
            gate,
        ]
        if self.rule is not None:  # what has none keeps the digest that it had before there were rules
            numbers = {key: float(value).hex() for key, value in self.settings.items()}
            content.append([_kind(self.rule), list(_words(self.rule)), numbers])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


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
            rule=_rule(**entry["rule"]) if "rule" in entry else None,
        )
        for name, entry in json.loads(text).items()
    }


def _rule(kind: str, **content: Any) -> Rule:
    if "words" in content:
        content["words"] = tuple(content["words"])
    return RULES[kind](**content)


def _kind(rule: Rule) -> str:
    return next(kind for kind, made in RULES.items() if isinstance(rule, made))


def _words(rule: Rule) -> tuple[str, ...]:
    return () if isinstance(rule, ThinkingBudget) else rule.words


def _numbers(rule: Rule) -> dict[str, int | float]:
    return {key: value for key, value in asdict(rule).items() if key != "words"}


def _check_words(words: tuple[str, ...]) -> None:
    if not words or any(not word.strip() for word in words):
        raise MisuseError("a rule on words needs at least one, and none that is empty")
