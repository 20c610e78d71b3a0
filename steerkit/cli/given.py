"""Standard input in the place of a prompt or a file: what `-` stands for."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from steerkit.core.characters import is_unicode
from steerkit.core.errors import InputError, MisuseError

STREAM = "-"


def prompts(words: Sequence[str]) -> list[str]:
    """Return the prompts, `-` being standard input without its last line break. Raises MisuseError for a second `-`."""
    if words.count(STREAM) > 1:
        raise MisuseError(f"standard input is read once: give {STREAM} once")
    return [_read().removesuffix("\n").removesuffix("\r") if word == STREAM else word for word in words]


def file(reference: str) -> str:
    """Return what names a file, a set or a suite; for `-`, a file of this process alone with standard input in it."""
    if reference != STREAM:
        return reference
    folder = tempfile.mkdtemp(prefix="steerkit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "stdin.jsonl"
    path.write_text(_read(), encoding="utf-8", newline="")
    return str(path)


def name(given: str | None, out: Path) -> str:
    """Return what a vector is called, by default as its file. Raises MisuseError for a name that is not Unicode."""
    found = given or out.stem
    if not is_unicode(found):
        raise MisuseError(f"the name {found!r} is not Unicode: give another with --name, and to its file")
    return found


def _read() -> str:
    text = sys.stdin.read()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"standard input is not UTF-8 text (character {error.start}): write it in UTF-8"
        ) from None
    return text.removeprefix("\ufeff")
