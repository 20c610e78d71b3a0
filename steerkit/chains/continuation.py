"""Completions that begin as given: the model goes on from the middle of a chain of thought.

The beginning is forced through the ordinary decoding loop, token by token: a request's decoration may favour the
tokens that continue an opener, and here the whole beginning is the opener and the favour is larger than any
difference of logits. So every position has the phase that it would have, had the model said it by itself:

- scope `completion` acts on the given chain from the prompt's last token on; `thinking` acts on it until its
  end-of-thinking marker, `answer` from there; `prompt` never acts on it; `all` acts on all of it.
- a steering that fades or keeps to step ends counts the given positions like its own.
- a probe gate reads the question, as ever, and not the chain.
- sampled tokens behind the beginning draw the random numbers of their own positions.

Taken as part of the prompt the beginning would cost less, a pass in place of a step for each of its tokens, and none
of this would hold. Teacher-forced scoring has prompt and continuation apart and needs none of this.

A cell's own decoration stays: its system prompt and instruction as they are, its openers no longer, as they act only
where a completion begins with one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from steerkit.core.prompts import Prompt, Renderer, common_prefix_length
from steerkit.engines.base import Decoding, Engine, Request, ScoreRequest
from steerkit.interventions.decoration import Decoration
from steerkit.runs.directory import Record
from steerkit.runs.protocol import Protocol
from steerkit.sweeps.grid import Cell

K = TypeVar("K", bound=Hashable)
FORCE = 1e4  # nats; no two logits are that far apart, and float16 holds it


@dataclass(frozen=True, eq=False)
class Setting:
    """What a completion of the run was made under: its prompt, its cell, its number among the samples."""

    prompt: Prompt
    cell: Cell
    sample: int
    decoration: Decoration | None

    @classmethod
    def of(cls, record: Record, cell: Cell) -> Setting:
        """The record's; a gated decoration is in it if its gate fired then."""
        decoration = cell.decoration
        if decoration is not None and decoration.gate is not None:
            fired = record["scores"]["gate_probability"] >= decoration.gate.threshold
            decoration = decoration.open if fired else None
        return cls(record["prompt"], cell, record["sample"], decoration)


@dataclass(frozen=True, slots=True)
class Start:
    """The given beginning of a completion, and how many tokens the model may add to it."""

    setting: Setting
    text: str
    more: int


@dataclass(frozen=True, slots=True)
class Continued:
    """A completion that began as given: all of its text, and what the model added."""

    whole: str
    added: str


class Continuations:
    """Goes on from given beginnings, and scores given endings, on one engine and under one protocol."""

    def __init__(self, engine: Engine, renderer: Renderer, protocol: Protocol, context_length: int) -> None:
        self._engine = engine
        self._renderer = renderer
        self._protocol = protocol
        self._context_length = context_length

    def tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of a text as they begin a completion."""
        encoded = self._renderer.encode_pair("?", text)
        return encoded.ids[encoded.prompt_length :]

    def complete(self, starts: Mapping[K, Start], decoding: Decoding) -> Iterator[tuple[K, Continued]]:
        """What the model makes of each beginning, as it comes; `decoding` but for its number of tokens.

        A beginning that leaves no room in the model's context, or holds the text of a marker that ends a completion,
        has no continuation and does not come.
        """
        given: dict[Hashable, tuple[int, ...]] = {}
        for completion in self._engine.generate(self._requests(starts, decoding, given)):
            key = cast(K, completion.request.key)
            beginning = given.pop(key)
            if completion.token_ids[: len(beginning)] == beginning:
                added = self._renderer.decode(completion.token_ids[len(beginning) :])
                yield key, Continued(completion.text, added)

    def replies(self, asked: Mapping[K, tuple[str, int]]) -> Iterator[tuple[K, str]]:
        """The unsteered model's own greedy reply to each prompt, of at most so many tokens; none where none fits."""
        requests = (
            Request(prompt, (), Decoding(most), key=key)
            for key, (prompt, most) in asked.items()
            if len(self._renderer.encode_prompt(prompt)) + most <= self._context_length
        )
        for completion in self._engine.generate(requests):
            yield cast(K, completion.request.key), completion.text

    def log_probability(self, asked: Iterable[tuple[Setting, str, str]]) -> list[tuple[float, int] | None]:
        """For each (setting, beginning, ending): the ending's log-probability in nats, and its tokens.

        None where the context has no room for both.
        """
        requests: list[ScoreRequest] = []
        counts: list[int | None] = []
        for setting, start, ending in asked:
            prompt, system = self._decorated(setting)
            whole = self.tokens(start + ending)
            if self._room(setting) < len(whole):
                counts.append(None)
                continue
            counts.append(len(whole) - common_prefix_length(self.tokens(start), whole))
            requests.append(ScoreRequest(prompt, start + ending, setting.cell.steerings, system))
        scores = iter(self._engine.score(requests))
        return [None if n is None else (sum(next(scores).log_probabilities[-n:]), n) for n in counts]

    def _requests(
        self, starts: Mapping[K, Start], decoding: Decoding, beginnings: dict[Hashable, tuple[int, ...]]
    ) -> Iterator[Request]:
        for key, start in starts.items():
            setting, given = start.setting, self.tokens(start.text)
            new_tokens = min(len(given) + start.more, self._room(setting))
            if new_tokens <= len(given):
                continue
            beginnings[key] = given
            forced = Decoration("begun", openers=(start.text,), bias=FORCE)
            if setting.decoration is not None:
                forced = replace(setting.decoration, openers=forced.openers, bias=FORCE)
            yield Request(
                setting.prompt,
                setting.cell.steerings,
                replace(decoding, max_new_tokens=new_tokens),
                self._protocol.system,
                setting.sample,
                key=key,
                decoration=forced,
            )

    def _decorated(self, setting: Setting) -> tuple[Prompt, str | None]:
        """Prompt and system prompt as the model sees them."""
        decoration, system = setting.decoration, self._protocol.system
        if decoration is None:
            return setting.prompt, system
        return decoration.prompt(setting.prompt), decoration.system_prompt(system)

    def _room(self, setting: Setting) -> int:
        """How many tokens a completion may have in the model's context."""
        # Gates read the second of the two, and the engine wants room for both.
        prompts = self._decorated(setting), (setting.prompt, self._protocol.system)
        longest = max(len(self._renderer.encode_prompt(prompt, system)) for prompt, system in prompts)
        return self._context_length - longest
