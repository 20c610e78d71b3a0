"""Policies: rules on logits that a reader of the same row triggers, while the row is being written.

`reply-now`     closes the thinking, as a thinking budget does, and lets the model answer
`stop-and-say`  closes the thinking, writes a text and ends the completion

    reply-now@when=doubt,when_as=probe,when_layer=14,on=0.7,off=0.5,smoothing=4,renewed=lines

1. The trigger is looked at behind each token, or behind those that begin a line or step (`renewed`), as a running mean
   over the newest `smoothing` readings or so: that of all of them up to so many, before which it is not on, and then
   s + (reading - s) / smoothing. It is on from a mean of `on` until one passes `off` on the other side; with `off`
   above `on`, low readings switch it on.
2. What is read of a token's state is known once the next token is chosen, and what is read of its logits with it: the
   policy acts from the token behind on. So nothing in a step waits for it but the copy that fetches the tokens.
3. A policy that has begun to say its text goes on to the end. A completion says what each policy decided, and when.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number
from steerkit.interventions.base import Names, shortest
from steerkit.interventions.following import RENEWED, Renewed
from steerkit.interventions.logit_rules import (
    NO_EDITS,
    Edits,
    FollowedThinking,
    LogitRule,
    Thinking,
    Tokens,
    logit_rule,
)
from steerkit.interventions.readers import Reader, as_readers

if TYPE_CHECKING:
    from steerkit.models import LanguageModel

ENDS: dict[Renewed, int] = {
    "every": 0,
    "lines": 1,
    "boundaries": 2,
}  # newlines behind which a reading is renewed


@dataclass(frozen=True)
class Trigger:
    """When a policy acts: a reader's running mean between two thresholds; see the module's contract."""

    reader: Reader
    on: float
    off: float
    smoothing: float = 1.0
    renewed: Renewed = "every"

    def __post_init__(self) -> None:
        (reader,) = as_readers(self.reader)
        object.__setattr__(self, "reader", reader)
        for name in ("on", "off", "smoothing"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        if self.smoothing < 1:
            raise MisuseError(f"smoothing is a number of readings from 1 on, got {self.smoothing:g}")
        if self.renewed not in RENEWED:
            raise MisuseError(f"renewed is one of {', '.join(RENEWED)}, got {self.renewed!r}")

    def is_on(self, mean: float, was: bool) -> bool:
        """Return whether the trigger is on at a mean, where it was on or not before."""
        if self.on >= self.off:
            return mean >= self.on or (was and mean >= self.off)
        return mean <= self.on or (was and mean <= self.off)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        numbers = {name: getattr(self, name) for name in ("on", "off", "smoothing", "renewed")}
        return {"reader": self.reader.to_json(), **numbers}

    def fields(self, names: Names) -> list[tuple[str, str]]:
        """Return its part of a spec string, as keys and values."""
        smoothing = [("smoothing", shortest(self.smoothing))] * (self.smoothing != 1)
        renewed = [("renewed", self.renewed)] * (self.renewed != "every")
        numbers = [("on", shortest(self.on)), ("off", shortest(self.off))]
        return [*self.reader.fields("when", names), *numbers, *smoothing, *renewed]


@dataclass(frozen=True, eq=False, repr=False)
class Policy(LogitRule):
    """The base of all policies: a rule with a trigger, `when`, without which it binds to no model."""

    when: Trigger | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """Raise MisuseError for a trigger that is none."""
        if not isinstance(self.when, Trigger | None):
            raise MisuseError(f"{self.rule} acts when a Trigger(reader, on, off) is on, got {self.when!r}")

    @property
    def trigger(self) -> Trigger:
        """Its trigger. Raises MisuseError without one."""
        if self.when is None:
            raise MisuseError(f"{self.rule} says not when it acts: give when=Trigger(reader, on, off)")
        return self.when

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The trigger's vectors and probes, then the gate's."""
        return (*(() if self.when is None else self.when.reader.tensors), *super().tensors)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**super().to_json(), "when": self.trigger.to_json()}

    def options(self, names: Names) -> list[tuple[str, str]]:
        """Return the keys and values of a spec string: settings that are not the default ones, and the trigger."""
        return [*super().options(names), *self.trigger.fields(names)]

    @abstractmethod
    def bind(self, lm: LanguageModel) -> BoundPolicy:
        """Return the policy in the tokens of `lm`."""


class Deciding(NamedTuple):
    """How far a policy is: where thinking stands, what the newest two tokens begin, and what was read of them.

    `begins` and `began` say whether the newest token, and the one before, begins what readings are renewed at.
    """

    thinking: Thinking
    tokens: int = 0
    ends: int = 2
    begins: bool = True
    began: bool = False
    seen: int = 0
    mean: float = 0.0
    is_on: bool = False
    said: int | None = None
    decided: tuple[int, float] | None = None


@dataclass(frozen=True)
class BoundPolicy:
    """A policy in one model's tokens. `text` is what it says behind the thinking; None: the model goes on itself."""

    name: str
    trigger: Trigger
    followed: FollowedThinking
    line_breaks: Tokens = field(compare=False)  # the model's, and long
    text: Tokens | None = None

    def start(self, prompt: Sequence[int]) -> Deciding:
        """Nothing is read or written yet; the prompt's last token begins a step."""
        return Deciding(self.followed.start(prompt))

    def after(self, state: Deciding, token: int) -> Deciding:
        """Go one token on."""
        breaks = self.line_breaks[token]
        ends = 2 if breaks == 3 or (breaks == 2 and state.ends) else min(breaks, 1)
        said = state.said
        if self.text is not None and state.is_on and not state.thinking.is_open:
            said = (said or 0) + 1
        begins = state.ends >= ENDS[self.trigger.renewed]
        thinking = self.followed.after(state.thinking, token)
        return state._replace(
            thinking=thinking,
            tokens=state.tokens + 1,
            ends=ends,
            begins=begins,
            began=state.begins,
            said=said,
        )

    def read(self, state: Deciding, reading: float) -> Deciding:
        """Take what the trigger's reader read: of logits, of the newest token; of states, of the one before it."""
        is_renewed = state.began if self.trigger.reader.place is not None else state.begins
        if not is_renewed or state.said is not None:
            return state
        seen, smoothing = state.seen + 1, self.trigger.smoothing
        mean = state.mean + (reading - state.mean) / min(seen, smoothing)
        is_on = seen >= smoothing and self.trigger.is_on(mean, state.is_on)
        is_on = is_on or (state.is_on and self.text is not None)
        decided = state.decided
        if is_on and not state.is_on and (self.text is not None or state.thinking.is_open):
            decided = decided or (state.tokens, mean)
        return state._replace(seen=seen, mean=mean, is_on=is_on, decided=decided)

    def edits(self, state: Deciding) -> Edits:
        """Return what is missing of the closing marker, and behind it the text, once the trigger is on."""
        if not state.is_on:
            return NO_EDITS
        if state.thinking.is_open:
            return Edits(forced=self.followed.tracker.closing_from(state.thinking.state, state.thinking.tail))
        if self.text is None:
            return NO_EDITS
        return Edits(forced=self.text[min(state.said or 0, len(self.text) - 1)])


def _bound(policy: Policy, lm: LanguageModel, text: Tokens | None) -> BoundPolicy:
    followed = FollowedThinking(lm.thinking, len(lm.thinking.channel_closing))
    return BoundPolicy(policy.rule, policy.trigger, followed, tuple(lm.line_breaks.tolist()), text)


@logit_rule("reply-now")
@dataclass(frozen=True, eq=False, repr=False)
class ReplyNow(Policy):
    """Close the thinking where the trigger is on, and let the model answer; without open thinking nothing happens."""

    def bind(self, lm: LanguageModel) -> BoundPolicy:
        """Return the policy in the tokens of `lm`."""
        return _bound(self, lm, None)


@logit_rule("stop-and-say")
@dataclass(frozen=True, eq=False, repr=False)
class StopAndSay(Policy):
    """Where the trigger is on close the thinking, write `text` and end the completion."""

    text: str = "\nI don't know."

    def check(self) -> None:
        """Raise MisuseError without a text to say."""
        super().check()
        if not self.text.strip():
            raise MisuseError("stop-and-say needs a text to say; to let the model answer take reply-now")

    def bind(self, lm: LanguageModel) -> BoundPolicy:
        """Return the policy in the tokens of `lm`."""
        encoded = lm.renderer.encode_pair("?", self.text)
        said = encoded.ids[encoded.prompt_length :]
        if not lm.stop_ids:
            raise MisuseError(
                f"{lm.name} has no token that ends a completion, and stop-and-say ends with one"
            )
        return _bound(self, lm, (*said, min(lm.stop_ids)))
