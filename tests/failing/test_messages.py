# ruff: noqa: ARG005 (the makers of a table are given the same thing)
"""Kind 9, messages that mislead: a line says what a thing is, and what its user can do, in the user's own words.

`C…` are inputs on which an earlier version failed, `N…` further ones of the same kind.
"""

from __future__ import annotations

import gzip
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import steerkit as sk
from steerkit.core.contents import contents_of
from steerkit.core.errors import SteerkitError
from steerkit.models import LanguageModel
from tests.command_line import steerkit

LAYERS, WIDTH = 4, 32


@pytest.fixture(scope="module")
def states() -> Tensor:
    """One direction a layer, `[4, 32]`, and one more for the embeddings in front."""
    return torch.randn(LAYERS + 1, WIDTH, generator=torch.Generator().manual_seed(1))


def control_vector(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "controlvector")
    for layer in range(1, LAYERS):
        writer.add_tensor(f"direction.{layer}", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v.safetensors", b"x" * 100)


def half_zipped(path: Path) -> None:
    torch.save(torch.ones(WIDTH), path)
    path.write_bytes(path.read_bytes()[:200])


def cut_off(path: Path) -> None:
    save_file({"direction": torch.ones(LAYERS, WIDTH)}, path)
    path.write_bytes(path.read_bytes()[:40])


FILES: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    # name: what it is called, what is to be done, how it is made
    "repeng.gguf": ("a GGUF file", "steerkit import", control_vector),  # C29
    "d.pt": ("a file of torch.save", "steerkit import", lambda at: torch.save(torch.ones(WIDTH), at)),  # C29
    "old.pt": (
        "a file of torch.save",
        "steerkit import",
        lambda at: torch.save(torch.ones(WIDTH), at, _use_new_zipfile_serialization=False),
    ),
    "half.pt": ("cut off", "fetch", half_zipped),
    "p.pkl": ("a pickle", "save it as tensors", lambda at: at.write_bytes(pickle.dumps({"a": [1]}))),
    "a.npy": ("a NumPy array", "save it as a tensor", lambda at: np.save(at, np.ones(3))),
    "a.npz": ("NumPy arrays", "save them as tensors", lambda at: np.savez(at, a=np.ones(3))),
    "a.zip": ("a zip archive", "unpack it", zipped),
    "a.gz": ("a gzip archive", "unpack it", lambda at: at.write_bytes(gzip.compress(b"x" * 99))),
    "empty": ("is empty", "make the vector again", lambda at: at.write_bytes(b"")),
    "cut": ("is cut off", "make the vector again", cut_off),
    "page.html": (
        "an HTML page",
        "fetch the file itself",
        lambda at: at.write_text("\n<!DOCTYPE html><html><body>Sign in"),
    ),
    "pointer": (
        "a Git LFS pointer",
        "git lfs pull",
        lambda at: at.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
    "v.svec": ("JSON", "steerkit import", lambda at: at.write_text('{"directions": {"1": [1.0]}}')),
    "list.json": ("JSON", "make the vector again", lambda at: at.write_text("[1, 2]")),
    "notes": ("a text file", "make the vector again", lambda at: at.write_text("layer: 14\n" * 99)),
    "x.h5": ("an HDF5 file", "torch.save", lambda at: at.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))),
    "noise": (
        "no readable safetensors",
        "make the vector again",
        lambda at: at.write_bytes(bytes(range(200, 256))),
    ),
    "foreign.safetensors": (
        "not a steerkit vector",
        "steerkit import",
        lambda at: save_file({"layer_1": torch.ones(WIDTH)}, at),
    ),
}


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_c29_a_file_taken_for_a_vector_is_called_what_it_is(name: str, suffix: str, tmp_path: Path) -> None:
    kind, remedy, make = FILES[name]
    made = tmp_path / name
    make(made)
    path = made.rename(tmp_path / f"{name}{suffix}")
    outcome = steerkit("generate", "--steer", f"{path}@layer=1", "Hi")
    (line,) = outcome.err.splitlines()
    assert outcome.code == 1
    assert kind in line
    assert remedy in line
    for verb in (
        ["extract", "--project-out", path, "--out", tmp_path / "o"],
        ["calibrate", "--vector", path],
    ):
        more = ["--layers", 1, "--target-kl", 0.1] if verb[0] == "calibrate" else []
        assert kind in steerkit(*verb, *more).err.splitlines()[-1]


@pytest.mark.parametrize(
    "name", [name for name in FILES if name not in ("foreign.safetensors", "notes", "list.json")]
)
def test_n_a_file_taken_for_pairs_or_a_suite_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    _, _, make = FILES[name]
    path = tmp_path / name
    make(path)
    outcome = steerkit("pairs", "lint", path)
    (line,) = outcome.err.splitlines()
    assert outcome.code == 1
    known = contents_of(path)
    if known is not None and name in (
        "repeng.gguf",
        "d.pt",
        "a.npy",
        "a.npz",
        "a.zip",
        "a.gz",
        "p.pkl",
        "x.h5",
    ):
        assert known.kind in line


@pytest.mark.parametrize(
    "name", [name for name in FILES if name not in ("repeng.gguf", "foreign.safetensors")]
)
@pytest.mark.parametrize("suffix", [".pt", ".gguf", ".svec", ".safetensors", ".bin", ".npz"])
def test_n_an_import_of_another_kind_is_called_what_it_is(
    name: str, suffix: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    kind, _, make = FILES[name]
    made = tmp_path / name
    make(made)
    path = made.rename(tmp_path / f"x{suffix}")
    if name in ("d.pt", "old.pt") and suffix in (".pt", ".bin"):
        return  # which is what such a suffix stands for
    with pytest.raises(SteerkitError) as caught:
        sk.import_vector(path, tiny)
    line = str(caught.value)
    assert "\n" not in line
    assert "\x1b" not in line
    if name not in ("noise", "cut", "v.svec", "notes", "half.pt", "list.json"):
        assert kind in line
    assert "weights_only" not in line


# Directions by layer

AS_DICT: dict[str, Callable[[Tensor], Any]] = {
    "C30 numbers": lambda s: {n: s[n] for n in range(LAYERS)},
    "texts": lambda s: {str(n): s[n] for n in range(LAYERS)},
    "names": lambda s: {f"layer_{n}": s[n] for n in range(LAYERS)},
    "modules": lambda s: {f"model.layers.{n}.output": s[n] for n in range(LAYERS)},
    "hooks": lambda s: {f"blocks.{n}.hook_resid": s[n] for n in range(LAYERS)},
    "a row each": lambda s: {n: s[n][None] for n in range(LAYERS)},
    "half precision": lambda s: {n: s[n].double() for n in range(LAYERS)},
    "nested": lambda s: {"directions": {n: s[n] for n in range(LAYERS)}, "model": "x", "config": 3},
    "from the end": lambda s: {n - LAYERS: s[n] for n in range(LAYERS)},
    "a list": lambda s: [s[n] for n in range(LAYERS)],
    "parameters": lambda s: {n: torch.nn.Parameter(s[n]) for n in range(LAYERS)},
}


@pytest.mark.parametrize("made", AS_DICT.values(), ids=AS_DICT)
def test_c30_a_dict_or_list_by_layer_is_read(
    made: Callable[[Tensor], Any], states: Tensor, tmp_path: Path, tiny: LanguageModel
) -> None:
    torch.save(made(states), tmp_path / "v.pt")
    vector = sk.import_vector(tmp_path / "v.pt", tiny)
    assert torch.equal(vector.direction, states[:LAYERS])
    assert vector.metadata.method == "by-layer"


def test_n_some_layers_and_safetensors_are_read(states: Tensor, tmp_path: Path, tiny: LanguageModel) -> None:
    torch.save({2: states[2]}, tmp_path / "v.pt")
    assert sk.import_vector(tmp_path / "v.pt", tiny).direction.any(dim=1).tolist() == [
        False,
        False,
        True,
        False,
    ]
    save_file({f"layers.{n}": states[n].clone() for n in range(LAYERS)}, tmp_path / "v.safetensors")
    assert torch.equal(sk.import_vector(tmp_path / "v.safetensors", tiny).direction, states[:LAYERS])


def test_n_a_list_with_the_embeddings_in_front_is_read_as_hidden_states(
    states: Tensor, tmp_path: Path, tiny: LanguageModel
) -> None:
    torch.save(list(states), tmp_path / "v.pt")
    vector = sk.import_vector(tmp_path / "v.pt", tiny)
    assert torch.equal(vector.direction[: LAYERS - 1], states[1:LAYERS])
    assert not vector.direction[LAYERS - 1].any()


REFUSED: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "C31 a NumPy array": ("holds a NumPy array: save a tensor", lambda s: s[1].numpy()),
    "NumPy arrays by layer": (
        "holds a NumPy array: save a tensor",
        lambda s: {n: s[n].numpy() for n in (1, 2)},
    ),
    "NumPy numbers": ("NumPy", lambda s: {np.int64(1): s[1]}),
    "a path": ("pathlib", lambda s: {"at": Path("x")}),
    "texts": ("holds a str: save tensors", lambda s: {1: "x"}),
    "lists": ("holds a list: save tensors", lambda s: {1: s[1].tolist(), 2: s[2].tolist()}),
    "two a layer": ("one direction a layer", lambda s: {1: s[:2]}),
    "no numbers": ("names no layer", lambda s: {"happy": s[1]}),
    "two numbers": ("names no layer", lambda s: {"layer1.head2": s[1]}),
    "another width": ("name the model that the vector was made on", lambda s: {1: torch.ones(7)}),
    "another depth": ("has layers 0 to 3", lambda s: {9: s[1]}),
    "a shorter list": ("is a list of 2", lambda s: [s[0], s[1]]),
    "nothing": ("holds no direction", lambda s: {}),
    "a number": ("of no known format", lambda s: 3),
    "three axes": ("of no known format", lambda s: torch.ones(2, 2, 2)),
}


@pytest.mark.parametrize(("said", "made"), REFUSED.values(), ids=REFUSED)
def test_c31_what_cannot_be_read_as_directions_says_why_and_gives_no_unsafe_advice(
    said: str, made: Callable[[Tensor], Any], states: Tensor, tmp_path: Path, tiny_folder: Path
) -> None:
    torch.save(made(states), tmp_path / "vec.pt")
    outcome = steerkit(
        "import", tmp_path / "vec.pt", "--model", tiny_folder, "--out", tmp_path / "x.safetensors"
    )
    (line,) = outcome.err.splitlines()
    assert outcome.code in (1, 2)
    assert said in line
    for unsafe in ("weights_only", "add_safe_globals", "trust", "\x1b", "[1m"):
        assert unsafe not in line
    assert not (tmp_path / "x.safetensors").exists()


# The user's own words


def test_n_a_notebook_is_not_told_of_flags(tmp_path: Path, tiny: LanguageModel) -> None:
    vector = sk.load_vector(_saved(tmp_path, tiny))
    slips: list[Callable[[], Any]] = [
        lambda: vector.save(tmp_path),
        lambda: list(sk.TransformersEngine(tiny).generate([sk.Request("x" * 600)])),
        lambda: list(sk.TransformersEngine(tiny).generate([sk.Request("Hi", (), sk.Decoding(9999))])),
        lambda: sk.open_run(tmp_path),
        lambda: vector.gated(),
        lambda: sk.load_probe(tmp_path / "none"),
        lambda: sk.export(vector.at(1, scope="all"), to="gguf", out=tmp_path),
        lambda: sk.save_pairs(sk.ContrastPairs("p", ()), tmp_path),
    ]
    for slip in slips:
        with pytest.raises(SteerkitError) as caught:
            slip()
        line = str(caught.value)
        assert " --" not in line.replace("`steerkit extract --as probe`", ""), line


def _saved(folder: Path, lm: LanguageModel) -> Path:
    from tests.tiny import random_vector

    return random_vector(lm).save(folder / "v.safetensors")


def test_n_a_vectors_file_given_where_a_probe_is_wanted_is_named(tmp_path: Path, tiny: LanguageModel) -> None:
    path = _saved(tmp_path, tiny)
    with pytest.raises(SteerkitError, match="holds no probe"):
        sk.load_probe(path)
    line = steerkit("generate", "--steer", f"{path}@layer=1,gate={path}", "Hi").err
    assert "holds no probe" in line


def test_n_a_probes_file_given_where_a_vector_is_wanted_is_named(tmp_path: Path, tiny: LanguageModel) -> None:
    prompts = [
        sk.LabelledPrompt(f"p{n}", f"{'Who' if n % 2 else 'What'} {n}?", bool(n % 2)) for n in range(12)
    ]
    path = sk.fit_probe(tiny, sk.LabelledPrompts("p", tuple(prompts))).save(tmp_path / "p.safetensors")
    with pytest.raises(SteerkitError, match="it holds a probe"):
        sk.load_vector(path)


def test_n_json_is_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"id": "a"}))
    assert contents_of(path) == ("JSON", "")
