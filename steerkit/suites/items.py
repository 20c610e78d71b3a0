"""Suite items: a question with what is needed to judge its answer, as JSONL in and out.

One JSON object a line, UTF-8; only `id` and `prompt` are required:

    {"id": "sky-a", "prompt": "…", "should_abstain": false, "answers": ["blue"], "kind": "text",
     "scenario": "false_premise", "source": "steerkit", "twin": "sky-u"}

Any other key is an error, so that a misspelt one cannot be lost in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import read_jsonl, replacing
from steerkit.core.texts import is_blank

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
        if is_blank(self.id):
            raise MisuseError("the id is empty")
        if is_blank(self.prompt):
            raise MisuseError(f"item {self.id}: the prompt is empty")
        if self.twin == self.id:
            raise MisuseError(f"item {self.id} is its own twin: name its partner, or null")
        if self.answers is None:
            return
        if isinstance(self.answers, str):
            raise MisuseError(f"item {self.id}: answers are several texts, not one: give [{self.answers!r}]")
        object.__setattr__(self, "answers", tuple(self.answers))  # a list will do
        if self.should_abstain:
            raise MisuseError(
                f"item {self.id} should be abstained from, yet has answers: set answers to null"
            )
        if not self.answers or any(map(is_blank, self.answers)):
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
    items = read_jsonl(path, SuiteItem)
    _check_twins(path, items)
    return tuple(items.values())


def save_items(items: Iterable[SuiteItem], path: str | os.PathLike[str]) -> None:
    """Write items as JSONL, whole or not at all. Raises SteerkitError where the file cannot be written."""
    lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    with replacing(path, "the items", "name another file") as scratch:
        scratch.write_text(lines, encoding="utf-8", newline="\n")


def _is_number(answer: str) -> bool:
    try:
        Fraction(answer)
    except (ValueError, ZeroDivisionError):
        return False
    return True


def _check_twins(path: str | os.PathLike[str], items: Mapping[int, SuiteItem]) -> None:
    twin_of = {item.id: item.twin for item in items.values()}
    for number, item in items.items():
        if item.twin is None:
            continue
        if item.twin not in twin_of:
            raise InputError(
                f"{path}, line {number}: the twin {item.twin!r} of {item.id!r} is not in the file"
            )
        if twin_of[item.twin] != item.id:
            raise InputError(
                f"{path}, line {number}: {item.id!r} names {item.twin!r} as its twin, which names "
                f"{twin_of[item.twin]!r}"
            )
