"""What a request asks to be done and read, held against the model and against what would harm others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.engines.remote.arguments import ARGUMENT, ARGUMENTS, READERS, asked_for
from steerkit.engines.remote.limits import check_size
from steerkit.engines.remote.readers import read_reader_argument
from steerkit.engines.remote.vectors import ServedGates
from steerkit.engines.remote.wire import read_argument
from steerkit.engines.transformers import stages
from steerkit.interventions.base import Intervention
from steerkit.interventions.following import StrengthRamp
from steerkit.interventions.gate import DetectorGate
from steerkit.interventions.readers import Reader
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.serving.refusals import RefusalError, refusing
from steerkit.serving.schema import Asked

MOST_CHECKED = 4096


class Acting:
    """Reads interventions and readers for one model. `folder` holds the vectors and probes that may be named.

    Unless `exact`, those of other weights of the same architecture pass. Used by one thread at a time.
    """

    def __init__(self, lm: LanguageModel, folder: Path | None, *, exact: bool) -> None:
        self._lm = lm
        self._exact = exact
        self._vectors = ServedGates(folder, lm.n_layers, lm.d_model, setting="given as --vectors")
        self._checked: set[str] = set()

    def of(self, body: Asked) -> tuple[tuple[Intervention, ...], tuple[Reader, ...]]:
        """Return what a request asks to be done and read. Raises RefusalError by the argument that is wrong."""
        extra = _arguments(body)
        with refusing(ARGUMENT):
            steers = asked_for(extra) and extra[ARGUMENT] not in ([], None)
            interventions = read_argument(extra[ARGUMENT], self._vectors) if steers else ()
            for each in interventions:
                self._check(each)
        with refusing(READERS):
            reads = extra.get(READERS) not in ([], None)
            readers = read_reader_argument(extra[READERS], self._vectors.to_read) if reads else ()
            self._check_tensors(part for reader in readers for part in reader.tensors)
        return interventions, readers

    def _check(self, asked: Intervention) -> None:
        if isinstance(asked.gate, DetectorGate):
            raise MisuseError(
                f"'gate' {asked.gate.name!r} runs the model by itself: a server gates by probes alone"
            )
        self._check_tensors(asked.tensors)
        if not isinstance(asked, Steering):
            return
        follows = asked.follows
        times = max(abs(follows.least), abs(follows.most), 1.0) if isinstance(follows, StrengthRamp) else 1.0
        at_most = replace(asked, strength=asked.strength * times, follows=None)
        if at_most.digest in self._checked:
            return
        for layer in at_most.layers:
            check_size(stages.Acting.of(at_most, layer), layer, self._lm.dtype)
        self._note(at_most.digest)

    def _check_tensors(self, parts: Iterable[Any]) -> None:
        for part in parts:
            key = f"{part.digest}/{part.metadata.fingerprint}"
            if key not in self._checked:
                part.check(self._lm, exact=self._exact)
                self._note(key)

    def _note(self, key: str) -> None:
        if len(self._checked) >= MOST_CHECKED:
            self._checked.clear()  # a request can name any number of strengths
        self._checked.add(key)


def _arguments(body: Asked) -> dict[str, Any]:
    """A request's arguments that are ours, whether they stand in vllm_xargs or beside it."""
    extra = dict(body.vllm_xargs)
    for name in (ARGUMENT, READERS):
        if (beside := getattr(body, name)) is not None:
            if name in extra:
                raise RefusalError(f"{name!r} stands in vllm_xargs and beside it", param=name)
            extra[name] = beside
    for name in extra:
        if name not in ARGUMENTS:
            raise RefusalError(
                f"unknown argument {name[:80]!r}: the arguments are {', '.join(ARGUMENTS)}", param=name[:80]
            )
    return extra
