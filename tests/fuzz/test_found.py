"""What the fuzz found, each kind kept as a test of its own."""

from __future__ import annotations

import contextlib
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steerkit.checks.table import read_record
from steerkit.cli import options
from steerkit.core.characters import ACTING
from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.numbers import check_whole
from steerkit.engines.remote.served_model import ServedModel
from steerkit.interchange.base import import_vector
from steerkit.models import LanguageModel
from steerkit.models.checkpoint import checkpoint_fingerprint
from steerkit.runs.cells import RunCell
from steerkit.runs.scores import read_scores
from steerkit.suites.suite import load_suite
from tests.command_line import steerkit
from tests.fuzz.files import DAMAGES, NOT_TEXTS, TEMPLATES, World
from tests.tiny import random_vector

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


@pytest.mark.parametrize("values", [torch.ones(32).to_sparse(), torch.ones(32, device="meta")])
def test_a_tensor_of_another_kind_that_is_imported_is_one_line_or_a_vector(
    values: torch.Tensor, tmp_path: Path, tiny: LanguageModel
) -> None:
    torch.save(values, tmp_path / "vec_layer_1.pt")
    with contextlib.suppress(InputError):
        assert import_vector(tmp_path / "vec_layer_1.pt", tiny, "v").direction[1].eq(1).all()


def test_complex_numbers_are_no_direction(tmp_path: Path, tiny: LanguageModel) -> None:
    torch.save(torch.ones(32, dtype=torch.complex64), tmp_path / "vec_layer_1.pt")
    with pytest.raises(InputError, match="is complex"):
        import_vector(tmp_path / "vec_layer_1.pt", tiny, "v")


def test_a_name_that_is_no_text_is_refused_before_anything_is_loaded(
    tmp_path: Path, tiny: LanguageModel
) -> None:
    outcome = steerkit(
        "extract", "--model", "nowhere", "--out", tmp_path / "v.safetensors", "--name", "a\udcff"
    )
    assert outcome.code == 2
    assert "is not Unicode: give another with --name" in outcome.err
    with pytest.raises(MisuseError, match="is not Unicode"):
        random_vector(tiny, name="a\udcff").save(tmp_path / "v.safetensors")


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_whole_number_beyond_any_float_is_one(number: int) -> None:
    assert check_whole("seed", number) == number


def test_a_name_at_the_head_of_a_table_does_not_act_on_a_terminal(tmp_path: Path, tiny_folder: Path) -> None:
    model = tmp_path / "turned\u202eabout\x1b[2J"
    shutil.copytree(tiny_folder, model)
    outcome = steerkit("models", model, columns=80)
    assert outcome.code == 0
    assert "turned\\u202eabout\\x1b[2J" in outcome.out
    assert not ACTING.search(re.sub(r"\x1b\[\d*m|\n", "", outcome.out))
