"""llama.cpp control vectors: what stands in the file, what it refuses, and what llama.cpp and repeng make of it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import load_pairs
from steerkit.interchange.base import Consumer, export, verify_export
from steerkit.interchange.gguf import write_float32
from steerkit.models import LanguageModel
from tests.interchange.conftest import consumer_python
from tests.tiny import random_vector
from tests.tiny_gguf import write_tiny_gguf


def directions(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def text(path: Path, key: str) -> object:
    return gguf.GGUFReader(path).get_field(key).contents()


def test_direction_n_is_our_layer_n_with_its_strength_in_it(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    path = export(
        [vector.at((1, 3), 1.5, scope="all"), vector.at(3, -0.5, scope="all")], "gguf", tmp_path / "v.gguf"
    )
    written = directions(path)
    assert list(written) == ["direction.1", "direction.2", "direction.3"]
    assert all(array.dtype == np.float32 and array.shape == (32,) for array in written.values())
    assert np.allclose(written["direction.1"], 1.5 * vector.direction[1])
    assert not written["direction.2"].any()  # repeng looks it up, so it is there, and zero
    assert np.allclose(written["direction.3"], vector.direction[3], atol=1e-6)


def test_the_file_says_whose_it_is(tiny: LanguageModel, tmp_path: Path) -> None:
    path = export([random_vector(tiny).at(2, 2.0, scope="all")], "gguf", tmp_path / "v.gguf")
    assert text(path, "general.architecture") == "controlvector"
    assert text(path, "controlvector.model_hint") == "llama"
    assert text(path, "controlvector.layer_count") == 3
    assert text(path, "steerkit.steering") == ["random@layer=2,strength=2,scope=all"]
    assert text(path, "steerkit.fingerprint") == tiny.fingerprint
    assert text(path, "steerkit.layers") == [2]


def test_the_first_layer_is_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="layer=0"):
        export([random_vector(tiny).at((0, 1), scope="all")], "gguf", tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_float32_copy_has_the_weights_that_are_stored(tmp_path: Path) -> None:
    original, quantised, copy = (tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf"))
    write_tiny_gguf(original)
    reader = gguf.GGUFReader(original)
    writer = gguf.GGUFWriter(quantised, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_uint32("llama.block_count", 2)
    for tensor in reader.tensors:
        matrix = gguf.GGMLQuantizationType.Q8_0 if tensor.data.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quantize(np.array(tensor.data), matrix), raw_dtype=matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_float32(quantised, copy)
    stored, copied = gguf.GGUFReader(quantised), gguf.GGUFReader(copy)
    assert text(copy, "tokenizer.ggml.tokens") == ["a", "b"]
    assert text(copy, "llama.block_count") == 2
    for before, after in zip(stored.tensors, copied.tensors, strict=True):
        assert (after.name, list(after.shape)) == (before.name, list(before.shape))
        assert after.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(after.data, gguf.dequantize(before.data, before.tensor_type))


def test_what_is_no_gguf_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and then nothing that one could read")
    with pytest.raises(SteerkitError):
        write_float32(tmp_path / "bad.gguf", tmp_path / "copy.gguf")


def test_a_scope_is_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="scope=completion"):
        export([random_vector(tiny).at(1)], "gguf", tmp_path / "v.gguf")


@pytest.mark.consumers
def test_repeng_reads_what_we_write(tiny: LanguageModel, tmp_path: Path) -> None:
    python = consumer_python("repeng")
    vector = random_vector(tiny)
    path = export([vector.at((1, 2), 1.5, scope="all")], "gguf", tmp_path / "v.gguf")
    program = (
        "import json, sys, repeng; v = repeng.ControlVector.import_gguf(sys.argv[1]);"
        "print(json.dumps([v.model_type, {k: d.tolist() for k, d in v.directions.items()}]))"
    )
    done = subprocess.run([python, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model_type, read = json.loads(done.stdout.splitlines()[-1])
    assert model_type == "llama"
    assert list(read) == ["1", "2", "3"]
    assert np.allclose(read["2"], 1.5 * vector.direction[2], atol=1e-6)


@pytest.mark.consumers
def test_llama_cpp_steers_where_we_do_at_every_layer(smollm: LanguageModel, tmp_path: Path) -> None:
    python = consumer_python("llama_cpp")
    vector = extract(smollm, load_pairs("abstention"))
    steerings = [vector.at(tuple(range(1, smollm.n_layers)), 1.0, scope="all")]
    path = export(steerings, "gguf", tmp_path / "v.gguf")
    outcome = verify_export(steerings, "gguf", path, smollm, Consumer(Path(python)))
    assert outcome.passed, outcome.rows
    assert [row["layer"] for row in outcome.rows] == [None, *range(1, smollm.n_layers)]
    for row in outcome.rows[1:]:
        assert row["cosine"] >= 0.999, row
        assert max(row["below"], row["above"] or 0) < 0.98, row
    # With quantised matrices llama.cpp's own rounding is a fifth of the smallest of these shifts.
    assert min(row["stored"] for row in outcome.rows) >= 0.95


@pytest.mark.consumers
def test_a_file_that_is_one_layer_off_is_not_verified(smollm: LanguageModel, tmp_path: Path) -> None:
    python = consumer_python("llama_cpp")
    vector = extract(smollm, load_pairs("abstention"))
    moved = replace(vector, direction=vector.direction.roll(1, dims=0))
    wrong = export([moved.at(15, 1.0, scope="all")], "gguf", tmp_path / "v.gguf")
    # What belongs to layer 14 stands at 15.
    steering = vector.at(14, 1.0, scope="all")
    assert not verify_export(steering, "gguf", wrong, smollm, Consumer(Path(python))).passed
