"""The vectors and probes that requests may name: those in the operator's folder, and the published ones. Nothing else.

A name is a file's stem or its whole name and never a path, a link that leads out of the folder is refused, and a
file is looked at only after its size, so no request can make the server read what it should not.
"""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import read_tensors
from steerkit.interventions.probe import HEADER_KEY, Probe, load_probe
from steerkit.interventions.store import Store
from steerkit.interventions.vector import HEADER_KEY as VECTOR_KEY
from steerkit.interventions.vector import SteeringVector, load_vector, published_vectors

SUFFIX = ".safetensors"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
CONTROL = re.compile(r"random\(([^(),]+)(?:,([0-9]{1,9}))?\)")
HEADER_ALLOWANCE = 1 << 20
TENSORS_PER_VECTOR = 8
KEPT = 64


class ServedVectors(Store):
    """Vectors by name, for a model of `n_layers` blocks and width `d_model`. The last 64 used are kept in memory.

    `folder` is resolved, and `setting` is how its operator names it. `to_read` is the store that readers are read from,
    with probes in it.
    """

    def __init__(
        self, folder: Path | None, n_layers: int, d_model: int, *, setting: str = "STEERKIT_VECTORS"
    ) -> None:
        super().__init__(files=False)
        self._folder = folder
        self._setting = setting
        self._largest = HEADER_ALLOWANCE + TENSORS_PER_VECTOR * 4 * n_layers * d_model
        self._kept: OrderedDict[tuple[Path, int, int], SteeringVector | Probe] = OrderedDict()
        self.to_read = ReadableParts(self)

    def vector(self, name: str) -> SteeringVector:
        """Return the vector of this name, or for `random(NAME)` and `random(NAME,SEED)` its random control.

        Raises MisuseError for a name that is none of ours, InputError for a bad file.
        """
        if control := CONTROL.fullmatch(name):
            return self.vector(control[1]).random_control(int(control[2] or 0))
        part = self._part(name)
        if isinstance(part, Probe):
            raise MisuseError(f"{name!r} is a probe, and no vector")
        return part

    def gate(self, name: str) -> SteeringVector | Probe:
        """Return the vector of a gate. Raises MisuseError for a probe's file: vLLM gates positions alone."""
        if not CONTROL.fullmatch(name):
            part = self._part(name)
            if isinstance(part, Probe) or part.probe is not None:
                raise MisuseError(
                    f"'gate' {name!r} is a probe, and vLLM gates positions alone: give along=VECTOR"
                )
        return self.vector(name)

    def probe(self, name: str) -> Probe:
        """Return the probe in the file of this name, its own or a vector's, or the published one of this name.

        Raises MisuseError without one, InputError for a bad file.
        """
        if name in (published := published_probes()):
            name = published[name]
        part = self._part(name)
        found = part if isinstance(part, Probe) else part.probe
        if found is None:
            raise MisuseError(f"{name!r} brings no probe: read along it, as {name}@layer=14")
        return found

    def _part(self, name: str) -> SteeringVector | Probe:
        path = self._path(name)
        state = path.stat()
        key = (path, state.st_mtime_ns, state.st_size)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with _paths_hidden(path, name):
            header, _ = read_tensors(path, "vector")
            part = (
                load_probe(path) if HEADER_KEY in header and VECTOR_KEY not in header else load_vector(path)
            )
        self._kept[key] = part
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return part

    def _path(self, name: str) -> Path:
        """The file behind a name; it is there, is one of ours, and is not too large to be a vector."""
        if not NAME.fullmatch(name):
            raise MisuseError(f"{name[:80]!r} is not the name of a vector: give a name without folders")
        if self._folder is not None:
            file = name if name.endswith(SUFFIX) else name + SUFFIX
            try:
                path = (self._folder / file).resolve()
            except (OSError, RuntimeError):  # links in a circle
                path = self._folder
            if path.is_file() and path.parent == self._folder:
                if (size := path.stat().st_size) > self._largest:
                    raise InputError(
                        f"vector {name!r} has {size} bytes, too many to be a vector for this model"
                    )
                return path
        published = published_vectors()
        if name in published:
            return published[name]
        raise MisuseError(f"no vector {name!r} on this server: it must lie in the folder {self._setting}")


class ServedGates(ServedVectors):
    """The same for an engine that reads row gates: what a gate names may be a probe."""

    def gate(self, name: str) -> SteeringVector | Probe:
        """Return the published probe of this name, or what is in the file of this name.

        Raises MisuseError without one, InputError for a bad file.
        """
        if name in published_probes():
            return self.probe(name)
        return self.vector(name) if CONTROL.fullmatch(name) else self._part(name)


class ReadableParts(Store):
    """The same vectors, and the probes, which readers may name."""

    def __init__(self, served: ServedVectors) -> None:
        super().__init__(files=False)
        self._served = served

    def vector(self, name: str) -> SteeringVector:
        """Return the served vector of this name; raises as `ServedVectors.vector` does."""
        return self._served.vector(name)

    def gate(self, name: str) -> SteeringVector | Probe:
        """Return the served probe of this name; raises as `ServedVectors.probe` does."""
        return self._served.probe(name)


@functools.cache
def published_probes() -> dict[str, str]:
    """Return the published probes by name, with the name of the vector that each travels with."""
    found = {name: load_vector(path).probe for name, path in published_vectors().items()}
    return {probe.name: name for name, probe in found.items() if probe is not None}


@contextmanager
def _paths_hidden(path: Path, name: str) -> Iterator[None]:
    """Errors inside the block name the vector, not its path, which is the operator's business."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), f"vector {name!r}")) from error
