"""What the fuzz found, each kind kept as a test of its own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from steerkit.checks.table import read_record
from steerkit.cli import options
from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.engines.remote.served_model import ServedModel
from steerkit.interchange.base import import_vector
from steerkit.models import LanguageModel
from steerkit.models.checkpoint import checkpoint_fingerprint
from steerkit.runs.cells import RunCell
from steerkit.runs.scores import read_scores
from steerkit.suites.suite import load_suite
from tests.fuzz.files import DAMAGES, NOT_TEXTS, TEMPLATES, World

DEEP = '{"a":' * 100_000
READERS: dict[str, Callable[[Path, LanguageModel], object]] = {
    "record.json": lambda path, _: read_record(path),
    "scores/chains.jsonl": lambda path, _: read_scores(path.parent),
    "v.svec": lambda path, lm: import_vector(path, lm, "v"),
    "rows.jsonl": lambda path, _: load_suite(f"gsm8k:{path}"),
}


@pytest.mark.parametrize("content", [DEEP, "[" * 100_000, "9" * 5_000])
@pytest.mark.parametrize("name", READERS)
def test_json_that_nests_without_end_is_a_damaged_file(
    name: str, content: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(InputError, match=path.name):
        READERS[name](path, tiny)


def test_a_line_of_cells_that_nests_without_end_is_no_cell() -> None:
    with pytest.raises(ValueError, match="recursion"):
        RunCell.from_line(DEEP.encode())


def test_an_option_that_nests_without_end_is_no_json() -> None:
    assert options.key_values([f"steps={DEEP}"], "--option") == {"steps": DEEP}
    with pytest.raises(MisuseError, match="is not JSON"):
        options.placement(None, DEEP, None, None, None)


@pytest.mark.parametrize("name", [*DAMAGES, *TEMPLATES, *NOT_TEXTS])
def test_a_damaged_folder_is_said_by_an_engine_elsewhere_too(name: str, world: World) -> None:
    folder = str(world.model(name))
    for read in (ServedModel, checkpoint_fingerprint):
        with contextlib.suppress(SteerkitError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
