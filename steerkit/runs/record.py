"""Record: one line of `records.jsonl`, a completion with all that analysis and report need of it.

Role, vector and the like are the cell's and stand in `cells.jsonl`; see `steerkit.runs.cells`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any

from steerkit.core.characters import excerpt
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.prompts import Prompt, check_prompt
from steerkit.engines.base import Decision, GateReading
from steerkit.reading.reduction import Kept

Score = bool | int | float | None
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Record:
    """One completion of one item, under one cell.

    `group` is shared by twins, which are resampled together. `should_abstain`, `answers` and `kind` are the item's.
    `tokens` is the completion's length and `finish` how it ended. `scores` are what the run's scorers gave, by name,
    and `gates` what each gate of the cell read, in the order of its interventions. `readings` are what is kept of each
    of the run's readers, in the protocol's order: a number, or one for each token, whose texts are then `pieces`.
    `decisions` are those of the cell's policies that acted.
    """

    cell: str
    item: str
    sample: int
    split: str
    group: str
    should_abstain: bool | None
    answers: tuple[str, ...] | None
    kind: str
    prompt: Prompt
    completion: str
    tokens: int
    finish: str
    scores: Mapping[str, Score]
    gates: tuple[GateReading, ...] = ()
    readings: tuple[Kept, ...] = ()
    pieces: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def key(self) -> Key:
        """What identifies a record in its run: cell, item, sample."""
        return self.cell, self.item, self.sample

    def __repr__(self) -> str:
        return f"Record({self.cell}, {self.item}, sample {self.sample}: {excerpt(self.completion)!r})"

    def to_line(self) -> bytes:
        """Return the record as a JSON line in UTF-8. Raises SteerkitError for a score that could not be read again."""
        for name, score in self.scores.items():
            if not isinstance(score, Score) or (isinstance(score, float) and not math.isfinite(score)):
                raise SteerkitError(
                    f"the score {name!r} of item {self.item!r} is {score!r:.60}: its scorer has to give a finite "
                    "number, True, False or None"
                )
        form = dict(zip(_NAMES, _values(self), strict=True))
        form["gates"] = [asdict(gate) for gate in self.gates]
        form["decisions"] = [asdict(decision) for decision in self.decisions]
        for name in _SELDOM:
            if not form[name]:
                del form[name]
        # A lone surrogate has no UTF-8; as a backslash escape it is valid JSON for itself.
        return _ENCODER.encode(form).encode("utf-8", "backslashreplace") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Record:
        """Return the record of a JSON line. Raises ValueError, in one line, for anything that is none."""
        text = line.decode("utf-8")
        form, end = _DECODER.raw_decode(text)
        if type(form) is not dict or text[end:].strip():
            raise ValueError("not one object")
        for name in _SELDOM:
            form.setdefault(name, [])
        shape = (*form, *map(type, form.values()))
        if shape not in _SOUND:  # of a million records, few are the first of their shape
            _check_shape(form, _KINDS, "")
            _SOUND.add(shape)
        if not _SCORES.issuperset(map(type, form["scores"].values())):
            raise ValueError("a score is a number, true, false or null")
        if form["answers"] is not None:
            if not all(type(answer) is str for answer in form["answers"]):
                raise ValueError("answers are texts")
            form["answers"] = tuple(form["answers"])
        if type(form["prompt"]) is list:
            try:
                form["prompt"] = check_prompt(form["prompt"])
            except MisuseError as error:
                raise ValueError(str(error)) from error
        form["gates"] = tuple(map(_reading, form["gates"]))
        form["readings"] = tuple(map(_kept, form["readings"]))
        if not all(type(piece) is str for piece in form["pieces"]):
            raise ValueError("pieces are texts")
        form["pieces"] = tuple(form["pieces"])
        form["decisions"] = tuple(map(_decision, form["decisions"]))
        record = object.__new__(cls)  # the __init__ of a frozen dataclass takes three times as long
        for name, put in _SLOTS:
            put(record, form[name])
        return record


def _reading(form: Any) -> GateReading:
    if type(form) is not dict:
        raise ValueError("a gate's reading is an object")
    _check_shape(form, _READING, "a gate's reading: ")
    return GateReading(**form)


def _decision(form: Any) -> Decision:
    if type(form) is not dict:
        raise ValueError("a decision is an object")
    _check_shape(form, _DECISION, "a decision: ")
    return Decision(**form)


def _kept(form: Any) -> Kept:
    several = form if type(form) is list else [form]
    if not _NUMBERS.issuperset(map(type, several)):
        raise ValueError("a reading is a number, null or a list of them")
    return tuple(form) if type(form) is list else form


def _check_shape(form: Mapping[str, Any], kinds: Mapping[str, set[type]], what: str) -> None:
    """Raise ValueError unless the object has these fields, of these types."""
    if missing := sorted(kinds.keys() - form.keys()):
        raise ValueError(f"{what}lacks {', '.join(missing)}")
    if unknown := sorted(form.keys() - kinds.keys()):
        raise ValueError(f"{what}has unknown fields {', '.join(unknown)}")
    for name, allowed in kinds.items():
        if type(form[name]) not in allowed:
            raise ValueError(f"{what}{name} is {form[name]!r:.60}")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


_SOUND: set[tuple[object, ...]] = set()  # names and types of fields that were found to be those of a record
_NONE = type(None)
_SCORES = {bool, int, float, _NONE}
_NUMBERS = {int, float, _NONE}
_SELDOM = ("readings", "pieces", "decisions")  # fields that stand in a line only where there are any
_KINDS: Mapping[str, set[type]] = {
    "cell": {str}, "item": {str}, "sample": {int}, "split": {str}, "group": {str}, "should_abstain": {bool, _NONE},
    "answers": {list, _NONE}, "kind": {str}, "prompt": {str, list}, "completion": {str}, "tokens": {int},
    "finish": {str}, "scores": {dict}, "gates": {list},
    "readings": {list}, "pieces": {list}, "decisions": {list},
}  # fmt: skip
_READING: Mapping[str, set[type]] = {
    "intervention": {int}, "gate": {str}, "probability": {int, float, _NONE}, "fired": {bool, int, float},
}  # fmt: skip
_DECISION: Mapping[str, set[type]] = {"policy": {str}, "tokens": {int}, "reading": {int, float}}
_NAMES = [field.name for field in fields(Record)]
_SLOTS = [(name, getattr(Record, name).__set__) for name in _NAMES]
_values = attrgetter(*_NAMES)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_number)
