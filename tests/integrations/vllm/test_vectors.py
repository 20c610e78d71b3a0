"""Which files a request can make the server read: those in one folder, of a sensible size, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.engines.remote.vectors import KEPT, ServedVectors
from steerkit.models import LanguageModel
from tests.tiny import random_vector


@pytest.fixture
def folder(tiny: LanguageModel, tmp_path: Path) -> Path:
    folder = tmp_path / "vectors"
    folder.mkdir()
    random_vector(tiny, name="abstain").save(folder / "abstain.safetensors")
    random_vector(tiny, seed=9, name="secret").save(tmp_path / "secret.safetensors")
    return folder.resolve()


@pytest.fixture
def vectors(tiny: LanguageModel, folder: Path) -> ServedVectors:
    return ServedVectors(folder, tiny.n_layers, tiny.d_model)


def test_a_vector_goes_by_its_stem_or_its_file_name(vectors: ServedVectors) -> None:
    assert vectors.vector("abstain") is vectors.vector("abstain.safetensors")
    assert vectors.vector("abstain").name == "abstain"


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "../secret.safetensors",
        "./abstain",
        "sub/abstain",
        "..",
        "",
        "~/secret",
        "..\\secret",
        "abstain\x00",
        "a\nb",
        "%2e%2e/secret",
        "file:///etc/passwd",
        "x" * 300,
    ],
)
def test_a_path_is_no_name(name: str, vectors: ServedVectors) -> None:
    with pytest.raises(MisuseError, match="not the name of a vector"):
        vectors.vector(name)


def test_an_absolute_path_is_no_name_though_the_file_is_there(vectors: ServedVectors, folder: Path) -> None:
    with pytest.raises(MisuseError, match="not the name of a vector"):
        vectors.vector(str(folder / "abstain.safetensors"))


def test_a_link_out_of_the_folder_leads_nowhere(vectors: ServedVectors, folder: Path) -> None:
    (folder / "link.safetensors").symlink_to(folder.parent / "secret.safetensors")
    with pytest.raises(MisuseError, match="no vector 'link'"):
        vectors.vector("link")


def test_a_huge_file_is_refused_unread(vectors: ServedVectors, folder: Path) -> None:
    with (folder / "huge.safetensors").open("wb") as file:
        file.truncate(10 << 30)  # sparse: ten gigabytes that take no space
    for load in (vectors.vector, vectors.gate):
        with pytest.raises(InputError, match="too many"):
            load("huge")


def test_damage_and_nan_are_refused_without_telling_paths(vectors: ServedVectors, folder: Path) -> None:
    (folder / "torn.safetensors").write_bytes((folder / "abstain.safetensors").read_bytes()[:100])
    tensors = load_file(folder / "abstain.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "abstain.safetensors", "pt") as file:
        header = file.metadata()
    tensors["direction"][0, 0] = torch.nan
    save_file(tensors, folder / "nan.safetensors", header)
    save_file({"direction": torch.ones(4, 32)}, folder / "foreign.safetensors")
    for name in ("torn", "nan", "foreign"):
        with pytest.raises(InputError) as refused:
            vectors.vector(name)
        assert str(folder) not in str(refused.value)


def test_a_random_control_goes_by_its_vectors_name(vectors: ServedVectors) -> None:
    vector = vectors.vector("abstain")
    assert vectors.vector("random(abstain)").digest == vector.random_control().digest
    assert vectors.vector("random(abstain,3)").digest == vector.random_control(3).digest
    for name in ("random(../secret)", "random(random(abstain))", "random()", "random(abstain,-1)"):
        with pytest.raises(MisuseError):
            vectors.vector(name)


def test_a_changed_file_is_read_again_and_memory_is_bounded(
    vectors: ServedVectors, folder: Path, tiny: LanguageModel
) -> None:
    first = vectors.vector("abstain").digest
    random_vector(tiny, seed=4, size=2.0).save(folder / "abstain.safetensors")
    assert vectors.vector("abstain").digest != first
    for number in range(KEPT + 5):
        random_vector(tiny, seed=number).save(folder / f"v{number}.safetensors")
        vectors.vector(f"v{number}")
    assert len(vectors._kept) == KEPT


def test_without_a_folder_only_published_vectors_have_names(tiny: LanguageModel) -> None:
    with pytest.raises(SteerkitError, match="no vector 'abstain-of-nobody'"):
        ServedVectors(None, tiny.n_layers, tiny.d_model).vector("abstain-of-nobody")
