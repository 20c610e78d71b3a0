"""Files that are whole or not there: written beside their place and renamed into it; tensors in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.core.errors import InputError, MisuseError, SteerkitError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from torch import Tensor

LARGEST_TENSORS = 1 << 30


@contextmanager
def replacing(path: str | os.PathLike[str], what: str, remedy: str = "name another --out") -> Iterator[Path]:
    """A scratch file in the folder of `path` that takes its place when the block ends well, else disappears.

    Makes the folder. Raises MisuseError where `path` is a folder or a device, SteerkitError where `what`
    cannot be written there; both end with `remedy`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a rename would put a file in a device's or a folder's place
        raise MisuseError(f"cannot write {what} to {path}: it is not a regular file; {remedy}")
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        scratch = Path(name)
        yield scratch
        scratch.chmod(0o666 & ~_umask())  # mkstemp keeps its files to their owner
        scratch.replace(path)
    except OSError as error:
        raise SteerkitError(f"cannot write {what} to {path}: {error.strerror or error}; {remedy}") from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask; there is no way to read it but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_tensors(path: Path, what: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the header entries and the tensors of a safetensors file.

    Raises InputError, naming `what` was expected, where the file is larger than 1 GiB or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > LARGEST_TENSORS:
        raise InputError(f"{path} is larger than 1 GiB: that is no {what}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in list(file.keys())}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}): make the {what} again"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], what: str) -> Path:
    """Write a safetensors file, whole or not at all, and return its path; errors as in `replacing`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path, f"the {what}") as scratch:
        try:
            save_file(dict(tensors), scratch, metadata=dict(header))
        except SafetensorError as error:  # its own kind, for a full disk too
            raise OSError(str(error)) from error
    return path


def fault_of(error: ValidationError, whole: str = "the whole file") -> str:
    """Return where a pydantic model is damaged and how, in one line: the first of its errors."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or whole
    return f"damaged at {where!r}: {first['msg']}"
