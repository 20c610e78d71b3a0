"""Public evaluation sets, read in the formats that their authors publish.

gsm8k      Cobbe et al. 2021, arXiv 2110.14168: JSONL, `question` and `answer`, the result after `####`.
svamp      Patel et al. 2021, arXiv 2103.07191: JSON list or JSONL, `Body`, `Question`, `Answer`.
umwp       Sun et al. 2024, arXiv 2403.03558: JSONL, unanswerable rows name their twin in `relevant_ids`.
selfaware  Yin et al. 2023, arXiv 2305.18153: one JSON object with the rows under `example`.

None of them travels with steerkit. Where no local file is named, gsm8k and svamp (their test splits) come
from the Hugging Face hub, at a pinned revision and through the hub's own cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.files import read_text
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import suite

Row = TypeVar("Row")
WORD_PROBLEMS = ("answers", "lengths", "degeneration")


@dataclass(frozen=True, slots=True)
class Gsm8kRow:
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class SvampRow:
    ID: str
    Body: str
    Question: str
    Answer: float


@dataclass(frozen=True, slots=True)
class UmwpRow:
    id: int
    question: str
    answerable: bool
    answer: list[float] | int | None = None  # one number in a list, or, where it means nothing, a stray one
    relevant_ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class SelfAwareRow:
    question_id: int
    question: str
    answerable: bool
    answer: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a public set comes from: its home page, and its file on the hub at a fixed revision, if it is there."""

    name: str
    home: str
    repo: str = ""
    filename: str = ""
    revision: str = ""


GSM8K = Source(
    "gsm8k", "https://github.com/openai/grade-school-math",
    "openai/gsm8k", "main/test-00000-of-00001.parquet", "740312add88f781978c0658806c59bc2815b9866",
)  # fmt: skip
SVAMP = Source(
    "svamp", "https://github.com/arkilpatel/SVAMP",
    "ChilleD/SVAMP", "test.json", "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
)  # fmt: skip
UMWP = Source("umwp", "https://github.com/Yuki-Asuuna/UMWP")
SELFAWARE = Source("selfaware", "https://github.com/yinzhangyue/SelfAware")


@suite("gsm8k", scorers=WORD_PROBLEMS)
def gsm8k(path: str = "") -> Iterable[SuiteItem]:
    """Grade-school word problems (Cobbe et al. 2021), fetched or from a file."""
    return _items(GSM8K, path, Gsm8kRow, _gsm8k_items)


@suite("svamp", scorers=WORD_PROBLEMS)
def svamp(path: str = "") -> Iterable[SuiteItem]:
    """One-step word problems with distractors (Patel et al. 2021), fetched or from a file."""
    return _items(SVAMP, path, SvampRow, _svamp_items)


@suite("umwp")
def umwp(path: str = "") -> Iterable[SuiteItem]:
    """Word problems and unanswerable twins of them (Sun et al. 2024), from a file."""
    return _items(UMWP, path, UmwpRow, _umwp_items)


@suite("selfaware")
def selfaware(path: str = "") -> Iterable[SuiteItem]:
    """Questions that nobody can answer, beside ones that can be (Yin et al. 2023), from a file."""
    return _items(SELFAWARE, path, SelfAwareRow, _selfaware_items)


def _items(
    source: Source, path: str, shape: type[Row], parse: Callable[[Sequence[Row]], Iterator[SuiteItem]]
) -> tuple[SuiteItem, ...]:
    """The items of a public set: from a local file, or from the hub where `path` is empty.

    Raises MisuseError for a missing file or a set that is not on the hub, InputError for a file of another
    shape, SteerkitError where the download fails.
    """
    from pydantic import TypeAdapter, ValidationError  # slow to import

    file = Path(path) if path else _fetch(source)
    adapter = TypeAdapter(shape)
    rows: list[Row] = []
    for number, row in enumerate(_read_rows(file), start=1):
        try:
            rows.append(adapter.validate_python(row))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "row"
            raise InputError(
                f"{file}, row {number} is not a row of {source.name}: {where}: {problem['msg']}"
            ) from None
    if not rows:
        raise InputError(f"{file} has no rows of {source.name}")
    try:
        return tuple(parse(rows))
    except MisuseError as error:
        raise InputError(f"{file}: {error}") from None


def _read_rows(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        return _read_parquet(path)
    text = read_text(path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        lines = enumerate(text.split("\n"), start=1)
        return [_parse_line(path, number, line) for number, line in lines if line.strip()]
    rows = whole.get("example", whole) if isinstance(whole, dict) else whole
    return rows if isinstance(rows, list) else [rows]


def _read_parquet(path: Path) -> list[Any]:
    # Slow to import, and only the hub's gsm8k needs it.
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    if not path.is_file():
        raise MisuseError(f"{path} does not exist")
    try:
        return list(parquet.read_table(path).to_pylist())
    except (ArrowException, OSError):
        raise InputError(f"{path} cannot be read as a parquet file") from None


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not valid JSON ({error})") from None


def _fetch(source: Source) -> Path:
    """The set's file in the hub's cache, downloaded unless it is there or HF_HUB_OFFLINE forbids it."""
    remedy = f"get its file from {source.home} and give {source.name}:PATH"
    if not source.repo:
        raise MisuseError(f"{source.name} is not on the hub: {remedy}")
    from huggingface_hub import hf_hub_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError

    try:
        file = hf_hub_download(source.repo, source.filename, repo_type="dataset", revision=source.revision)
    except (HfHubHTTPError, OSError) as error:  # being offline is an OSError there
        reason = type(error).__name__
        raise SteerkitError(f"{source.name} could not be fetched from the hub ({reason}): {remedy}") from None
    return Path(file)


def _gsm8k_items(rows: Sequence[Gsm8kRow]) -> Iterator[SuiteItem]:
    for place, row in enumerate(rows):
        answer = row.answer.rpartition("####")[2].strip().replace(",", "")
        yield SuiteItem(f"gsm8k-{place}", row.question, False, (answer,), "number", source="gsm8k")


def _svamp_items(rows: Sequence[SvampRow]) -> Iterator[SuiteItem]:
    for row in rows:
        body = row.Body.strip()
        stop = "" if body.endswith((".", "?", "!")) else "."
        prompt = f"{body}{stop} {row.Question.strip()}"
        yield SuiteItem(f"svamp-{row.ID}", prompt, False, (_plain(row.Answer),), "number", source="svamp")


def _umwp_items(rows: Sequence[UmwpRow]) -> Iterator[SuiteItem]:
    present = {row.id for row in rows}
    twin_of: dict[int, int] = {}
    for row in rows:
        partner = row.relevant_ids[0] if row.relevant_ids else None
        if not row.answerable and partner in present and partner not in twin_of:
            twin_of |= {row.id: partner, partner: row.id}
    for row in rows:
        yield SuiteItem(
            id=f"umwp-{row.id}",
            prompt=_mend_stops(row.question),
            should_abstain=not row.answerable,
            answers=(_plain(row.answer[0]),) if row.answerable and isinstance(row.answer, list) else None,
            kind="number",
            scenario="underspecified_context",
            source="umwp",
            twin=f"umwp-{twin_of[row.id]}" if row.id in twin_of else None,
        )


def _selfaware_items(rows: Sequence[SelfAwareRow]) -> Iterator[SuiteItem]:
    for row in rows:
        answers = tuple(answer for answer in row.answer or () if answer.strip())
        yield SuiteItem(
            id=f"selfaware-{row.question_id}",
            prompt=row.question,
            should_abstain=not row.answerable,
            answers=answers or None,
            scenario="answer_unknown",
            source="selfaware",
        )


def _plain(number: float) -> str:
    """The number as SuiteItem wants it: `145`, not `145.0`."""
    return str(int(number)) if number == int(number) else str(number)


def _mend_stops(text: str) -> str:
    """Mend UMWP's slips: `blocks..How` and `blocks.How` become `blocks. How`, `30,.how` becomes `30, how`."""
    text = re.sub(r"([.,])[.,]+(?=[A-Za-z])", r"\1", text)
    return re.sub(r"(?<=[a-z0-9)])([.,?!])(?=[A-Z]|[a-z]{3})", r"\1 ", text)
