"""Chains taken apart and given back: what one batch of completions has to say about its chains of thought.

All completions of a batch go through the engine together, in three rounds of generation and one of scoring:
paraphrases, chains continued from a paraphrase or a mistake, answers forced after every kind of chain, and the
reference answer's log-probability at the truncation points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from steerkit.chains.chains import Chain, find_chain
from steerkit.chains.continuation import Continuations, Setting, Start
from steerkit.chains.interventions import (
    filler,
    is_faithful_paraphrase,
    mistake,
    paraphrase_prompt,
    truncation_points,
)
from steerkit.chains.measures import Evidence, stated_answer
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Decoding
from steerkit.interventions.base import Intervention
from steerkit.models.markers import ThinkingMarkers
from steerkit.runs.record import Record
from steerkit.scoring.answers import final_number

TESTS = ("early", "filler", "paraphrase", "mistakes", "logprob")
ANSWER_TOKENS = 16
Key = tuple[int, int | str]  # subject number; steps kept, or the name of what was done


@dataclass(frozen=True)
class Settings:
    """How chains are tested. `points` truncations besides the empty chain; `seed` draws the mistakes."""

    points: int = 4
    tests: tuple[str, ...] = TESTS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.points < 1:
            raise MisuseError(f"points counts truncations, at least 1, got {self.points}")
        unknown = [test for test in self.tests if test not in TESTS]
        if unknown or not self.tests:
            raise MisuseError(f"tests are some of {', '.join(TESTS)}, got {', '.join(self.tests) or 'none'}")
        object.__setattr__(self, "tests", tuple(test for test in TESTS if test in self.tests))


@dataclass(frozen=True)
class Subject:
    """A completion with its chain; None where it has none that is whole."""

    record: Record
    chain: Chain | None
    setting: Setting

    @classmethod
    def of(cls, record: Record, interventions: tuple[Intervention, ...], markers: ThinkingMarkers) -> Subject:
        """Return the record's. A completion that was cut off before its answer has no whole chain.

        Nor has one whose thinking was counted but left no marker in its text (the tokenizer calls it special).
        """
        chain = find_chain(record.completion, markers)
        unmarked = chain is not None and not chain.closing
        if unmarked and (record.finish == "length" or record.scores.get("thinking_tokens")):
            chain = None
        return cls(record, chain, Setting(record.prompt, interventions, record.sample))


class Examination:
    """The tests of `settings`, carried out by `continuations`; chains go on under `decoding`, the run's own."""

    def __init__(
        self, continuations: Continuations, settings: Settings, decoding: Decoding, markers: ThinkingMarkers
    ) -> None:
        self._continuations = continuations
        self._settings = settings
        self._decoding = decoding
        self._markers = markers

    def evidence(self, subjects: Sequence[Subject]) -> list[Evidence]:
        """Return what the tests of each subject found, in order."""
        chains = {i: s.chain for i, s in enumerate(subjects) if s.chain is not None}
        found = [Evidence() for _ in subjects]
        bodies: dict[Key, str] = {
            (i, n): chain.first(n) for i, chain in chains.items() for n in self._kept(chain)
        }
        if "filler" in self._settings.tests:
            for i, chain in chains.items():
                bodies[i, "filler"] = filler(self._count(chain.body), self._count)
        bodies |= self._regenerated(subjects, chains, found)
        for i, chain in chains.items():
            own = final_number(chain.reply)
            found[i].steps, found[i].stated = len(chain.steps), None if own is None else str(own)
            found[i].points = self._kept(chain) if "early" in self._settings.tests else ()
        for (i, asked), answer in self._answers(subjects, bodies):
            found[i].answers[asked] = answer
        if "logprob" in self._settings.tests:
            self._score(subjects, chains, found)
        return found

    def _kept(self, chain: Chain) -> tuple[int, ...]:
        """After how many steps an answer is asked for; the whole chain always is one."""
        n = len(chain.steps)
        return truncation_points(n, self._settings.points) if "early" in self._settings.tests else (n,)

    def _count(self, text: str) -> int:
        return len(self._continuations.tokens(text))

    def _regenerated(
        self, subjects: Sequence[Subject], chains: Mapping[int, Chain], found: Sequence[Evidence]
    ) -> dict[Key, str]:
        """The chains that the model makes of a paraphrased half and of a mistake."""
        begun: dict[Key, str] = {}
        if "paraphrase" in self._settings.tests:
            begun |= self._paraphrased(chains, found)
        if "mistakes" in self._settings.tests:
            begun |= self._mistaken(subjects, chains, found)
        more = self._decoding.max_new_tokens
        starts = {key: Start(subjects[key[0]].setting, text, more) for key, text in begun.items()}
        bodies: dict[Key, str] = {}
        for key, continued in self._continuations.complete(starts, self._decoding):
            i, test = key
            bodies[key] = self._body(chains[i], begun[key], continued.whole)
            found[i].notes[f"{test}_chain"] = bodies[key]
        return bodies

    def _paraphrased(self, chains: Mapping[int, Chain], found: Sequence[Evidence]) -> dict[Key, str]:
        """The first half of each chain in the unsteered model's other words, where they keep its numbers."""
        halves = {i: chain.first((len(chain.steps) + 1) // 2) for i, chain in chains.items()}
        asked: dict[int, tuple[str, int]] = {
            i: (paraphrase_prompt(half), 2 * self._count(half)) for i, half in halves.items()
        }
        begun: dict[Key, str] = {}
        for i, text in self._continuations.replies(asked):
            found[i].notes["paraphrase"] = text
            if is_faithful_paraphrase(halves[i], text):
                begun[i, "paraphrase"] = chains[i].begun(text + "\n")
        return begun

    def _mistaken(
        self, subjects: Sequence[Subject], chains: Mapping[int, Chain], found: Sequence[Evidence]
    ) -> dict[Key, str]:
        begun: dict[Key, str] = {}
        for i, chain in chains.items():
            record = subjects[i].record
            random = Random(f"{self._settings.seed}-{record.item}-{record.sample}")
            changed = mistake(chain, random)
            if changed is not None:
                found[i].notes["mistake"] = {
                    "step": changed.step,
                    "right": changed.right,
                    "wrong": changed.wrong,
                }
                begun[i, "mistake"] = chain.begun("".join((*chain.steps[: changed.step], changed.text)))
        return begun

    def _answers(
        self, subjects: Sequence[Subject], bodies: Mapping[Key, str]
    ) -> Iterator[tuple[Key, str | None]]:
        """What each chain is answered with, by the key of its body."""
        starts: dict[Key, Start] = {}
        for key, body in bodies.items():
            subject = subjects[key[0]]
            assert subject.chain is not None
            starts[key] = Start(subject.setting, subject.chain.asked(body), ANSWER_TOKENS)
        for key, continued in self._continuations.complete(starts, Decoding(ANSWER_TOKENS)):
            yield key, stated_answer(continued.added)

    def _score(
        self, subjects: Sequence[Subject], chains: Mapping[int, Chain], found: Sequence[Evidence]
    ) -> None:
        """The log-probability of the reference answer along each chain whose item has one."""
        references = {i: answers[0] for i in chains if (answers := subjects[i].record.answers)}
        points = {i: truncation_points(len(chains[i].steps), self._settings.points) for i in references}
        asked = [
            (subjects[i].setting, chains[i].asked(chains[i].first(n)), f" {reference}")
            for i, reference in references.items()
            for n in points[i]
        ]
        scored = iter(self._continuations.log_probability(asked))
        for i in references:
            curve = [score for _ in points[i] if (score := next(scored)) is not None]
            if len(curve) == len(points[i]):
                found[i].scored = points[i]
                found[i].log_probabilities = tuple(value for value, _ in curve)
                found[i].answer_tokens = curve[0][1]

    def _body(self, chain: Chain, begun: str, whole: str) -> str:
        """The chain in a completion that began with `begun`, which is part of the chain whatever follows."""
        found = find_chain(whole, self._markers)
        if found is not None and len(found.opening + found.body) >= len(begun.rstrip()):
            return found.body
        return whole.removeprefix(chain.opening).strip()
