"""What a sweep asks of the engine that carries it out, and the engine of a model that comes without one."""

from __future__ import annotations

from typing import Protocol

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Engine, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel


class SweptModel(Protocol):
    """What a run's protocol says of the model: its name, its fingerprint, and how prompts are rendered for it."""

    @property
    def name(self) -> str:
        """Its name, as a user would give it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Architecture, sizes and a digest of the weights; see `steerkit.models.fingerprint`."""
        ...

    @property
    def renderer(self) -> Renderer:
        """Chat template and tokenizer; its digest is part of the protocol."""
        ...


class SweepEngine(Engine, Protocol):
    """An engine that can carry out a sweep: it knows what it runs, and refuses beforehand what it cannot do."""

    @property
    def name(self) -> str:
        """The engine, for the record."""
        ...

    @property
    def model(self) -> SweptModel:
        """What it runs."""
        ...

    @property
    def dtype(self) -> str:
        """Number format of the model, such as `float32`."""
        ...

    @property
    def batch_size(self) -> int:
        """How many requests are under way at once, for the record."""
        ...

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request, naming what cannot be done, before anything runs."""
        ...


def carrier(
    model: LanguageModel | SweepEngine, batch_size: int | None = None, *, allow_mismatch: bool = False
) -> SweepEngine:
    """The engine itself, or for a loaded model the transformers engine with these options.

    Raises MisuseError where options are given beside an engine, which has its own.
    """
    if isinstance(model, LanguageModel):
        return TransformersEngine(model, batch_size, allow_mismatch=allow_mismatch)
    if batch_size is not None or allow_mismatch:
        raise MisuseError("batch_size and allow_mismatch are the engine's own: give them when you make it")
    return model
