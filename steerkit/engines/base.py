"""What every engine takes and gives: requests in, completions out.

An engine knows nothing of sweeps, suites or scores. A request is plain frozen data, so it can be sorted, sent
to another process, or packed into a batch with requests for other interventions.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from steerkit.core.characters import excerpt
from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number, check_whole, plain
from steerkit.core.prompts import EncodedText, Prompt, Renderer
from steerkit.core.registry import VIEWS
from steerkit.engines.generation_config import own_decoding
from steerkit.interventions.base import Intervention, as_interventions
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import Reader, Reading, as_readers
from steerkit.interventions.steering import Steering
from steerkit.models.markers import DEFAULT, ThinkingMarkers
from steerkit.models.thinking import Kind, Span

Finish = Literal["stop", "length"]
COLDEST = 1e-6  # colder, logits would leave the range of float32


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen and where a completion ends; what each setting does is what transformers does with it.

    Temperature 0 is greedy; otherwise tokens are sampled, seeded per row: `temperature`, then the `top_k` most likely
    tokens (0: all), then the fewest whose probability reaches `top_p`, then those at least `min_p` times as likely as
    the likeliest. `repetition_penalty` acts before all of these, greedy or not, on the tokens of the row's own prompt
    and completion (1: none).

    A completion also ends at a token of `stop_token_ids`, beside the model's own, and at the first of the texts `stop`
    that its text holds, special tokens read as text. Neither is part of it. Raises MisuseError for a bad value.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        for name in ("stop", "stop_token_ids"):  # one of anything is accepted where several are
            given = plain(getattr(self, name))
            several = isinstance(given, Iterable) and not isinstance(given, str)
            object.__setattr__(self, name, tuple(map(plain, given)) if several else (given,))
        for name, least in (("max_new_tokens", 1), ("seed", None), ("top_k", None)):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), least))
        if self.temperature != 0 and self.temperature < COLDEST:
            raise MisuseError(f"temperature is 0 (greedy) or at least {COLDEST}, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise MisuseError(f"top_p is above 0 and at most 1, got {self.top_p}")
        if not _is_count(self.top_k):
            raise MisuseError(f"top_k is a number of tokens, or 0 for all, got {self.top_k!r}")
        if not 0 <= self.min_p <= 1:
            raise MisuseError(f"min_p is between 0 and 1, got {self.min_p}")
        if self.repetition_penalty <= 0:
            raise MisuseError(f"repetition_penalty is above 0, got {self.repetition_penalty}")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise MisuseError(f"stop is one text or several, none of them empty, got {self.stop!r}")
        object.__setattr__(
            self, "stop", tuple(map(str, self.stop))
        )  # NumPy's texts are of a type of their own
        if not all(map(_is_count, self.stop_token_ids)):
            raise MisuseError(f"stop_token_ids are token ids, got {self.stop_token_ids!r}")

    @classmethod
    def of_model(cls, model: RunModel, **fields: Any) -> Self:
        """Return the decoding of the model's own generation config, but for `fields`.

        It is what transformers' `generate` does when it is told nothing; the length is not the config's. Raises
        MisuseError for a setting in the config that changes which tokens come and that is none of ours.
        """
        return cls(**{**own_decoding(model.generation_config, fields.get("temperature")), **fields})

    def __str__(self) -> str:
        said = ["greedy"] if self.temperature == 0 else [f"temperature {self.temperature:g}"]
        if self.temperature > 0:
            said += [f"top-k {self.top_k}"] * (self.top_k > 0) + [f"top-p {self.top_p:g}"]
            said += [f"min-p {self.min_p:g}"] * (self.min_p > 0) + [f"seed {self.seed}"]
        if self.repetition_penalty != 1:
            said.append(f"repetition penalty {self.repetition_penalty:g}")
        if ends := (*map(repr, self.stop), *map(str, self.stop_token_ids)):
            said.append(f"stopping at {', '.join(ends)}")
        return ", ".join([*said, f"at most {self.max_new_tokens} tokens"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete under an ordered composition of interventions; one alone is a composition too.

    Row gates of any of them read the prompt without edits. `key` comes back untouched on the completion: completions
    may arrive in any order. `sample` numbers repeated draws of one prompt; it only changes a sampled row's seed.
    `readers` read each token of the completion and, unless `reads_prompt` is false, of the prompt, as it is edited: its
    states cost next to nothing to read, but for readers of logits the LM head runs over it. They change nothing.

    With `prompt_ids` the prompt is these tokens as they are: nothing is rendered, `prompt` is what they are called, and
    MisuseError is raised for a system prompt or an edit of the prompt beside them.
    """

    prompt: Prompt
    interventions: tuple[Intervention, ...] = ()
    decoding: Decoding = Decoding()
    system: str | None = None
    sample: int = 0
    key: Hashable = None
    readers: tuple[Reader, ...] = ()
    reads_prompt: bool = True
    prompt_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "interventions", as_interventions(self.interventions))
        object.__setattr__(self, "readers", as_readers(self.readers))
        if self.prompt_ids:
            _check_unedited(self.interventions, self.system)


@dataclass(frozen=True, slots=True)
class GateReading:
    """What the gate of one intervention read, and its verdict.

    `intervention` is the place of the gate's intervention in the request. A row gate read `probability` and `fired` or
    not; a position gate has no one probability, and `fired` is the share of the positions in its scope at which it did.
    """

    intervention: int
    gate: str
    probability: float | None
    fired: bool | float


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy decided while a row was written: behind how many of its tokens, and at what mean reading."""

    policy: str
    tokens: int
    reading: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What came out of one request.

    `token_ids` are the generated tokens without the end-of-sequence token; `finish` is `length` where the token limit
    cut the completion off. A stop text is not part of `text`: `token_ids` are then the fewest first tokens that hold
    all of `text`, and the last of them may hold the beginning of the stop text as well. Special tokens are no part of
    `text`, but for those that are markers. `spans` say where its thinking, its answer, its tool calls and their markers
    stand, and tile `text` and tokens; all else that tells thinking from an answer is read from them (see
    `steerkit.models.thinking`). `thinking_tokens` counts the tokens that came out of thinking, the closing marker's
    among them. `gates` has a reading for each gate of the request, in the order of its interventions. `forced` says
    that a thinking budget wrote a closing marker. `markers` are the texts between which the model thinks. `readings`
    are what the request's readers read, in their order, None where a token was not read: of states the last one of a
    completion that its length or a stop text ended, which the model never ran. `decisions` are those of its policies
    that acted. `pieces`, where it was read by `sk.generate`, are the texts of its tokens.
    """

    request: Request
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    thinking_tokens: int = 0
    gates: tuple[GateReading, ...] = ()
    forced: bool = False
    markers: ThinkingMarkers = DEFAULT
    spans: tuple[Span, ...] = ()
    readings: tuple[Reading, ...] = ()
    decisions: tuple[Decision, ...] = ()
    pieces: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Length of the completion in tokens."""
        return len(self.token_ids)

    @property
    def answer(self) -> str:
        """Its text without thinking, calls of tools and markers; all of it where there are no spans."""
        return self.text_of("answer") if self.spans else self.text

    def text_of(self, kind: Kind) -> str:
        """Return all of its text that is of one kind, stripped."""
        return "".join(self.text[span.start : span.stop] for span in self.spans if span.kind == kind).strip()

    def _repr_html_(self) -> str:
        return str(VIEWS["completion"](self))

    def __repr__(self) -> str:
        return f"Completion({excerpt(self.text)!r}, {self.tokens} tokens, {self.finish})"


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A given continuation of a prompt, to be scored under an ordered composition of interventions.

    Steerings and prompt edits act; a rule on logits changes what is sampled, not what the model says of a text, and is
    refused, as is a forced beginning. `readers` read each token of both; with any, the continuation may be empty.
    With `encoded` the two are these tokens as they are, as with a `Request`'s `prompt_ids`.
    """

    prompt: Prompt
    continuation: str
    interventions: tuple[Intervention, ...] = ()
    system: str | None = None
    key: Hashable = None
    readers: tuple[Reader, ...] = ()
    encoded: EncodedText | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "interventions", as_interventions(self.interventions))
        object.__setattr__(self, "readers", as_readers(self.readers))
        if self.encoded is not None:
            _check_unedited(self.interventions, self.system)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's tokens where they are given; empty where it is to be rendered."""
        return () if self.encoded is None else self.encoded.ids[: self.encoded.prompt_length]


def _check_unedited(interventions: Iterable[Intervention], system: str | None) -> None:
    """Raise MisuseError for what changes a prompt, as tokens that are given cannot be changed."""
    edits = any(isinstance(each, PromptEdit) and (each.system or each.instruction) for each in interventions)
    if system is not None or edits:
        raise MisuseError(
            "a prompt given as tokens or as raw text is not rendered, so no system prompt and no edit of the prompt "
            "can act on it: give chat messages"
        )


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Log-probability of each continuation token in nats, teacher-forced, and what the request's readers read.

    `token_ids` are those of the prompt and the continuation, in that order.
    """

    request: ScoreRequest
    log_probabilities: tuple[float, ...]
    token_ids: tuple[int, ...] = ()
    readings: tuple[Reading, ...] = ()

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation, in nats."""
        return sum(self.log_probabilities)


class RunModel(Protocol):
    """What a run's protocol says of the model: its name, its fingerprint, and how prompts are rendered for it."""

    @property
    def name(self) -> str:
        """Its name, as a user would give it."""

    @property
    def fingerprint(self) -> str:
        """Architecture, sizes and a digest of the weights; see `steerkit.models.fingerprint`."""

    @property
    def renderer(self) -> Renderer:
        """Chat template and tokenizer; its digest is part of the protocol."""

    @property
    def markers(self) -> ThinkingMarkers:
        """The texts between which it thinks; part of the protocol."""

    @property
    def context_length(self) -> int:
        """The most tokens of a prompt and its completion."""

    @property
    def generation_config(self) -> Any:
        """How its makers mean it to be sampled: a GenerationConfig of transformers."""


class Engine(Protocol):
    """Anything that completes and scores requests, each row under its own interventions."""

    @property
    def name(self) -> str:
        """The engine's registered name, for the record."""

    @property
    def model(self) -> RunModel:
        """What it runs."""

    @property
    def dtype(self) -> str:
        """Number format of the model, such as `float32`."""

    @property
    def batch_size(self) -> int:
        """How many requests are under way at once, for the record."""

    def supports(self, intervention: Intervention) -> str | None:
        """Return why the engine cannot carry out an intervention; None where it can."""

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request, naming what cannot be done, before anything runs."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as they finish, in any order."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Score each continuation, in the order of the requests."""


def steerings_of(interventions: Iterable[Intervention]) -> tuple[Steering, ...]:
    """Return the steerings among interventions, in order."""
    return tuple(each for each in interventions if isinstance(each, Steering))


class UnmetScopes:
    """Notes, of completions as they come, whether a steering of thinking alone met any thinking in them."""

    def __init__(self, markers: ThinkingMarkers) -> None:
        self._markers = markers
        self._met: dict[str, bool] = {}
        self._completions = 0

    def take(self, completion: Completion) -> None:
        """Note one more completion."""
        of_thinking = [
            s for s in steerings_of(completion.request.interventions) if s.scope == "thinking" and s.acts
        ]
        thought = any("thinking" in (s.kind, s.of) and s.tokens and not s.late for s in completion.spans)
        for steering in of_thinking:
            said = str(steering)
            self._met[said] = self._met.get(said, False) or thought
        self._completions += bool(of_thinking)

    def warn(self) -> None:
        """Say in one line what was steered nowhere, where anything was meant to be."""
        unmet = [said for said, met in self._met.items() if not met]
        if unmet:
            more = f" and {len(unmet) - 1} more" * (len(unmet) > 1)
            warnings.warn(
                f"nothing was steered: scope=thinking of {unmet[0]}{more} met no thinking in {self._completions} "
                f"completions; it is looked for between {self._markers.opening} and {self._markers.closing}",
                stacklevel=3,
            )


def refuse(engine: Engine, interventions: Iterable[Intervention]) -> None:
    """Raise MisuseError for the first intervention that the engine does not support, with its reason."""
    for each in interventions:
        if (reason := engine.supports(each)) is not None:
            raise MisuseError(f"the {engine.name} engine cannot carry out {str(each)!r}: {reason}")
