"""Foreign vectors land at the layer at which they were found, or are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.prompts import EncodedText
from steerkit.extraction.capture import capture
from steerkit.interchange.base import import_vector
from steerkit.models import LanguageModel

LAYERS, WIDTH = 4, 32


@pytest.fixture
def rows() -> Tensor:
    """One distinct direction a layer, `[4, 32]`."""
    return torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(3))


def as_repeng_writes(path: Path, directions: dict[int, np.ndarray]) -> Path:
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_repengs_direction_n_is_layer_n(tiny: LanguageModel, rows: Tensor, tmp_path: Path) -> None:
    path = as_repeng_writes(tmp_path / "happy.gguf", {n: rows[n].numpy() for n in (3, 2, 1)})  # its order
    vector = import_vector(path, tiny)
    assert vector.name == "happy"
    assert vector.metadata.fingerprint == tiny.fingerprint
    assert torch.equal(vector.direction[1:], rows[1:])
    assert not vector.direction[0].any()


@pytest.mark.parametrize("nested", [False, True], ids=["IBM's first", "AISteer360's"])
def test_an_svec_keeps_its_layers(tiny: LanguageModel, rows: Tensor, tmp_path: Path, nested: bool) -> None:
    directions = {str(n): [rows[n].tolist()] if nested else rows[n].tolist() for n in range(LAYERS)}
    path = tmp_path / "v.svec"
    path.write_text(json.dumps({"model_type": "llama", "directions": directions, "explained_variances": {}}))
    assert torch.allclose(import_vector(path, tiny).direction, rows)


def test_an_svec_with_several_directions_a_layer_is_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "v.svec"
    path.write_text(json.dumps({"model_type": "llama", "directions": {"1": [[1.0] * WIDTH] * 2}}))
    with pytest.raises(InputError, match="2 directions"):
        import_vector(path, tiny)


def test_caas_layer_stands_in_its_name_or_is_asked_for(
    tiny: LanguageModel, rows: Tensor, tmp_path: Path
) -> None:
    vector = import_vector(save(tmp_path / "vec_layer_2_Llama-2-7b-chat-hf.pt", rows[2]), tiny)
    assert torch.equal(vector.direction[2], rows[2])
    assert vector.direction.any(dim=1).tolist() == [False, False, True, False]
    unnamed = save(tmp_path / "sycophancy.pt", rows[1])
    with pytest.raises(MisuseError, match="give the layer"):
        import_vector(unnamed, tiny)
    assert torch.equal(import_vector(unnamed, tiny, layer=1).direction[1], rows[1])


def test_a_folder_of_caa_is_one_vector(tiny: LanguageModel, rows: Tensor, tmp_path: Path) -> None:
    for n in range(LAYERS):
        save(tmp_path / f"vec_layer_{n}.pt", rows[n].half())
    assert torch.allclose(import_vector(tmp_path, tiny).direction, rows, atol=1e-2)
    save(tmp_path / "vec_layer_1_other.pt", rows[1])
    with pytest.raises(MisuseError, match="several files"):
        import_vector(tmp_path, tiny)


def test_a_persona_vectors_row_n_is_layer_n_minus_1_and_the_normed_row_is_left_out(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    hidden_states = torch.randn(LAYERS + 1, WIDTH)
    vector = import_vector(save(tmp_path / "evil_response_avg_diff.pt", hidden_states), tiny)
    assert torch.equal(vector.direction[:3], hidden_states[1:4])
    assert not vector.direction[3].any()


def test_a_persona_vector_steers_the_hidden_state_that_it_was_read_from(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    ids = torch.arange(10, 30)[None]
    with torch.inference_mode():
        read = tiny.hf(input_ids=ids, output_hidden_states=True).hidden_states
    vector = import_vector(save(tmp_path / "v.pt", torch.stack(read)[:, 0, -1].clone()), tiny)
    ours = capture(tiny, [EncodedText(tuple(range(10, 30)), 19)], "last").states[0]
    assert torch.allclose(vector.direction[:3], ours[:3], atol=1e-5)


def test_sizes_that_differ_from_the_models_are_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    wide = save(tmp_path / "vec_layer_1.pt", torch.ones(64))
    with pytest.raises(ModelMismatchError, match=r"no direction \[32\]"):
        import_vector(wide, tiny)
    with pytest.raises(ModelMismatchError, match="layers 0 to 3"):
        import_vector(save(tmp_path / "vec_layer_9.pt", torch.ones(WIDTH)), tiny)
    with pytest.raises(ModelMismatchError, match="7 rows"):
        import_vector(save(tmp_path / "p.pt", torch.ones(7, WIDTH)), tiny)


class Payload:
    """Runs code where it is unpickled without care."""

    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def test_a_pickle_with_code_in_it_is_not_run(
    tiny: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="reading one can run code"):
        import_vector(save(tmp_path / "v.pt", {"x": Payload()}), tiny)
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="reading one can run code"):
        import_vector(tmp_path / "w.pt", tiny)
    assert "unpickled" not in capsys.readouterr().out


def test_damage_and_strangers_are_said(tiny: LanguageModel, tmp_path: Path) -> None:
    for name, content, error, message in (
        ("v.gguf", b"GGUFnonsense", InputError, "cannot be read as GGUF"),
        ("v.svec", b"{", InputError, "no readable .svec"),
        ("v.svec", b'{"directions": {"one": [1]}}', InputError, "no readable .svec"),
        ("v.npz", b"", MisuseError, "no known format"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=message):
            import_vector(tmp_path / name, tiny)
    with pytest.raises(MisuseError, match="no file"):
        import_vector(tmp_path / "nowhere.pt", tiny)
    with pytest.raises(InputError, match="names no layer"):
        import_vector(save(tmp_path / "v.pt", {"a": torch.ones(3)}), tiny)
    with pytest.raises(InputError, match="every direction is zero"):
        import_vector(save(tmp_path / "vec_layer_1.pt", torch.zeros(WIDTH)), tiny)
