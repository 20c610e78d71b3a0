"""Completions that begin as given: the model goes on from the middle of a chain of thought.

The beginning is a `PromptEdit` with `begin`: its tokens are forced through the ordinary decoding loop, one by one. So
every position has the phase that it would have, had the model said it by itself:

- scope `completion` acts on the given chain from the prompt's last token on; `thinking` acts on it until its
  end-of-thinking marker, `answer` from there; `prompt` never acts on it; `all` acts on all of it.
- a steering that fades or keeps to step ends counts the given positions like its own.
- a row gate reads the question, as ever, and not the chain.
- sampled tokens behind the beginning draw the random numbers of their own positions.

Taken as part of the prompt the beginning would cost less, a pass in place of a step for each of its tokens, and none
of this would hold. Teacher-forced scoring has prompt and continuation apart and needs none of this.

All other interventions of the cell stay as they are; a beginning of its own is in the given text already.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from steerkit.core.prompts import Prompt, Renderer, common_prefix_length
from steerkit.engines.base import Decoding, Engine, Request, ScoreRequest
from steerkit.interventions.base import Intervention
from steerkit.interventions.logit_rules import LogitRule
from steerkit.interventions.prompt_edit import PromptEdit, edited_prompt

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a completion of the run was made under: its prompt, its cell's interventions, which sample it is."""

    prompt: Prompt
    interventions: tuple[Intervention, ...] = ()
    sample: int = 0


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
    """Goes on from given beginnings, and scores given endings, on one engine and under one system prompt."""

    def __init__(self, engine: Engine, renderer: Renderer, context_length: int, system: str | None) -> None:
        self._engine = engine
        self._renderer = renderer
        self._context_length = context_length
        self._system = system

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text as they begin a completion."""
        encoded = self._renderer.encode_pair("?", text)
        return encoded.ids[encoded.prompt_length :]

    def complete(self, starts: Mapping[K, Start], decoding: Decoding) -> Iterator[tuple[K, Continued]]:
        """Yield what the model makes of each beginning, as it comes; `decoding` but for its number of tokens.

        A beginning that leaves no room in the model's context, or holds the text of a marker that ends a completion,
        has no continuation and does not come.
        """
        given: dict[Hashable, tuple[int, ...]] = {}
        for completion in self._engine.generate(self._requests(starts, decoding, given)):
            key = cast(K, completion.request.key)
            beginning = given.pop(key)
            if completion.token_ids[: len(beginning)] == beginning:
                begun = starts[key].text.strip()
                if completion.text.startswith(begun):
                    added = completion.text[len(begun) :].strip()
                else:
                    added = self._renderer.decode(completion.token_ids[len(beginning) :])
                yield key, Continued(completion.text, added)

    def replies(self, asked: Mapping[K, tuple[str, int]]) -> Iterator[tuple[K, str]]:
        """Yield the unsteered model's greedy reply to each prompt, of at most so many tokens; none where none fits."""
        requests = (
            Request(prompt, (), Decoding(most), key=key)
            for key, (prompt, most) in asked.items()
            if len(self._renderer.encode_prompt(prompt)) + most <= self._context_length
        )
        for completion in self._engine.generate(requests):
            yield cast(K, completion.request.key), completion.answer

    def log_probability(self, asked: Iterable[tuple[Setting, str, str]]) -> list[tuple[float, int] | None]:
        """Return for each (setting, beginning, ending) the ending's log-probability in nats, and its tokens.

        None where the context has no room for both, or the ending has no token of its own. Rules on logits have no
        part in it: they change what is sampled.
        """
        requests: list[ScoreRequest] = []
        counts: list[int | None] = []
        for setting, start, ending in asked:
            whole = self.tokens(start + ending)
            tokens = len(whole) - common_prefix_length(self.tokens(start), whole)
            if tokens == 0 or self._room(setting) < len(whole):
                counts.append(None)
                continue
            counts.append(tokens)
            kept = without_beginnings(setting.interventions)
            acting = tuple(each for each in kept if not isinstance(each, LogitRule))
            requests.append(ScoreRequest(setting.prompt, start + ending, acting, self._system))
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
            yield Request(
                setting.prompt,
                (*without_beginnings(setting.interventions), PromptEdit(begin=start.text)),
                replace(decoding, max_new_tokens=new_tokens),
                self._system,
                setting.sample,
                key=key,
            )

    def _room(self, setting: Setting) -> int:
        """How many tokens a completion may have in the model's context, whether or not gates let edits act."""
        unedited = setting.prompt, self._system
        prompts = unedited, edited_prompt(*unedited, setting.interventions)
        longest = max(len(self._renderer.encode_prompt(prompt, system)) for prompt, system in prompts)
        return self._context_length - longest


def without_beginnings(interventions: Sequence[Intervention]) -> Iterator[Intervention]:
    """Yield the interventions, prompt edits without the beginnings that they force."""
    for each in interventions:
        if not isinstance(each, PromptEdit) or each.begin is None:
            yield each
        elif each.system is not None or each.instruction is not None:
            yield replace(each, begin=None)
