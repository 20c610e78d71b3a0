"""Which files a request can make the server read: those in one folder, of a sensible size, and no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.engines.remote.readers import read_reader_argument
from steerkit.engines.remote.vectors import KEPT, ServedVectors
from steerkit.engines.remote.wire import LONGEST_MESSAGE
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.readers import NamedReader, ProbeReader, VectorReader
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


def probe_of(tiny: LanguageModel, name: str) -> Probe:
    metadata = ProbeMetadata(name=name, model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    return Probe(torch.randn(tiny.n_layers, tiny.d_model), torch.zeros(tiny.n_layers), metadata)


def test_readers_may_name_probes_and_steerings_may_not(
    tiny: LanguageModel, vectors: ServedVectors, folder: Path
) -> None:
    doubt, beside = probe_of(tiny, "doubt"), probe_of(tiny, "beside")
    doubt.save(folder / "doubt.safetensors")
    replace(random_vector(tiny, name="both"), probe=beside).save(folder / "both.safetensors")
    asked = ["doubt", "both@as=probe,layer=2", "both@layer=1", "abstain@layer=1", "entropy"]
    asked += [json.dumps(ProbeReader(doubt).to_json())]
    doubted, brought, along, plain, entropy, again = (
        read_reader_argument([spec], vectors.to_read)[0] for spec in asked
    )
    assert doubted == again == ProbeReader(doubt)
    assert brought == ProbeReader(beside, 2)
    assert isinstance(along, VectorReader)
    assert isinstance(plain, VectorReader)
    assert entropy == NamedReader("entropy")
    assert vectors.to_read.gate("should-abstain").name == "should-abstain"  # beside a published vector
    with pytest.raises(MisuseError, match="'doubt' is a probe, and no vector"):
        vectors.vector("doubt")
    with pytest.raises(MisuseError, match="vLLM gates positions alone"):
        vectors.gate("both")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("../secret@layer=1", "not the name"),
        ("/etc/passwd@as=probe", "not the name"),
        ('{"kind": "probe", "probe": "../secret"}', "not the name"),
        ('{"kind": "vector", "vector": {"name": "abstain", "sha256": "00"}, "layer": 1}', "is another one"),
        ('{"kind": "vector", "vector": "abstain"}', "layer"),
        ('{"kind": "vector", "layer": 1}', "'vector'"),
        ('{"kind": "vector", "vector": {"name": 7}, "layer": 1}', "is no name"),
        ('{"kind": "vector", "vector": "abstain", "layer": "1"}', "a layer is a whole number"),
        ('{"kind": "vector", "vector": "abstain", "layer": 1, "file": "/etc/passwd"}', "'file'"),
        ('{"kind": "registered", "reader": []}', "JSON form"),
        ('{"kind": "spell"}', "kind vector, probe, feature or registered"),
        ("abstain@as=probe", "brings no probe"),
        ("abstain@layer=99", "out of range"),
        ("absent@layer=1", "no vector 'absent'"),
        (["entropy", "entropy"], "given twice"),
        (["entropy"] * 17, "at most 16"),
        (["x" * 5000], "at most"),
        ([["entropy"]], "list"),
        (7, "int"),
        ("", "."),
        ("[" * 60_000, "JSON"),
    ],
)
def test_readers_that_cannot_be_meant_are_refused(asked: object, named: str, vectors: ServedVectors) -> None:
    with pytest.raises(SteerkitError, match=named) as error:
        read_reader_argument(asked, vectors.to_read)
    assert len(str(error.value)) <= LONGEST_MESSAGE
