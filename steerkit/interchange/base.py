"""How a foreign format is declared, written and read.

    @exporter("npy")
    class Npy(Exporter):
        \"\"\"A NumPy array of what is added at each layer.\"\"\"
        consumer = "a NumPy array"
        next = "see it: python -c 'import numpy, sys; print(numpy.load(sys.argv[1]))' {out}"

        def write(self, interventions, out, lm=None):
            numpy.save(out, constant_shifts(interventions, self.consumer).numpy())

    @importer("npy", ".npy")
    def read(path, lm, layer):
        return dict(enumerate(torch.from_numpy(numpy.load(path))))

By default an exporter takes what adds a constant at every position; one that can say more, or less, overrides
`supports`.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from steerkit import __version__
from steerkit.core.contents import IMPORT, contents_of, refusal
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.registry import EXPORTERS, IMPORTERS
from steerkit.interchange.shifts import refusal_of_shift
from steerkit.interventions.base import as_interventions

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.interventions.base import Intervention
    from steerkit.interventions.vector import SteeringVector
    from steerkit.models import LanguageModel

FOLDER = "/"  # the suffix of a folder, to an importer

Made = TypeVar("Made", bound="type[Exporter]")
Read = Callable[[Path, "LanguageModel", "int | None"], "Mapping[int, Tensor] | None"]
Reads = TypeVar("Reads", bound=Read)


@dataclass(frozen=True, slots=True)
class Consumer:
    """The program that reads an export: a Python that has it, and what it runs the model from.

    None: this Python, and what the exporter finds by itself.
    """

    python: Path | None = None
    model: Path | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What a consumer made of an export: one row of numbers for each thing compared."""

    consumer: str
    criterion: str
    rows: tuple[dict[str, Any], ...]
    passed: bool

    def __str__(self) -> str:
        verdict = "verified" if self.passed else "NOT verified"
        return f"{self.consumer}: {verdict}; criterion: {self.criterion}"


@dataclass(frozen=True, slots=True)
class Exported:
    """What is verified: interventions, where they were written, the model that they are for, and who reads them."""

    interventions: Sequence[Any]
    path: Path
    lm: LanguageModel
    consumer: Consumer
    allow_mismatch: bool = False


class Exporter(ABC):
    """Writes interventions for another program. `consumer` is what messages call that program or its file.

    `next` says what to do with what was written, `{out}`, and with the model, `{model}`: both are put there as words of
    a shell. With `needs_model` it is
    written for a loaded model.
    """

    name: ClassVar[str]
    consumer: ClassVar[str]
    next: ClassVar[str] = ""
    needs_model: ClassVar[bool] = False

    def supports(self, intervention: Intervention) -> str | None:
        """Why the consumer cannot express this intervention, by the field that it lacks; None where it can."""
        return refusal_of_shift(intervention, self.consumer)

    def check(self, interventions: Sequence[Intervention], out: Path) -> None:
        """Raise MisuseError for what cannot be expressed, together or one by one, and for an `out` that is no place."""
        del out
        for intervention in interventions:
            if (reason := self.supports(intervention)) is not None:
                raise MisuseError(f"cannot export {str(intervention)!r}: {reason}")
        if not any(intervention.acts for intervention in interventions):
            raise MisuseError(
                "there is nothing to export: give at least one steering, of another strength than 0"
            )

    @abstractmethod
    def write(self, interventions: Sequence[Any], out: Path, lm: LanguageModel | None = None) -> None:
        """Write what `check` has passed to `out`, whole or not at all."""

    def prepared(self, consumer: Consumer, model: str, progress: Callable[[str], None]) -> Consumer:
        """Return the consumer complete, before `model` is loaded.

        Raises SteerkitError where it is not there, MisuseError where the exporter has no verification.
        """
        del model, progress
        if type(self).verify is Exporter.verify:
            raise MisuseError(f"the format {self.name} has no verification")
        return consumer

    def verify(self, exported: Exported) -> Verification:
        """Run the consumer on what was written, and compare it with our own engine."""
        raise NotImplementedError(f"{exported.path}: the format {self.name} has no verification")


@dataclass(frozen=True, slots=True)
class Importer:
    """A function that reads a format: `(path, lm, layer) -> {layer: direction [d_model]}`.

    `layer` is where the user says that a single direction belongs. None: the file is of another format.
    """

    name: str
    function: Read
    suffixes: tuple[str, ...]


def exporter(name: str) -> Callable[[Made], Made]:
    """Register a class that derives from `Exporter` as the format `name`."""

    def declare(made: Made) -> Made:
        made.name = name
        EXPORTERS.add(name, made())
        return made

    return declare


def importer(name: str, *suffixes: str) -> Callable[[Reads], Reads]:
    """Register a function that reads files with one of these suffixes; `/` stands for a folder."""

    def declare(function: Reads) -> Reads:
        IMPORTERS.add(name, Importer(name, function, suffixes))
        return function

    return declare


def export(
    interventions: Intervention | Sequence[Intervention],
    to: str | Exporter,
    out: str | os.PathLike[str],
    lm: LanguageModel | None = None,
    *,
    allow_mismatch: bool = False,
) -> Path:
    """Write interventions for another program, whole or not at all, and return the path.

    `to` is the name of a registered exporter (`steerkit list exporters`) or one itself; some need the model, `lm`.

        sk.export(vector.at(14, 1.5, scope="all"), to="gguf", out="abstain.gguf")

    Raises MisuseError, naming the field, for what the consumer cannot express; ModelMismatchError for a vector of
    another model than `lm` (with `allow_mismatch`, of another architecture); SteerkitError where `out` cannot be
    written.
    """
    target, given, path = check_export(interventions, to, out)
    if lm is not None:
        for part in {part.digest: part for each in given for part in each.tensors}.values():
            part.check(lm, exact=not allow_mismatch)
    elif target.needs_model:
        raise MisuseError(f"{target.consumer} is written for one model: give the model")
    target.write([each for each in given if each.acts], path, lm)
    return path


def check_export(
    interventions: Intervention | Sequence[Intervention], to: str | Exporter, out: str | os.PathLike[str]
) -> tuple[Exporter, tuple[Intervention, ...], Path]:
    """Refuse what needs no model to be refused, as `export` does; return exporter, interventions and path."""
    target: Exporter = EXPORTERS.resolve(to)
    given = as_interventions(interventions)
    path = Path(out)
    target.check(given, path)
    return target, given, path


def verify_export(
    interventions: Intervention | Sequence[Intervention],
    to: str | Exporter,
    written: str | os.PathLike[str],
    lm: LanguageModel,
    consumer: Consumer | None = None,
    *,
    allow_mismatch: bool = False,
) -> Verification:
    """Run the real consumer on an export, and compare what it computes with what our engine computes.

    Raises SteerkitError where the consumer is not there or cannot use the file, MisuseError for a format that has no
    verification.
    """
    target: Exporter = EXPORTERS.resolve(to)
    given = as_interventions(interventions)
    ready = target.prepared(consumer or Consumer(), lm.name, lambda _: None)
    return target.verify(Exported(given, Path(written), lm, ready, allow_mismatch))


def import_vector(
    path: str | os.PathLike[str], lm: LanguageModel, name: str | None = None, *, layer: int | None = None
) -> SteeringVector:
    """Read another tool's vector, made on `lm`; the format is told by suffix and contents.

    `layer` says where a single direction `[d_model]` belongs if its file does not. No such file says which weights
    it was made on: the caller names the model, and its sizes must fit. A layer that a file lacks is zero.

    Raises MisuseError for a missing file or an unknown format, InputError for a damaged one, ModelMismatchError
    where sizes differ from the model's.
    """
    from steerkit.models.language_model import check_loaded

    check_loaded(lm)
    for each in check_import(path):
        directions = each.function(Path(path), lm, layer)
        if directions is not None:
            return _vector(directions, lm, name or Path(path).stem, each.name, str(path))
    raise MisuseError(f"{path} is of no known format{_described(path)}: {_formats()}")


def check_import(path: str | os.PathLike[str]) -> list[Importer]:
    """Return the importers that a path's suffix stands for. Raises MisuseError without one, or without such a file."""
    path = Path(path)
    if not path.exists():
        raise MisuseError(f"no file {path}: {_formats()}")
    suffix = FOLDER if path.is_dir() else path.suffix.lower()
    found = [each for _, each in IMPORTERS.items() if suffix in each.suffixes]
    if not found:
        raise MisuseError(f"{path} is of no known format{_described(path)}: {_formats()}")
    return found


def _described(path: str | os.PathLike[str]) -> str:
    """What a file is by its contents, in brackets; nothing where that is not known."""
    known = contents_of(path)
    if known is None:
        return ""
    remedy = f": {known.remedy}" if known.remedy not in ("", IMPORT) else ""
    return f" (it is {known.kind}{remedy})"


def _formats() -> str:
    return "name " + ", ".join(f"{name} ({' '.join(each.suffixes)})" for name, each in IMPORTERS.items())


def _numbers(values: Tensor, what: str) -> Tensor:
    """Return the values as float32 on the CPU. Raises InputError for a tensor of another kind."""
    try:
        if values.is_complex():
            raise InputError(f"{what} is complex: save its real part, if that is meant")
        return values.to_dense().float().cpu()
    except RuntimeError as error:
        raise InputError(f"{what} cannot be read as numbers ({error})") from error


def _vector(
    directions: Mapping[int, Tensor], lm: LanguageModel, name: str, source: str, where: str
) -> SteeringVector:
    """The directions, zero where there is none, with what is known of them."""
    import torch

    from steerkit.interventions.vector import SteeringVector, VectorMetadata

    direction = torch.zeros(lm.n_layers, lm.d_model)
    for layer, values in directions.items():
        if getattr(values, "shape", None) != (lm.d_model,) or not 0 <= layer < lm.n_layers:
            raise ModelMismatchError(
                f"{where}: for layer {layer} there is no direction [{lm.d_model}] of {lm.name}, which has layers 0 to "
                f"{lm.n_layers - 1}: name the model that the vector was made on"
            )
        direction[layer] = _numbers(values, f"{where}: the direction for layer {layer}")
    if not direction.any():
        raise InputError(f"{where} holds no direction, or every direction is zero")
    metadata = VectorMetadata(
        name=name,
        model=lm.name,
        fingerprint=lm.fingerprint,
        kept_digest=lm.kept_digest,
        method=source,
        aggregation="unknown",
        scaling="trained",
        steerkit_version=__version__,
    )
    return SteeringVector(direction, metadata)


def read_pickled(path: Path) -> Any:
    """Return what `torch.save` wrote. Tensors alone are read: raises InputError for anything that could run code."""
    import torch

    again = "save it again as plain tensors, a dict or list of them at most"
    found = contents_of(path)
    if found is not None and found.remedy != IMPORT:
        raise refusal(InputError, path, "file of torch.save", again)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in as many ways as there are kinds of damage
        refused = re.search(
            r"GLOBAL ([\w.]+)", str(error)
        )  # what torch names, above its advice to load unsafely
        if refused is None:
            raise InputError(f"{path} is a damaged file of torch.save: {again}") from error
        if refused[1].startswith("numpy."):
            raise InputError(
                f"{path} holds a NumPy array: save a tensor, as torch.save(torch.from_numpy(array), file)"
            ) from error
        raise InputError(
            f"{path} holds a Python object ({refused[1]}), and reading one can run code: {again}"
        ) from error
