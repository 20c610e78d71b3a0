"""Read texts: what readers say of every token of prompts and completions that are given, in one pass a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Completion, RunModel, ScoreRequest
from steerkit.engines.generate import is_conversation
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.base import Intervention
from steerkit.interventions.prompt_edit import edited_prompt
from steerkit.interventions.readers import Reader, Reading
from steerkit.interventions.spec import Vectors, readers_of
from steerkit.models import LanguageModel
from steerkit.reading import html

Given = Prompt | tuple[Prompt, str]


@dataclass(frozen=True)
class ReadText:
    """A text that was read: its tokens as texts, how many of them are the prompt's, and the readings, in order.

    The tokens join to the text as the model has it, chat template and special tokens included.
    """

    tokens: tuple[str, ...]
    prompt_tokens: int
    readings: tuple[Reading, ...]

    @classmethod
    def of(cls, completion: Completion, model: RunModel) -> Self:
        """Return what a completion's readers read of its prompt, as it was edited, and of itself.

        `model` is what completed it, a loaded model or an engine's. Raises MisuseError where nothing read it.
        """
        if not completion.readings:
            raise MisuseError("nothing read this completion: give readers where it is generated (read)")
        request, prompt_tokens = completion.request, len(completion.readings[0].prompt)
        shut = {gate.intervention for gate in completion.gates if gate.fired is False}
        acting = [each for place, each in enumerate(request.interventions) if place not in shut]
        prompt = request.prompt_ids or model.renderer.encode_prompt(
            *edited_prompt(request.prompt, request.system, acting)
        )
        ids = (*prompt, *completion.token_ids)
        return cls(model.renderer.pieces(ids), prompt_tokens, completion.readings)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)

    def values(self, reader: int = 0) -> tuple[float | None, ...]:
        """What one reader read, by its place: a number a token; None where there is none."""
        reading = self.readings[reader]
        return reading.prompt + reading.completion

    def _repr_html_(self) -> str:
        return html.text_html(self)

    def __repr__(self) -> str:
        readers = ", ".join(reading.reader.label for reading in self.readings)
        return f"ReadText({len(self.tokens)} tokens, {self.prompt_tokens} of the prompt, read by {readers})"


def read(
    lm: LanguageModel,
    texts: Given | Iterable[Given],
    readers: Reader | str | Iterable[Reader | str],
    interventions: Intervention | Sequence[Intervention] = (),
    *,
    system: str | None = None,
    vectors: Vectors = None,
) -> list[ReadText]:
    """Return what each reader reads of every token of each text, steered by `interventions` if any are given.

    A text is a prompt, a question or a conversation, or a pair of a prompt and its completion; prompts are rendered as
    they are for generation. `readers` are readers or spec strings, whose names `vectors` may have. One pass a text.

    Raises MisuseError without readers, and for a reader of a place that the model does not have.
    """
    asked = readers_of(readers, vectors)
    if not asked:
        raise MisuseError('nothing reads: give readers, as "entropy" or VectorReader(vector, layer)')
    if not isinstance(texts, Iterable):
        raise MisuseError(f"what is read are texts, or pairs of a prompt and its completion, got {texts!r}")
    several = [texts] if isinstance(texts, str) or _is_pair(texts) or is_conversation(texts) else texts
    pairs = [text if _is_pair(text) else (text, "") for text in several]
    requests = [
        ScoreRequest(prompt, completion, interventions, system, readers=asked)  # type: ignore[arg-type]
        for prompt, completion in pairs
    ]
    scored = TransformersEngine(lm).score(requests)
    return [
        ReadText(lm.renderer.pieces(score.token_ids), len(score.readings[0].prompt), score.readings)
        for score in scored
    ]


def _is_pair(given: Any) -> bool:
    """Whether it is a prompt and its completion, and not two prompts in a list."""
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str)
