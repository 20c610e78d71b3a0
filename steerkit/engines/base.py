"""What every engine takes and gives: requests in, completions out.

An engine knows nothing of sweeps, suites or scores. A request is plain frozen data, so it can be sorted, sent
to another process, or packed into a batch with requests for other steerings.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Prompt
from steerkit.interventions.decoration import Decoration
from steerkit.interventions.steering import Steering

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
    """One prompt to complete under an ordered composition of steerings.

    `decoration` changes the prompt or the logits besides. Probe gates of either read the undecorated prompt.
    `key` comes back untouched on the completion: completions may arrive in any order.
    `sample` numbers repeated draws of one prompt; it only changes a sampled row's seed.
    """

    prompt: Prompt
    steerings: tuple[Steering, ...] = ()
    decoding: Decoding = Decoding()
    system: str | None = None
    sample: int = 0
    key: Hashable = None
    decoration: Decoration | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What came out of one request.

    `token_ids` are the generated tokens without the end-of-sequence token; `finish` is `length` where
    the token limit cut the completion off. `thinking_tokens` counts the tokens that were
    generated while thinking was open, the end-of-thinking marker's among them. `gate_probabilities` are what
    the request's probe gates read, those of its steerings in order, then the decoration's. `forced` says that a
    thinking budget closed the thinking, so that `thinking_tokens` is what it was cut to.
    """

    request: Request
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    thinking_tokens: int = 0
    gate_probabilities: tuple[float, ...] = ()
    forced: bool = False

    @property
    def tokens(self) -> int:
        """Length of the completion in tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A given continuation of a prompt, to be scored under an ordered composition of steerings."""

    prompt: Prompt
    continuation: str
    steerings: tuple[Steering, ...] = ()
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


class Engine(Protocol):
    """Anything that completes and scores requests with steering applied row by row."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as they finish, in any order."""
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Score each continuation, in the order of the requests."""
        ...
