"""What a file holds, told by its first bytes: so that a message says what it is and not what it is not."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

from steerkit.core.errors import SteerkitError

IMPORT = "`steerkit import`, or sk.import_vector, makes a vector of another tool's file"
FETCH = "fetch the file itself"
_HEAD = 512


class Contents(NamedTuple):
    """What a file is, and what to do with it where something else is wanted; an empty `remedy`: nothing is known."""

    kind: str
    remedy: str = ""


_MAGIC = (
    (b"GGUF", Contents("a GGUF file", IMPORT)),
    (b"\x93NUMPY", Contents("a NumPy array", "save it as a tensor, with torch.save, and import that")),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", Contents("a file of torch.save", IMPORT)),
    (b"version https://git-lfs", Contents("a Git LFS pointer", f"{FETCH}, with git lfs pull")),
    (b"\x1f\x8b", Contents("a gzip archive", "unpack it first")),
    (b"BZh", Contents("a bzip2 archive", "unpack it first")),
    (b"\xfd7zXZ", Contents("an xz archive", "unpack it first")),
    (b"7z\xbc\xaf", Contents("a 7z archive", "unpack it first")),
    (b"\x28\xb5\x2f\xfd", Contents("a zstd archive", "unpack it first")),
    (b"\x89HDF", Contents("an HDF5 file", "save its tensors with torch.save, and import that")),
    (b"%PDF", Contents("a PDF", "name another file")),
    (b"\x89PNG", Contents("a picture", "name another file")),
)


def contents_of(path: str | os.PathLike[str]) -> Contents | None:
    """Return what a file or folder is, told by its first bytes; None for safetensors, and for what cannot be told."""
    path = Path(path)
    if path.is_dir():
        return Contents("a folder", "name a file in it")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return None
    if not head:
        return Contents("empty")
    for magic, contents in _MAGIC:
        if head.startswith(magic):
            return contents
    if head.startswith(b"PK"):
        return _zipped(path)
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Contents(
            "a pickle", "reading one can run code: save it as tensors, with torch.save, and import that"
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return Contents("an HTML page", f"it is what a browser shows of a file: {FETCH}")
    if b"\x00" not in head and text.startswith((b"{", b"[")):
        return Contents("JSON", IMPORT if b'"directions"' in head else "")
    announced = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{":
        return Contents(f"cut off, at {size} bytes") if 8 + announced > size else None
    return Contents("a text file") if _is_text(head) else None


def _zipped(path: Path) -> Contents:
    """A zip archive is what torch.save and NumPy write, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return Contents("a zip archive, or a file of torch.save, that is cut off", FETCH)
    if any(name.endswith("data.pkl") for name in names):
        return Contents("a file of torch.save", IMPORT)
    if names and all(name.endswith(".npy") for name in names):
        return Contents("NumPy arrays", "save them as tensors, with torch.save, and import that")
    return Contents("a zip archive", "unpack it first")


def _is_text(head: bytes) -> bool:
    if b"\x00" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the last character may be cut in two
    return True


def refusal(
    error: type[SteerkitError], path: object, wanted: str, otherwise: str, reason: str = ""
) -> SteerkitError:
    """Return the error that says what the file at `path` is where `wanted` was expected.

    `otherwise` is the remedy where the contents have none of their own, `reason` what is said where they are not known.
    """
    found = contents_of(str(path))
    if found is None:
        return error(f"{path} is no readable {wanted}{f' ({reason})' if reason else ''}: {otherwise}")
    broken = found.kind.startswith(("empty", "cut off"))
    return error(
        f"{path} is {found.kind}{'' if broken else f', and no {wanted}'}: {found.remedy or otherwise}"
    )
