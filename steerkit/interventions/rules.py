"""Rules on a row's logits: what a decoration asks for in words, as tokens of one tokenizer.

1. A rule is a fold over the tokens that the row has generated: a state at the prompt's end, the state after one more
   token, and from a state the edits of the next step's logits. Rules are frozen and equal where they do the same,
   states never change in place, and neither touches a device.
2. Edits are nats to add by token, or the one token that comes next whatever the logits say, greedy or sampled.
3. A state of None ends a rule for good: nothing is evaluated for the row from there on.
4. Whether thinking is open agrees with `table.thinking_positions`, the prompt's own markers included.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from steerkit.interventions.decoration import CyclicReflex, Decoration, SwitchPenalty, ThinkingBudget
from steerkit.models import LanguageModel

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Edits:
    """What happens to the next step's logits: `nats` added by token, or `forced`, the token that is taken."""

    nats: Mapping[int, float] = field(default_factory=dict)
    forced: int | None = None


NO_EDITS = Edits()


class LogitRule(Protocol):
    """A rule as tokens; see the module's contract."""

    def start(self, prompt: Sequence[int]) -> Any:
        """The state before the first generated token."""
        ...

    def after(self, state: Any, token: int) -> Any:
        """The state once `token` was generated behind `state`; None where the rule is over."""
        ...

    def edits(self, state: Any) -> Edits:
        """What happens to the logits of the next token."""
        ...


class Opening(NamedTuple):
    """How far a completion is into its opener, and the openers that it may still become."""

    n: int
    possible: tuple[Tokens, ...]


@dataclass(frozen=True)
class OpenerBias:
    """`nats` on the tokens that continue an opener of which the completion is the beginning."""

    openers: tuple[Tokens, ...]
    nats: float

    def start(self, _prompt: Sequence[int]) -> Opening:
        """Every opener is possible."""
        return Opening(0, self.openers)

    def after(self, state: Opening, token: int) -> Opening | None:
        """The openers that go on with `token`, those that it completes left out; None once there are none."""
        n = state.n + 1
        possible = tuple(o for o in state.possible if o[n - 1] == token and len(o) > n)
        return Opening(n, possible) if possible else None

    def edits(self, state: Opening) -> Edits:
        """The bias on each next token, once however many openers go on with it."""
        return Edits(dict.fromkeys((opener[state.n] for opener in state.possible), self.nats))


class Thinking(NamedTuple):
    """Where a text stands: thinking is open or not, tokens generated in it, and the text's newest tokens."""

    is_open: bool
    spent: int
    tail: Tokens


@dataclass(frozen=True)
class Markers:
    """The tokens that open and close a thinking block; `after` follows a text through them."""

    opening: Tokens
    closing: Tokens

    @classmethod
    def of(cls, lm: LanguageModel) -> Markers:
        """The model's own."""
        opening, closing = (tuple(marker.tolist()) for marker in lm.thinking_markers)
        return cls(opening, closing)

    @property
    def width(self) -> int:
        """How many of a text's newest tokens tell where a marker ends."""
        return max(len(self.opening), len(self.closing))

    def start(self, prompt: Sequence[int], width: int = 0) -> Thinking:
        """Where a prompt leaves thinking; a tail of at least `width` tokens is kept from here on."""
        state = Thinking(False, 0, (-1,) * max(width, self.width))  # -1 is no token
        for token in prompt:
            state = self.after(state, token)
        return state._replace(spent=0)

    def after(self, state: Thinking, token: int) -> Thinking:
        """One token on. A token that completes the closing marker still came out of thinking."""
        tail = (*state.tail[1:], token)
        is_open = (state.is_open or ends_with(tail, self.opening)) and not ends_with(tail, self.closing)
        return Thinking(is_open, state.spent + state.is_open, tail)


class _FollowsThinking:
    """A rule whose state is how far thinking has come, and nothing besides."""

    markers: Markers

    def start(self, prompt: Sequence[int]) -> Thinking:
        """Where the prompt leaves thinking."""
        return self.markers.start(prompt)

    def after(self, state: Thinking, token: int) -> Thinking:
        """One token on."""
        return self.markers.after(state, token)


@dataclass(frozen=True)
class ForcedClosing(_FollowsThinking):
    """`ThinkingBudget` as tokens: what is missing of the closing marker is forced once `tokens` were thought."""

    tokens: int
    markers: Markers

    def edits(self, state: Thinking) -> Edits:
        """The marker's next token, where the budget is spent and thinking still open."""
        if not state.is_open or state.spent < self.tokens:
            return NO_EDITS
        closing = self.markers.closing
        written = max(n for n in range(len(closing)) if n == 0 or ends_with(state.tail, closing[:n]))
        return Edits(forced=closing[written])


class Thought(NamedTuple):
    """Where thinking stands, and how many tokens the current thought has."""

    thinking: Thinking
    tokens: int


@dataclass(frozen=True)
class ThoughtSwitches:
    """`SwitchPenalty` as tokens. `forms` are the words, each as the tokenizer may write it."""

    forms: tuple[Tokens, ...]
    alpha: float
    beta: int
    markers: Markers

    def start(self, prompt: Sequence[int]) -> Thought:
        """A thought begins with the completion, if the prompt has opened thinking."""
        return Thought(self.markers.start(prompt, max(map(len, self.forms))), 0)

    def after(self, state: Thought, token: int) -> Thought:
        """One token on; behind a complete word, and where thinking opens, a thought begins."""
        thinking = self.markers.after(state.thinking, token)
        begins = not state.thinking.is_open or self._switches(thinking.tail)
        return Thought(thinking, 0 if begins else state.tokens + 1)

    def edits(self, state: Thought) -> Edits:
        """The penalty on every word's first token, during a thought's first `beta` tokens."""
        return self._penalty if state.thinking.is_open and state.tokens < self.beta else NO_EDITS

    def _switches(self, tail: Tokens) -> bool:
        return tail[-1] in self._last and any(ends_with(tail, form) for form in self.forms)

    @functools.cached_property
    def _last(self) -> frozenset[int]:
        return frozenset(form[-1] for form in self.forms)

    @functools.cached_property
    def _penalty(self) -> Edits:
        return Edits(dict.fromkeys((form[0] for form in self.forms), -self.alpha))


@dataclass(frozen=True)
class ReflectionWave(_FollowsThinking):
    """`CyclicReflex` as tokens: `first` begin its words."""

    first: Tokens
    wave: CyclicReflex
    markers: Markers

    def edits(self, state: Thinking) -> Edits:
        """The wave at the number of tokens thought so far, on every word's first token."""
        nats = self.wave.bias(state.spent) if state.is_open else 0.0
        return Edits(dict.fromkeys(self.first, nats)) if nats else NO_EDITS


def rules_of(decoration: Decoration, lm: LanguageModel) -> tuple[LogitRule, ...]:
    """The decoration's rules on logits, as tokens of this model; none where it changes the prompt alone."""
    rules: list[LogitRule] = []
    if decoration.openers:
        # As they would begin a completion.
        texts = [lm.renderer.encode_pair("?", opener) for opener in decoration.openers]
        openers = tuple(text.ids[text.prompt_length :] for text in texts)
        rules.append(OpenerBias(openers, decoration.bias))
    match decoration.rule:
        case ThinkingBudget(tokens):
            rules.append(ForcedClosing(tokens, Markers.of(lm)))
        case SwitchPenalty(words, alpha, beta):
            rules.append(ThoughtSwitches(word_forms(words, lm), alpha, beta, Markers.of(lm)))
        case CyclicReflex(words) as wave:
            first = tuple(dict.fromkeys(form[0] for form in word_forms(words, lm)))
            rules.append(ReflectionWave(first, wave, Markers.of(lm)))
    return tuple(rules)


def word_forms(words: Iterable[str], lm: LanguageModel) -> tuple[Tokens, ...]:
    """The tokens of each word as it stands behind a space and behind anything else, in the case given.

    Where a word is several tokens its first stands for it; a form whose first token is nothing but space is left out.
    """
    texts = [text for word in words for text in (word, f" {word}")]
    forms = dict.fromkeys(tuple(lm.renderer.encode(text)) for text in texts)
    return tuple(form for form in forms if lm.tokenizer.decode([form[0]]).strip())


def ends_with(tail: Tokens, part: Tokens) -> bool:
    """Whether `tail` ends with `part`, which nothing does where that is empty."""
    return bool(part) and tail[-len(part) :] == part
