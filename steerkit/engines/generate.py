"""generate: prompts completed in one call, steered and read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steerkit.core.numbers import check_whole
from steerkit.core.progress import notebook_bar
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Completion, Decoding, Engine, Request
from steerkit.engines.catalogue import engine_for
from steerkit.interventions.base import Intervention, as_interventions
from steerkit.interventions.readers import Reader
from steerkit.interventions.spec import Vectors, readers_of

if TYPE_CHECKING:
    from steerkit.models import LanguageModel


def generate(
    model: LanguageModel | Engine,
    prompts: Prompt | Iterable[Prompt],
    interventions: Intervention | Sequence[Intervention] = (),
    *,
    read: Reader | str | Iterable[Reader | str] = (),
    decoding: Decoding = Decoding(),
    system: str | None = None,
    samples: int = 1,
    vectors: Vectors = None,
    read_prompt: bool = True,
    batch_size: int | None = None,
    allow_mismatch: bool = False,
) -> list[Completion]:
    """Complete prompts, all rows together, and return the completions in the order of the prompts, samples in a row.

        [done] = sk.generate(lm, "Who wrote Hamlet?", vector.at(layer=14), read=["entropy", "doubt.safetensors"])
        done.readings[0].completion  # a number a token

    A prompt is a text or a conversation. `read` are readers or spec strings, whose names `vectors` may have; what
    they read of each token of the completion and, with `read_prompt`, of the prompt is in `readings`. `model` is a
    loaded model or an engine, which has its own `batch_size` and `allow_mismatch`. Raises MisuseError for what cannot
    be read, steered or asked.
    """
    several: list[Any] = [prompts] if isinstance(prompts, str) or is_conversation(prompts) else list(prompts)
    samples = check_whole("samples", samples, 1)
    readers = readers_of(read, vectors)
    engine = engine_for(model, batch_size, allow_mismatch=allow_mismatch)
    acting = as_interventions(interventions)
    requests = [
        Request(
            prompt,
            acting,
            decoding,
            system,
            sample,
            key=(place, sample),
            readers=readers,
            reads_prompt=read_prompt,
        )
        for place, prompt in enumerate(several)
        for sample in range(samples)
    ]
    done: dict[Hashable, Completion] = {}
    with notebook_bar("generating") as progress:
        for completion in engine.generate(requests):
            done[completion.request.key] = completion
            progress(len(done), len(requests))
    if readers:  # for who looks at them
        pieces = engine.model.renderer.pieces
        done = {key: replace(each, pieces=pieces(each.token_ids)) for key, each in done.items()}
    return [done[request.key] for request in requests]


def is_conversation(given: object) -> bool:
    """Return whether it is a conversation, and not several prompts."""
    return isinstance(given, Sequence) and bool(given) and all(isinstance(part, Mapping) for part in given)
