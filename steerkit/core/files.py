"""Files that are whole or not there: written beside their place and renamed into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerkit.core.errors import MisuseError, SteerkitError


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
