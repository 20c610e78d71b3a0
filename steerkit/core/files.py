"""Files that are whole or not there: written beside their place and renamed into it; texts, JSONL, tensors in them."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from steerkit.core.characters import one_line
from steerkit.core.contents import contents_of, refusal
from steerkit.core.errors import InputError, MisuseError, SteerkitError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from torch import Tensor

LARGEST_TENSORS = 1 << 30
ONE_A_LINE = (
    "write one object a line, without brackets around and commas between (jq -c '.[]' or jq -c . does it)"
)


class HasId(Protocol):
    """What a line of a JSONL file stands for."""

    @property
    def id(self) -> str:
        """Its name, which no two lines of a file share."""


T = TypeVar("T", bound=HasId)


@contextmanager
def replacing(
    path: str | os.PathLike[str], what: str, remedy: str = "name another place (out)"
) -> Iterator[Path]:
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
        umask = os.umask(0)  # there is no way to read it but to set it
        os.umask(umask)
        scratch.chmod(0o666 & ~umask)  # mkstemp keeps its files to their owner
        scratch.replace(path)
    except OSError as error:
        raise SteerkitError(f"cannot write {what} to {path}: {error.strerror or error}; {remedy}") from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark.

    Raises MisuseError where there is no such file, InputError where it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MisuseError(f"{path} does not exist") from None
    except ValueError as error:
        if not isinstance(error, UnicodeDecodeError):  # a null byte in the name
            raise MisuseError(f"{str(path)!r} is no name of a file") from None
        found = contents_of(path)
        if found is None or found.kind in ("a text file", "JSON"):
            raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
        raise refusal(InputError, path, "text", "save it as UTF-8") from None
    except IsADirectoryError:
        raise MisuseError(f"{path} is a folder: give a file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_jsonl(path: str | os.PathLike[str], kind: type[T]) -> dict[int, T]:
    """Return the dataclass `kind` that each line of a JSONL file stands for, by line number; blank lines are left out.

    Raises MisuseError where there is no such file; InputError, naming the line, for one that is no `kind`, or whose id
    an earlier one has; InputError for an empty file.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(kind)
    found: dict[int, T] = {}
    line_of: dict[str, int] = {}
    text = read_text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = adapter.validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: {_fault_of_line(error, kind, line, text)}") from None
        except SteerkitError as error:  # what `kind` says of itself
            raise InputError(f"{path}, line {number}: {error}") from None
        if item.id in line_of:
            raise InputError(
                f"{path}, line {number}: the id {item.id!r} stands already in line {line_of[item.id]}: ids must be "
                "unique"
            )
        line_of[item.id] = number
        found[number] = item
    if not found:
        raise InputError(f"{path} is empty: expected one JSON object a line")
    return found


def _fault_of_line(error: ValidationError, kind: type, line: str, text: str) -> str:
    """What is wrong with a line of `text`, in words behind its number."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "json_invalid":
            return (
                f"not valid JSON {_layout(line.strip(), text.strip()) or '(' + problem['ctx']['error'] + ')'}"
            )
        case "missing":
            return f"the key {where!r} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {where!r}; known are {', '.join(each.name for each in dataclasses.fields(kind))}"
        case "dataclass_type":
            array = line.lstrip().startswith("[")
            return "expected a JSON object" + (f", found an array: {ONE_A_LINE}" if array else "")
        case _:
            return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _layout(line: str, text: str) -> str | None:
    """Why a line is no JSON though the text may be: it is laid out otherwise than one object a line; None if it is."""
    if text.startswith("["):
        return f"by itself, for the file begins as one array: {ONE_A_LINE}"
    if "\n" in _first_object(text)[0]:
        return f"by itself, for objects go over several lines: {ONE_A_LINE}"
    behind = _first_object(line)[1]
    if behind.startswith(("{", ",")):
        return f"by itself, for more stands behind the object: {ONE_A_LINE}"
    return None


def _first_object(text: str) -> tuple[str, str]:
    """The text of the JSON object that `text` begins with, and what stands behind it; empty where there is none."""
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return "", ""
    return (text[:end], text[end:].strip()) if isinstance(found, dict) else ("", "")


def read_tensors(path: Path, what: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the header entries and the tensors of a safetensors file.

    Raises InputError, naming `what` was expected, where the file is larger than 1 GiB or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {path} is not UTF-8: rename the file") from None
    if path.stat().st_size > LARGEST_TENSORS:
        raise InputError(f"{path} is larger than 1 GiB: that is no {what}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in list(file.keys())}
    except (OSError, SafetensorError) as error:
        reason = one_line(str(error))
        raise refusal(InputError, path, "safetensors file", f"make the {what} again", reason) from error


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
