"""Rules on a row's logits: frozen settings as an intervention, and what they come to in one tokenizer's tokens.

    @logit_rule("no-digits")
    @dataclass(frozen=True, eq=False, repr=False)
    class NoDigits(LogitRule):
        \"\"\"Take `nats` off every token that is a digit.\"\"\"
        nats: float = 5.0
        def bind(self, lm): ...

1. A rule's fields are its settings: numbers, texts or tuples of texts, each with a default. They are its keys in a spec
   string (`no-digits@nats=2`), its JSON form and its digest.
2. `bind` gives the rule in a model's tokens: a fold over the tokens that the row has generated, as a state at the
   prompt's end (`start`), the state after one more token (`after`), and from a state the edits of the next step's
   logits (`edits`). Bound rules are frozen and equal where they do the same, states never change in place, and neither
   touches a device.
3. Edits are nats to add by token, or the one token that comes next whatever the logits say, greedy or sampled.
4. A state of None ends a rule for good: nothing is evaluated for the row from there on.
5. Whether thinking is open is asked of the model's tracker, as the row-bound table does (`models.thinking`).
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number
from steerkit.core.registry import LOGIT_RULES
from steerkit.interventions.base import (
    Intervention,
    Names,
    preset_forms,
    spec_of,
    written,
    written_text,
)
from steerkit.interventions.gate import Gate
from steerkit.interventions.prompt_edit import check_text, row_gate

if TYPE_CHECKING:
    from steerkit.models import LanguageModel
    from steerkit.models.thinking import Tracker

Tokens = tuple[int, ...]
SWITCHES = ("alternatively", "Alternatively", "wait", "Wait")
RESERVED = ("kind", "rule", "gate_layer", "along", "threshold")  # beside gate and trigger themselves
BESIDE = ("gate", "when")  # fields that are no settings: objects with a form of their own
REFLECTIONS = ("wait", "Wait", "but", "But", "Alternatively")


@dataclass(frozen=True)
class Edits:
    """What happens to the next step's logits: `nats` added by token, or `forced`, the token that is taken."""

    nats: Mapping[int, float] = field(default_factory=dict)
    forced: int | None = None


NO_EDITS = Edits()


class BoundRule(Protocol):
    """A rule in one model's tokens; see the module's contract."""

    def start(self, prompt: Sequence[int]) -> Any:
        """Return the state before the first generated token."""

    def after(self, state: Any, token: int) -> Any:
        """Return the state once `token` was generated behind `state`; None where the rule is over."""

    def edits(self, state: Any) -> Edits:
        """Return what happens to the logits of the next token."""


@dataclass(frozen=True, eq=False, repr=False)
class LogitRule(Intervention):
    """The base of all rules on logits; see the module's contract."""

    gate: Gate | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "rule"
    rule: ClassVar[str]

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name not in BESIDE:
                value = like_default(f"{self.rule}: {each.name}", getattr(self, each.name), each.default)
                object.__setattr__(self, each.name, value)
        object.__setattr__(self, "gate", row_gate(self.gate, "a rule on logits"))
        self.check()

    def check(self) -> None:
        """Raise MisuseError for settings that mean nothing."""

    @abstractmethod
    def bind(self, lm: LanguageModel) -> BoundRule:
        """Return the rule in the tokens of `lm`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings by name, gate and trigger left out."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in BESIDE}

    @property
    def label(self) -> str:
        """The rule's registered name."""
        return self.rule

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in self.settings.items()}
        gate = None if self.gate is None else self.gate.to_json()
        return {"kind": self.kind, "rule": self.rule, **settings, "gate": gate}

    def spec(self, names: Names) -> str:
        """Return the canonical spec string: the settings that are not the default ones."""
        gate = [] if self.gate is None else self.gate.fields(names)
        return spec_of(self.rule, [*self.options(names), *gate])

    def options(self, names: Names) -> list[tuple[str, str]]:
        """Return the keys and values of a spec string, gate left out: the settings that are not the default ones."""
        del names
        given = ((f, getattr(self, f.name)) for f in fields(self) if f.name not in BESIDE)
        return [(f.name, _setting(value)) for f, value in given if value != f.default]


def like_default(what: str, value: Any, default: Any) -> Any:
    """Return a setting's value in the type of its default, in which it also reads back from a spec string.

    Raises MisuseError for what has no such form: a text where several are meant, a fraction of a whole number.
    """
    if isinstance(default, tuple):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise MisuseError(f"{what} is several texts, such as ('wait',), got {value!r}")
        return tuple(like_default(what, each, "") for each in value)
    if isinstance(default, bool | str):
        if type(value) is not type(default):
            raise MisuseError(
                f"{what} is {'a text' if isinstance(default, str) else 'true or false'}, got {value!r}"
            )
        check_text(value if isinstance(value, str) else None, what)
        return value
    number = check_number(what, value)
    if isinstance(default, int) and not number.is_integer():
        raise MisuseError(f"{what} is a whole number, got {value!r}")
    return type(default)(number)


def _setting(value: Any) -> str:
    texts = value if isinstance(value, tuple) else (value,)
    return "+".join(written_text(text) if isinstance(text, str) else written(text) for text in texts)


R = TypeVar("R", bound=type[LogitRule])


def logit_rule(name: str) -> Callable[[R], R]:
    """Register a rule, a frozen dataclass that derives from `LogitRule`, under `name`.

    Raises MisuseError for a setting without a default, as a spec string may leave any of them out, and for one that
    is called as a key of gates is.
    """

    def register(rule: R) -> R:
        for each in fields(rule):
            if each.default is MISSING:
                raise MisuseError(f"the rule {name!r} needs a default for {each.name}")
            if each.name in RESERVED:
                raise MisuseError(f"the rule {name!r} cannot have a setting called {each.name}")
        rule.rule = name
        LOGIT_RULES.add(name, rule)
        return rule

    return register


class Opening(NamedTuple):
    """How far a completion is into its opener, and the openers that it may still become."""

    n: int
    possible: tuple[Tokens, ...]


@logit_rule("opener-bias")
@dataclass(frozen=True, eq=False, repr=False)
class OpenerBias(LogitRule):
    """Add `bias` nats to each token that continues one of `openers`, at the completion's beginning.

    It acts as long as the completion has said nothing but the beginning of one. `name` is for tables.
    """

    openers: tuple[str, ...] = ("I don't know",)
    bias: float = 4.0
    name: str = ""

    def check(self) -> None:
        """Raise MisuseError without openers or bias."""
        if not self.openers or not all(self.openers) or not self.bias:
            raise MisuseError("opener-bias needs openers, none of them empty, and a bias other than 0")

    @property
    def label(self) -> str:
        """Its name, or the rule's."""
        return self.name or self.rule

    def spec(self, names: Names) -> str:
        """Return the canonical spec string: a preset by its name, with another bias where it has one."""
        preset = preset_forms().get(self.name, {})
        if preset.get("openers") == list(self.openers):
            bias = [] if preset["bias"] == self.bias else [("bias", written(self.bias))]
            return spec_of(self.name, bias + ([] if self.gate is None else self.gate.fields(names)))
        return super().spec(names)

    def bind(self, lm: LanguageModel) -> BoundRule:
        """Return the rule in the tokens of `lm`, each opener as it would begin a completion."""
        texts = [lm.renderer.encode_pair("?", opener) for opener in self.openers]
        return Openers(tuple(text.ids[text.prompt_length :] for text in texts), self.bias)


@dataclass(frozen=True)
class Openers:
    """`nats` on the tokens that continue an opener of which the completion is the beginning."""

    openers: tuple[Tokens, ...]
    nats: float

    def start(self, _prompt: Sequence[int]) -> Opening:
        """Every opener is possible."""
        return Opening(0, self.openers)

    def after(self, state: Opening, token: int) -> Opening | None:
        """Return the openers that go on with `token`, those that it completes left out; None once there are none."""
        n = state.n + 1
        possible = tuple(o for o in state.possible if o[n - 1] == token and len(o) > n)
        return Opening(n, possible) if possible else None

    def edits(self, state: Opening) -> Edits:
        """Return the bias on each next token, once however many openers go on with it."""
        return Edits(dict.fromkeys((opener[state.n] for opener in state.possible), self.nats))


@dataclass(frozen=True)
class ForcedBeginning:
    """The first tokens of a completion, whatever the logits say: what `PromptEdit.begin` comes to."""

    tokens: Tokens

    def start(self, _prompt: Sequence[int]) -> int | None:
        """Nothing is written yet."""
        return 0 if self.tokens else None

    def after(self, state: int, _token: int) -> int | None:
        """One token more is written."""
        return state + 1 if state + 1 < len(self.tokens) else None

    def edits(self, state: int) -> Edits:
        """Return the next token of the beginning."""
        return Edits(forced=self.tokens[state])


class Thinking(NamedTuple):
    """Where a text stands: where its thinking does, tokens generated in it, and the text's newest tokens."""

    state: int
    is_open: bool
    spent: int
    tail: Tokens


@dataclass(frozen=True)
class FollowedThinking:
    """Thinking followed through a text by the model's tracker, with the newest `width` tokens at hand."""

    tracker: Tracker
    width: int = 0

    def start(self, prompt: Sequence[int]) -> Thinking:
        """Return where a prompt leaves thinking."""
        state = self.tracker.start(prompt)
        tail = (*(-1,) * self.width, *prompt)[-self.width :] if self.width else ()  # -1 is no token
        return Thinking(state, self.tracker.is_open(state), 0, tail)

    def after(self, at: Thinking, token: int) -> Thinking:
        """Go one token on. A token that completes the closing marker still came out of thinking."""
        state = self.tracker.after(at.state, token)
        tail = (*at.tail[1:], token) if self.width else ()
        return Thinking(state, self.tracker.is_open(state), at.spent + at.is_open, tail)


class _FollowsThinking:
    """A bound rule whose state is how far thinking has come, and nothing besides."""

    followed: FollowedThinking

    def start(self, prompt: Sequence[int]) -> Thinking:
        """Return where the prompt leaves thinking."""
        return self.followed.start(prompt)

    def after(self, state: Thinking, token: int) -> Thinking:
        """Go one token on."""
        return self.followed.after(state, token)


@logit_rule("thinking-budget")
@dataclass(frozen=True, eq=False, repr=False)
class ThinkingBudget(LogitRule):
    """Force the end-of-thinking marker after `tokens` thinking tokens, and nothing else; the answer follows.

    Counted over the whole completion: a block that is opened again once the budget is spent is closed at once.
    0 closes a block that the prompt opened before anything is thought. A model may go on reasoning all the same, and
    close its thinking by itself: the completion's thinking then ends there, where its reply begins.
    """

    tokens: int = 256

    def check(self) -> None:
        """Raise MisuseError for a negative budget."""
        if self.tokens < 0:
            raise MisuseError(f"a thinking budget is at least 0 tokens, got {self.tokens}")

    def bind(self, lm: LanguageModel) -> BoundRule:
        """Return the rule in the tokens of `lm`."""
        followed = FollowedThinking(lm.thinking, len(lm.thinking.channel_closing))
        return ForcedClosing(self.tokens, followed)


@dataclass(frozen=True)
class ForcedClosing(_FollowsThinking):
    """What is missing of the closing marker is forced once `tokens` were thought."""

    tokens: int
    followed: FollowedThinking

    def edits(self, state: Thinking) -> Edits:
        """Return the marker's next token, where the budget is spent and thinking still open."""
        if not state.is_open or state.spent < self.tokens:
            return NO_EDITS
        return Edits(forced=self.followed.tracker.closing_from(state.state, state.tail))


class Thought(NamedTuple):
    """Where thinking stands, and how many tokens the current thought has."""

    thinking: Thinking
    tokens: int


@logit_rule("tip")
@dataclass(frozen=True, eq=False, repr=False)
class SwitchPenalty(LogitRule):
    """Penalise switching thoughts (TIP, arXiv 2501.18585): z̃_v = z_v - α for v in V while t < Ψ + β.

    V are the tokens that begin one of `words`, t the token to come, and Ψ the first token of the current thought:
    a thought begins where thinking begins and behind each of `words`. `alpha` is in nats, `beta` in tokens; the
    paper's values are the defaults. Only thinking is penalised.
    """

    words: tuple[str, ...] = SWITCHES
    alpha: float = 3.0
    beta: int = 600

    def check(self) -> None:
        """Raise MisuseError for settings that mean nothing."""
        _check_words(self.words)
        if not 0 < self.alpha < math.inf:
            raise MisuseError(f"TIP's alpha is a positive number of nats, got {self.alpha}")
        if self.beta < 1:
            raise MisuseError(f"TIP's beta is at least 1 token, got {self.beta}")

    def bind(self, lm: LanguageModel) -> BoundRule:
        """Return the rule in the tokens of `lm`."""
        forms = word_forms(self.words, lm)
        followed = FollowedThinking(lm.thinking, max(map(len, forms), default=1))
        return ThoughtSwitches(forms, self.alpha, self.beta, followed)


@dataclass(frozen=True)
class ThoughtSwitches:
    """`SwitchPenalty` as tokens. `forms` are the words, each as the tokenizer may write it."""

    forms: tuple[Tokens, ...]
    alpha: float
    beta: int
    followed: FollowedThinking

    def start(self, prompt: Sequence[int]) -> Thought:
        """A thought begins with the completion, if the prompt has opened thinking."""
        return Thought(self.followed.start(prompt), 0)

    def after(self, state: Thought, token: int) -> Thought:
        """Go one token on; behind a complete word, and where thinking opens, a thought begins."""
        thinking = self.followed.after(state.thinking, token)
        begins = not state.thinking.is_open or self._switches(thinking.tail)
        return Thought(thinking, 0 if begins else state.tokens + 1)

    def edits(self, state: Thought) -> Edits:
        """Return the penalty on every word's first token, during a thought's first `beta` tokens."""
        return self._penalty if state.thinking.is_open and state.tokens < self.beta else NO_EDITS

    def _switches(self, tail: Tokens) -> bool:
        return tail[-1] in self._last and any(ends_with(tail, form) for form in self.forms)

    @functools.cached_property
    def _last(self) -> frozenset[int]:
        return frozenset(form[-1] for form in self.forms)

    @functools.cached_property
    def _penalty(self) -> Edits:
        return Edits(dict.fromkeys((form[0] for form in self.forms), -self.alpha))


@logit_rule("cyclic-reflex")
@dataclass(frozen=True, eq=False, repr=False)
class CyclicReflex(LogitRule):
    """Bias reflection words by a wave that rises and falls as thinking goes on (CyclicReflex, arXiv 2506.11077).

    z̃_v = z_v + δ(t) for v in V, with the triangular wave δ(t) = A·|4·((t - C/4) mod C)/C - 2| - A: 0 at t = 0, its
    crest A at a quarter of the `period` C, its trough -A at three quarters. V are the tokens that begin one of
    `words`, t counts thinking tokens. `amplitude` A is in nats; the paper's values are the defaults. Only thinking
    is biased.
    """

    words: tuple[str, ...] = REFLECTIONS
    amplitude: float = 3.0
    period: int = 600

    def check(self) -> None:
        """Raise MisuseError for settings that mean nothing."""
        _check_words(self.words)
        if not 0 < self.amplitude < math.inf:
            raise MisuseError(f"CyclicReflex's amplitude is a positive number of nats, got {self.amplitude}")
        if self.period < 2:
            raise MisuseError(f"CyclicReflex's period is at least 2 tokens, got {self.period}")

    def wave(self, t: int) -> float:
        """Return δ(t) in nats."""
        phase = (t - self.period / 4) % self.period
        return self.amplitude * abs(4 * phase / self.period - 2) - self.amplitude

    def bind(self, lm: LanguageModel) -> BoundRule:
        """Return the rule in the tokens of `lm`."""
        first = tuple(dict.fromkeys(form[0] for form in word_forms(self.words, lm)))
        return ReflectionWave(first, self, FollowedThinking(lm.thinking))


@dataclass(frozen=True)
class ReflectionWave(_FollowsThinking):
    """`CyclicReflex` as tokens: `first` begin its words."""

    first: Tokens
    reflex: CyclicReflex
    followed: FollowedThinking

    def edits(self, state: Thinking) -> Edits:
        """Return the wave at the number of tokens thought so far, on every word's first token."""
        nats = self.reflex.wave(state.spent) if state.is_open else 0.0
        return Edits(dict.fromkeys(self.first, nats)) if nats else NO_EDITS


def word_forms(words: Iterable[str], lm: LanguageModel) -> tuple[Tokens, ...]:
    """Return the tokens of each word as it stands behind a space and behind anything else, in the case given.

    Where a word is several tokens its first stands for it; a form whose first token is nothing but space is left out.
    """
    texts = [text for word in words for text in (word, f" {word}")]
    forms = dict.fromkeys(tuple(lm.renderer.encode(text)) for text in texts)
    return tuple(form for form in forms if lm.tokenizer.decode([form[0]]).strip())


def ends_with(tail: Tokens, part: Tokens) -> bool:
    """Return whether `tail` ends with `part`, which nothing does where that is empty."""
    return bool(part) and tail[-len(part) :] == part


def _check_words(words: tuple[str, ...]) -> None:
    if not words or any(not word.strip() for word in words):
        raise MisuseError("a rule on words needs at least one, and none that is empty")
