"""What every engine takes and gives: requests in, completions out.

An engine knows nothing of sweeps, suites or scores. A request is plain frozen data, so it can be sorted, sent
to another process, or packed into a batch with requests for other interventions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Prompt, Renderer
from steerkit.interventions.base import Intervention
from steerkit.interventions.steering import Steering
from steerkit.models.markers import DEFAULT, ThinkingMarkers

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen. Temperature 0 is greedy; otherwise nucleus sampling, seeded per row."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise MisuseError(f"max_new_tokens is at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise MisuseError(f"temperature is 0 (greedy) or a positive number, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise MisuseError(f"top_p is above 0 and at most 1, got {self.top_p}")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete under an ordered composition of interventions.

    Row gates of any of them read the prompt without edits. `key` comes back untouched on the completion: completions
    may arrive in any order. `sample` numbers repeated draws of one prompt; it only changes a sampled row's seed.
    """

    prompt: Prompt
    interventions: tuple[Intervention, ...] = ()
    decoding: Decoding = Decoding()
    system: str | None = None
    sample: int = 0
    key: Hashable = None


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
class Completion:
    """What came out of one request.

    `token_ids` are the generated tokens without the end-of-sequence token; `finish` is `length` where
    the token limit cut the completion off. `thinking_tokens` counts the tokens that were
    generated while thinking was open, the end-of-thinking marker's among them. `gates` has a reading for each gate
    of the request, in the order of its interventions. `forced` says that a thinking budget closed the thinking, so that
    `thinking_tokens` is what it was cut to. `markers` are the texts between which the model thinks.
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

    @property
    def tokens(self) -> int:
        """Length of the completion in tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A given continuation of a prompt, to be scored under an ordered composition of interventions.

    Steerings and prompt edits act; a rule on logits changes what is sampled, not what the model says of a text, and is
    refused, as is a forced beginning.
    """

    prompt: Prompt
    continuation: str
    interventions: tuple[Intervention, ...] = ()
    system: str | None = None
    key: Hashable = None


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Log-probability of each continuation token in nats, teacher-forced."""

    request: ScoreRequest
    log_probabilities: tuple[float, ...]

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


def refuse(engine: Engine, interventions: Iterable[Intervention]) -> None:
    """Raise MisuseError for the first intervention that the engine does not support, with its reason."""
    for each in interventions:
        if (reason := engine.supports(each)) is not None:
            raise MisuseError(f"the {engine.name} engine cannot carry out {str(each)!r}: {reason}")
