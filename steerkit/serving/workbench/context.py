"""What the workbench works on: a model, the scheduler that decodes with it, a folder of vectors and one of runs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.interventions.vector import SteeringVector, load_vector, published_vectors
from steerkit.models import LanguageModel
from steerkit.runs.directory import RUN_FILE
from steerkit.serving.scheduler import Scheduler

VECTOR, PAIRS = ".safetensors", ".jsonl"
DEEPEST_RUN = 3  # folders below that of the runs


@dataclass(frozen=True)
class Context:
    """A model with its scheduler, and where vectors, pairs and runs lie; None for a folder that is not there.

    Unless `exact`, vectors of other weights of the same architecture are among the model's.
    """

    lm: LanguageModel
    scheduler: Scheduler
    vectors: Path | None = None
    runs: Path | None = None
    exact: bool = True

    def vector_names(self) -> list[str]:
        """Return the names of the vectors that fit the model: those of the folder, then published ones."""
        known = {path.stem: path for path in self._files(VECTOR)}
        for name, path in published_vectors().items():
            known.setdefault(name, path)
        return [name for name, path in known.items() if self._fits(path)]

    def vector(self, name: str) -> SteeringVector:
        """Return the vector of this name. Raises MisuseError where there is none, InputError where it is damaged."""
        path = next((path for path in self._files(VECTOR) if path.stem == name), None)
        path = path or published_vectors().get(name)
        if path is None:
            raise MisuseError(
                f"there is no vector {name!r}; there are {', '.join(self.vector_names()) or 'none'}"
            )
        vector = loaded(path, path.stat().st_mtime_ns)
        vector.check(self.lm, exact=self.exact)
        return vector

    def pairs_names(self) -> list[str]:
        """Return the names of the files of pairs that were saved beside the vectors."""
        return [path.stem for path in self._files(PAIRS)]

    def place(self, name: str, ending: str) -> Path:
        """Return where to save under a name. Raises MisuseError for a name that is none, and without a folder."""
        if self.vectors is None:
            raise MisuseError("there is no folder to save to: serve with --vectors FOLDER")
        plain = name.strip().removesuffix(ending)
        if (
            not plain
            or plain.startswith(".")
            or any(sign in plain for sign in "/\\\0")
            or not plain.isprintable()
        ):
            raise MisuseError(f"{name!r} is no name for a file: use letters, digits, - and _")
        return self.vectors / f"{plain}{ending}"

    def run_names(self) -> list[str]:
        """Return the runs below the folder of runs, by their path in it, the latest first."""
        if self.runs is None:
            return []
        patterns = ("*/" * depth + RUN_FILE for depth in range(DEEPEST_RUN + 1))
        found = [path for pattern in patterns for path in self.runs.glob(pattern)]
        found.sort(key=lambda path: -path.stat().st_mtime)
        return [path.parent.relative_to(self.runs).as_posix() for path in found]

    def run_path(self, name: str) -> Path:
        """Return the folder of a run of `run_names`. Raises MisuseError for any other."""
        if self.runs is None or name not in self.run_names():
            raise MisuseError(f"there is no run {name!r}: choose one of the list")
        return self.runs / name

    def _files(self, ending: str) -> list[Path]:
        return [] if self.vectors is None else sorted(self.vectors.glob(f"[!.]*{ending}"))

    def _fits(self, path: Path) -> bool:
        try:
            loaded(path, path.stat().st_mtime_ns).check(self.lm, exact=self.exact)
        except SteerkitError:
            return False
        return True


@functools.lru_cache(maxsize=64)
def loaded(path: Path, _changed: int) -> SteeringVector:
    """Return the vector of a file, read once as long as it stays the same."""
    return load_vector(path)
