"""Suite items: a question with what is needed to judge its answer, as JSONL in and out.

One JSON object a line, UTF-8; only `id` and `prompt` are required:

    {"id": "sky-a", "prompt": "…", "should_abstain": false, "answers": ["blue"], "kind": "text",
     "scenario": "false_premise", "source": "steerkit", "twin": "sky-u"}

Any other key is an error, so that a misspelt one cannot be lost in silence.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.files import replacing

if TYPE_CHECKING:  # slow to import, and not needed to list suites
    from pydantic import TypeAdapter, ValidationError

Kind = Literal["text", "number", "latex"]


@dataclass(frozen=True, slots=True)
class SuiteItem:
    """One question, and how an answer to it is judged.

    `should_abstain` is None where the source does not say. `answers` are the accepted answers, compared as
    `kind` says (see `steerkit.scoring.answers`); None where there is no reference. `twin` is the id of the
    partner: the same question with, or without, what makes it answerable.
    Raises MisuseError for contents that contradict each other.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    id: str
    prompt: str
    should_abstain: bool | None = None
    answers: tuple[str, ...] | None = None
    kind: Kind = "text"
    scenario: str | None = None
    source: str | None = None
    twin: str | None = None

    def __post_init__(self) -> None:
        if not self.id.strip():
            raise MisuseError("the id is empty")
        if not self.prompt.strip():
            raise MisuseError(f"item {self.id}: the prompt is empty")
        if self.twin == self.id:
            raise MisuseError(f"item {self.id} is its own twin: name its partner, or null")
        if self.answers is None:
            return
        if self.should_abstain:
            raise MisuseError(
                f"item {self.id} should be abstained from, yet has answers: set answers to null"
            )
        if not self.answers or not all(answer.strip() for answer in self.answers):
            raise MisuseError(f"item {self.id}: an answer is empty; give null where there is no reference")
        if self.kind == "number" and not any(map(_is_number, self.answers)):
            raise MisuseError(
                f"item {self.id}: no answer is a number in digits, such as 1200, -2.5 or 1/3: "
                f"got {', '.join(map(repr, self.answers))}"
            )

    @property
    def group(self) -> str:
        """What is split and resampled as one: an item alone, or two twins."""
        return self.id if self.twin is None else min(self.id, self.twin)


def load_items(path: str | os.PathLike[str]) -> tuple[SuiteItem, ...]:
    """Read and check the items of a JSONL file, in the file's order.

    Raises MisuseError where there is no such file, InputError (naming the line) where its contents are wrong.
    """
    from pydantic import ValidationError

    adapter = _adapter()
    items: list[SuiteItem] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = adapter.validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: {_first_problem(error)}") from None
        except SteerkitError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        if item.id in line_of:
            raise InputError(
                f"{path}, line {number}: the id {item.id!r} stands already in line {line_of[item.id]}"
            )
        line_of[item.id] = number
        items.append(item)
    if not items:
        raise InputError(f"{path} has no items: expected one JSON object a line")
    _check_twins(path, items, line_of)
    return tuple(items)


def save_items(items: Iterable[SuiteItem], path: str | os.PathLike[str]) -> None:
    """Write items as JSONL, whole or not at all. Raises SteerkitError where the file cannot be written."""
    lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    with replacing(path, "the items", "name another file") as scratch:
        scratch.write_text(lines, encoding="utf-8", newline="\n")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped), or one of our errors naming the file."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MisuseError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise MisuseError(f"{path} is a folder: give a file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


@functools.cache
def _adapter() -> TypeAdapter[SuiteItem]:
    from pydantic import TypeAdapter

    return TypeAdapter(SuiteItem)


def _is_number(answer: str) -> bool:
    try:
        Fraction(answer)
    except (ValueError, ZeroDivisionError):
        return False
    return True


def _check_twins(path: str | os.PathLike[str], items: Iterable[SuiteItem], line_of: dict[str, int]) -> None:
    twin_of = {item.id: item.twin for item in items}
    for item_id, twin in twin_of.items():
        if twin is None:
            continue
        where = f"{path}, line {line_of[item_id]}"
        if twin not in twin_of:
            raise InputError(f"{where}: the twin {twin!r} of {item_id!r} is not in the file")
        if twin_of[twin] != item_id:
            raise InputError(
                f"{where}: {item_id!r} names {twin!r} as its twin, which names {twin_of[twin]!r}"
            )


def _first_problem(error: ValidationError) -> str:
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "json_invalid":
            return f"not valid JSON ({problem['ctx']['error']})"
        case "missing":
            return f"the key {where!r} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {where!r}; known are {', '.join(field.name for field in fields(SuiteItem))}"
        case "dataclass_type":
            return "expected a JSON object"
        case _:
            return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
