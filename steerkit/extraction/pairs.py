"""Contrast pairs and labelled prompts: what a direction is fitted on, as JSONL files and as frozen data.

A *contrast pair* is one prompt with a completion that shows the behaviour and one that does not; a *labelled
prompt* shows it, or not, by itself. One JSON object a line:

    {"id": "p1", "prompt": "…", "positive": "…", "negative": "…"}      optional: "system", "tags"
    {"id": "q1", "prompt": "…", "label": true}                         optional: "group", "kind", "system", "tags"

A suite (`suite:NAME`, or a file of its items, which have "should_abstain") gives the items of its split `fit` as
labelled prompts: the other splits are kept for choosing and reporting. `prompt` is a text or a list of chat
messages.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, ValidationInfo
from pydantic_core import from_json

from steerkit.core.errors import MisuseError
from steerkit.core.files import read_jsonl, read_text, replacing
from steerkit.core.prompts import EncodedText, Prompt, Renderer, check_prompt
from steerkit.core.registry import VIEWS
from steerkit.core.texts import is_blank
from steerkit.suites.items import load_items
from steerkit.suites.suite import Suite, load_suite

STRICT = ConfigDict(extra="forbid", strict=True)


def _not_blank(side: str, info: ValidationInfo) -> str:
    if is_blank(side):
        raise MisuseError(f"the {info.field_name} side is empty: give it a completion")
    return side


# What the lines of a file are held to; data made in Python is not.
Id = Annotated[str, Field(min_length=1)]
Given = Annotated[Prompt, PlainValidator(check_prompt)]
Side = Annotated[str, AfterValidator(_not_blank)]


@dataclass(frozen=True, slots=True)
class ContrastPair:
    """One prompt, answered with the behaviour (`positive`) and without it (`negative`)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    prompt: Given
    positive: Side
    negative: Side
    system: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledPrompt:
    """A prompt that calls for the behaviour (`label` true) or does not.

    Prompts of one `group` (twins; default: its own id) are never divided between fitting and held-out evaluation.
    `kind` names the kind of question (a suite item's scenario), where it has one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: Id
    prompt: Given
    label: bool
    group: str = ""
    system: str | None = None
    tags: tuple[str, ...] = ()
    kind: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)


@dataclass(frozen=True, slots=True)
class Example:
    """One side of a contrast: a prompt, with its completion unless the prompt itself carries the label."""

    id: str
    prompt: Prompt
    completion: str | None
    positive: bool
    group: str
    system: str | None
    kind: str = ""

    @property
    def text(self) -> str:
        """The words that set the two sides apart: the completion, or the prompt where there is none."""
        return prompt_text(self.prompt) if self.completion is None else self.completion

    @property
    def where(self) -> str:
        """The example's name in messages: its id, and for a pair which side of it."""
        if self.completion is None:
            return self.id
        return f"{self.id} ({'positive' if self.positive else 'negative'})"

    def encoded(self, renderer: Renderer) -> EncodedText:
        """The example as tokens. Raises MisuseError where the model's template cannot take it."""
        if self.completion is None:
            ids = renderer.encode_prompt(self.prompt, self.system)
            return EncodedText(tuple(ids), len(ids))
        return renderer.encode_pair(self.prompt, self.completion, self.system)


@dataclass(frozen=True, slots=True)
class ContrastPairs:
    """A named set of contrast pairs."""

    name: str
    pairs: tuple[ContrastPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[ContrastPair]:
        return iter(self.pairs)

    def _repr_html_(self) -> str:
        return str(VIEWS["pairs"](self))

    def __repr__(self) -> str:
        return f"ContrastPairs({self.name!r}, {len(self)} pairs)"

    @property
    def digest(self) -> str:
        """SHA-256 of the pairs in their order; the name has no part in it."""
        return _digest(self.pairs)

    @property
    def examples(self) -> tuple[Example, ...]:
        """Both sides of every pair: all positive ones, then all negative ones, each in the pairs' order."""
        positive = (Example(p.id, p.prompt, p.positive, True, p.id, p.system) for p in self.pairs)
        negative = (Example(p.id, p.prompt, p.negative, False, p.id, p.system) for p in self.pairs)
        return (*positive, *negative)


@dataclass(frozen=True, slots=True)
class LabelledPrompts:
    """A named set of labelled prompts."""

    name: str
    prompts: tuple[LabelledPrompt, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[LabelledPrompt]:
        return iter(self.prompts)

    def _repr_html_(self) -> str:
        return str(VIEWS["prompts"](self))

    def __repr__(self) -> str:
        positive = sum(item.label for item in self)
        return f"LabelledPrompts({self.name!r}, {positive} positive, {len(self) - positive} negative)"

    @property
    def digest(self) -> str:
        """SHA-256 of the prompts in their order; names of the set and of kinds have no part in it."""
        return _digest(self.prompts)

    @property
    def examples(self) -> tuple[Example, ...]:
        """All positive prompts, then all negative ones, each in the prompts' order."""
        return tuple(
            Example(item.id, item.prompt, None, item.label, item.group, item.system, item.kind)
            for item in sorted(self.prompts, key=lambda item: not item.label)
        )


PairsOrPrompts = ContrastPairs | LabelledPrompts
SUITE = "suite:"


def examples_of(given: object) -> PairsOrPrompts:
    """Return what is to be fitted on: pairs or prompts, a list of them, a suite's split `fit`, or what a name means.

    Raises as `load_examples` does, and MisuseError for anything else.
    """
    if isinstance(given, ContrastPairs | LabelledPrompts):
        return given
    if isinstance(given, str | os.PathLike):
        return load_examples(given)
    if isinstance(given, Suite):
        return labelled_prompts(given.split("fit"))
    several = tuple(given) if isinstance(given, Iterable) else ()
    if several and all(isinstance(each, ContrastPair) for each in several):
        return ContrastPairs("pairs", several)
    if several and all(isinstance(each, LabelledPrompt) for each in several):
        return LabelledPrompts("prompts", several)
    of = f" of {type(several[0]).__name__}" if several else ""
    raise MisuseError(
        "pairs are a set of them, its name, a .jsonl file, or a list of ContrastPair or LabelledPrompt, got "
        f"{type(given).__name__}{of}"
    )


def load_pairs(name_or_path: ContrastPairs | str | os.PathLike[str]) -> ContrastPairs:
    """Read contrast pairs: a built-in set by its name, or a JSONL file (`./NAME` for a file called like a set).

    Pairs are returned as they are.

    Raises MisuseError where there is no such set or file or it holds labelled prompts, InputError (naming file and
    line) where its contents are not what they should be.
    """
    loaded = examples_of(name_or_path)
    if isinstance(loaded, LabelledPrompts):
        raise MisuseError(
            f"{_called(name_or_path)} holds labelled prompts, not contrast pairs: give a built-in set, or a file "
            "whose lines have a positive and a negative side"
        )
    return loaded


def load_labelled(name_or_path: LabelledPrompts | Suite | str | os.PathLike[str]) -> LabelledPrompts:
    """Read labelled prompts: `suite:NAME` (NAME as `load_suite` takes it), or a JSONL file of them or of suite items.

    Raises MisuseError where there is no such suite or file, it holds contrast pairs or a suite without labels;
    InputError as `load_pairs`.
    """
    loaded = examples_of(name_or_path)
    if isinstance(loaded, ContrastPairs):
        raise MisuseError(
            f"{_called(name_or_path)} holds contrast pairs, not labelled prompts: give suite:NAME, such as "
            "suite:abstention, or a file whose lines have a label"
        )
    return loaded


def load_examples(name_or_path: str | os.PathLike[str]) -> PairsOrPrompts:
    """Read whichever of the two kinds it is; the first line of a file decides. Raises as `load_pairs` does."""
    suite = suite_of(name_or_path)
    if suite is not None:
        return labelled_prompts(suite.split("fit"))
    path = _resolve(name_or_path)
    if "label" in _first_keys(path):
        return LabelledPrompts(path.stem, tuple(read_jsonl(path, LabelledPrompt).values()))
    return ContrastPairs(path.stem, tuple(read_jsonl(path, ContrastPair).values()))


def suite_of(name_or_path: str | os.PathLike[str]) -> Suite | None:
    """The whole suite that `suite:NAME` or a file of suite items stands for; None for anything else.

    Raises as `load_suite` and `load_pairs` do.
    """
    reference = os.fspath(name_or_path)
    if reference.startswith(SUITE):
        return load_suite(reference.removeprefix(SUITE))
    path = _resolve(name_or_path)
    return Suite(path.stem, load_items(path)) if "should_abstain" in _first_keys(path) else None


def labelled_prompts(suite: Suite) -> LabelledPrompts:
    """The items of a suite that say whether they should be abstained from, which is the label.

    Raises MisuseError where none does.
    """
    prompts = tuple(
        LabelledPrompt(item.id, item.prompt, item.should_abstain, item.group, kind=item.scenario or "")
        for item in suite
        if item.should_abstain is not None
    )
    if not prompts:
        raise MisuseError(f"suite {suite.name} does not say which items to abstain from: use another one")
    return LabelledPrompts(suite.name, prompts)


def save_pairs(pairs: ContrastPairs, path: str | os.PathLike[str]) -> Path:
    """Write contrast pairs as JSONL, whole or not at all; SteerkitError where `path` cannot be written."""
    path = Path(path)
    unset = {"system": None, "tags": ()}
    lines = []
    for pair in pairs:
        record = {key: value for key, value in asdict(pair).items() if value != unset.get(key, ...)}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with replacing(path, "the pairs") as scratch:
        scratch.write_text("".join(lines), encoding="utf-8")
    return path


def builtin_pairs() -> dict[str, Path]:
    """The sets that travel with the package, by name."""
    folder = Path(str(resources.files("steerkit"))) / "data" / "pairs"
    return {path.stem: path for path in sorted(folder.glob("*.jsonl"))}


def prompt_text(prompt: Prompt) -> str:
    """A prompt's words without any template: the text, or the messages' contents, one a line."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _called(given: object) -> str:
    return os.fspath(given) if isinstance(given, str | os.PathLike) else str(getattr(given, "name", given))


def _resolve(name_or_path: str | os.PathLike[str]) -> Path:
    known = builtin_pairs()
    path = known.get(str(name_or_path), Path(name_or_path))
    if not path.exists():
        names = ", ".join(known) or "none"
        raise MisuseError(f"no pairs file {str(name_or_path)!r}; built-in sets: {names}")
    return path


def _first_keys(path: Path) -> Collection[str]:
    """The keys of a file's first object; none where that is no JSON object."""
    first = next((line for line in read_text(path).split("\n") if line.strip()), "")
    try:
        found = from_json(first)
    except ValueError:
        return ()
    return found.keys() if isinstance(found, dict) else ()


def _digest(items: tuple[ContrastPair, ...] | tuple[LabelledPrompt, ...]) -> str:
    rows = [{key: value for key, value in asdict(item).items() if key != "kind"} for item in items]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
