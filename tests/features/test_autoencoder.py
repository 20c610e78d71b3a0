"""Autoencoders against formulas in plain torch, their features as vectors and readers, and folders that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import steerkit as sk
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.sites import Place
from steerkit.interventions.spec import parse_reader
from steerkit.interventions.store import Store, reader_from_json
from tests.features import planted
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def lm() -> sk.LanguageModel:
    return planted.planted_model()


def reference(w: dict[str, Tensor], architecture: str, x: Tensor, off: bool, k: int = 2) -> Tensor:
    """The published formulas, one state at a time."""
    rows = []
    for state in x.reshape(-1, x.shape[-1]):
        centred = state - w["b_dec"] if off else state
        if architecture == "gated":
            is_open = centred @ w["W_enc"] + w["b_gate"] > 0
            size = torch.relu(centred @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
            rows.append(size * is_open)
            continue
        sums = centred @ w["W_enc"] + w["b_enc"]
        found = torch.relu(sums)
        if architecture == "jumprelu":
            found = found * (sums > w["threshold"])
        if architecture == "topk":
            found = found * torch.zeros_like(sums).scatter(0, sums.topk(k).indices, 1.0)
        rows.append(found)
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_activations_and_reconstructions_are_those_of_the_formulas(
    tmp_path: Path, architecture: str, off: bool, flat: bool
) -> None:
    w = planted.tensors(architecture, n=40)
    options: dict[str, Any] = {"apply_b_dec_to_input": off}
    if architecture == "topk":
        options |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}} if flat else {"k": 2}
    written = "standard" if flat and architecture == "topk" else architecture
    found = sk.load_autoencoder(planted.write(tmp_path / "a", w, written, flat=flat, **options))
    x = torch.randn(3, 5, planted.WIDTH, generator=torch.Generator().manual_seed(1))
    wanted = reference(w, architecture, x, off)
    assert (wanted > 0).any()
    assert (wanted == 0).any()
    torch.testing.assert_close(found.encode(x), wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.decode(wanted), wanted @ w["W_dec"] + w["b_dec"])
    assert found.place == Place(planted.LAYER)
    assert (found.n_features, found.width, found.trained_on) == (40, planted.WIDTH, "planted")


def test_half_precision_weights_are_read_as_they_are(tmp_path: Path) -> None:
    w = {name: tensor.half() for name, tensor in planted.tensors().items()}
    found = sk.load_autoencoder(planted.write(tmp_path, w, dtype="float16"))
    torch.testing.assert_close(found.decoder, w["W_dec"].float(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("blocks.0.hook_resid_pre", Place(0, "resid_pre")),
        ("blocks.3.hook_mlp_out", Place(3, "mlp_out")),
        ("blocks.1.hook_attn_out", Place(1, "attn_out")),
    ],
)
def test_a_hook_of_transformer_lens_is_a_place(tmp_path: Path, hook: str, place: Place) -> None:
    folder = planted.write(tmp_path, planted.tensors(), metadata={"hook_name": hook})
    assert sk.load_autoencoder(folder).place == place


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_a_feature_is_its_decoder_row_and_reads_its_activation(
    tmp_path: Path, lm: sk.LanguageModel, architecture: str
) -> None:
    w = planted.tensors(architecture)
    autoencoder = sk.load_autoencoder(planted.write(tmp_path / "made", w, architecture))
    states = torch.stack([planted.directions()[20], *(embedding(lm, letter) for letter in "ABCD")])
    activations = autoencoder.encode(states)
    for index in range(autoencoder.n_features):
        feature = autoencoder.feature(index, lm)
        assert torch.equal(feature.direction[planted.LAYER], w["W_dec"][index])
        assert not feature.direction[[0, 1, 3]].any()
        assert (feature.name, feature.metadata.fingerprint) == (f"made/{index}", lm.fingerprint)
        assert feature.probe is not None
        reader = sk.FeatureReader(feature.probe)
        weight, bias = reader.linear
        torch.testing.assert_close(
            reader.finish(states @ weight + bias), activations[:, index], atol=1e-5, rtol=1e-5
        )


def test_a_feature_survives_its_file_and_its_reader_its_spec_and_json(
    tmp_path: Path, lm: sk.LanguageModel
) -> None:
    folder = planted.write(tmp_path / "made", planted.tensors("jumprelu"), "jumprelu")
    feature = sk.load_autoencoder(folder).feature(3, lm, "curious")
    loaded = sk.load_vector(feature.save(tmp_path / "curious.safetensors"))
    assert feature.probe is not None
    assert loaded.probe is not None
    reader = sk.FeatureReader(loaded.probe)
    assert reader == sk.FeatureReader(feature.probe)
    assert reader.active_above == pytest.approx(float(planted.tensors("jumprelu")["threshold"][3]))
    assert str(reader) == "curious@as=feature"
    assert parse_reader(str(reader), Store([loaded])) == reader
    assert reader_from_json(reader.to_json(), Store([loaded.probe], files=False)) == reader


def test_features_that_differ_in_their_threshold_alone_are_two(tmp_path: Path, lm: sk.LanguageModel) -> None:
    w = planted.tensors("jumprelu")
    first = sk.load_autoencoder(planted.write(tmp_path / "a", w, "jumprelu")).feature(0, lm).probe
    w["threshold"] = w["threshold"] + 1
    second = sk.load_autoencoder(planted.write(tmp_path / "b", w, "jumprelu")).feature(0, lm).probe
    assert first is not None
    assert second is not None
    assert torch.equal(first.weight, second.weight)
    assert first.digest != second.digest
    assert sk.FeatureReader(first) != sk.FeatureReader(second)


def test_activations_are_read_of_every_token(tmp_path: Path, lm: sk.LanguageModel) -> None:
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.reading_the_planted()))
    readers = [sk.FeatureReader(autoencoder.feature(i, lm).probe) for i in (0, 1, 2)]  # type: ignore[arg-type]
    (found,) = sk.generate(lm, ["xADx"], read=readers, decoding=sk.Decoding(3))
    tokens = lm.renderer.encode_prompt("xADx")
    for i, reading in enumerate(found.readings):
        wanted = [max(0.0, amount(lm, token, i) - 0.25) for token in tokens]
        assert reading.prompt == pytest.approx(wanted, abs=1e-5)
        assert max(wanted) > 2 or i == 1


def amount(lm: sk.LanguageModel, token: int, index: int) -> float:
    """How much of a planted direction a token's state holds."""
    return float(lm.hf.get_input_embeddings().weight[token].detach() @ planted.directions()[index])


def embedding(lm: sk.LanguageModel, letter: str) -> Tensor:
    """The state of a letter."""
    (token,) = lm.renderer.encode(letter)
    return lm.hf.get_input_embeddings().weight[token].detach()


def test_what_a_top_k_feature_does_depends_on_the_others_so_it_brings_no_reader(
    tmp_path: Path, lm: sk.LanguageModel
) -> None:
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.tensors(), "topk", k=2))
    feature = autoencoder.feature(1, lm)
    assert feature.probe is None
    with pytest.raises(MisuseError, match="brings no encoder"):
        sk.clamp_feature(feature, 1.0)


def test_a_probe_that_is_no_feature_has_no_activation(tmp_path: Path, lm: sk.LanguageModel) -> None:
    probe = sk.fit_probe(lm, sk.load_suite("abstention").split("fit").limit(24))
    with pytest.raises(MisuseError, match="is no feature of an autoencoder"):
        sk.FeatureReader(probe)
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.tensors()))
    feature = autoencoder.feature(0, lm).probe
    assert feature is not None
    with pytest.raises(MisuseError, match="is read there alone"):
        sk.FeatureReader(feature, 1)


@pytest.mark.parametrize("index", [-1, 6, 10**9, True, 1.5])
def test_an_index_that_there_is_not_is_refused(tmp_path: Path, lm: sk.LanguageModel, index: Any) -> None:
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.tensors()))
    with pytest.raises(MisuseError):
        autoencoder.feature(index, lm)


def test_another_model_is_refused(tmp_path: Path) -> None:
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.tensors()))
    for other in (tiny_model(width=48), tiny_model(layers=2)):
        with pytest.raises(ModelMismatchError, match="planted"):
            autoencoder.feature(0, other)


def test_a_decoder_row_of_zeros_is_no_vector(tmp_path: Path, lm: sk.LanguageModel) -> None:
    w = planted.tensors()
    w["W_dec"][2] = 0
    with pytest.raises(MisuseError, match="feature 2"):
        sk.load_autoencoder(planted.write(tmp_path, w)).feature(2, lm)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "temporal"}, "'temporal'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations 'layer_norm'"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations"),
        ({"reshape_activations": "hook_z"}, "reshape_activations"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"activation_fn": "tanh-relu"}, "'tanh-relu'"),
        ({"metadata": {"hook_name": "blocks.2.attn.hook_z"}}, "hook_z"),
        ({"metadata": {}}, "no place"),
        ({"metadata": None}, "no place"),
        ({"d_sae": 7}, "has shape"),
        ({"d_in": 31}, "has shape"),
        ({"d_in": None}, "d_in"),
        ({"d_sae": "many"}, "d_sae"),
        ({"architecture": "topk", "k": 0}, "k"),
        ({"architecture": "topk", "k": 7}, "k is 7"),
        ({"architecture": "topk"}, "k"),
        ({"architecture": "jumprelu"}, "no threshold"),
        ({"architecture": "gated"}, "r_mag"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    folder = planted.write(tmp_path, planted.tensors(), **options)
    with pytest.raises(InputError, match=said) as error:
        sk.load_autoencoder(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_folder_is_one_line_of_error(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no autoencoder"):
        sk.load_autoencoder(tmp_path)
    with pytest.raises(MisuseError, match="no autoencoder 'nowhere'"):
        sk.load_autoencoder("nowhere")
    folder = planted.write(tmp_path / "a", planted.tensors())
    weights = folder / "sae_weights.safetensors"
    kept = weights.read_bytes()
    for damaged in (b"", kept[:-9], b"\x80\x04\x95cposix\nsystem\n."):
        weights.write_bytes(damaged)
        with pytest.raises(InputError) as error:
            sk.load_autoencoder(folder)
        assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(InputError, match=r"has no sae_weights\.safetensors"):
        sk.load_autoencoder(folder)
    for text in ("{", "[1]", '"cfg"', "[" * 100_000, "\x00"):
        (folder / "cfg.json").write_text(text)
        with pytest.raises(InputError) as error:
            sk.load_autoencoder(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_a_missing_or_infinite_tensor_is_named(tmp_path: Path, name: str) -> None:
    w = planted.tensors()
    w[name] = w[name].clone()
    w[name].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=f"{name} holds what is no finite number"):
        sk.load_autoencoder(planted.write(tmp_path / "nan", w))
    if name != "W_dec":
        del w[name]
        with pytest.raises(InputError, match=f"has no {name}"):
            sk.load_autoencoder(planted.write(tmp_path / "missing", w))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    architecture=st.sampled_from(["standard", "jumprelu", "gated"]),
    scale=st.floats(0.1, 30),
)
def test_single_features_read_what_the_whole_encoder_gives(
    tmp_path_factory: pytest.TempPathFactory, lm: sk.LanguageModel, seed: int, architecture: str, scale: float
) -> None:
    folder = planted.write(
        tmp_path_factory.mktemp("drawn"), planted.tensors(architecture, seed=seed), architecture
    )
    autoencoder = sk.load_autoencoder(folder)
    x = scale * torch.randn(7, planted.WIDTH, generator=torch.Generator().manual_seed(seed))
    whole = autoencoder.encode(x)
    for index in range(autoencoder.n_features):
        probe = autoencoder.feature(index, lm).probe
        assert probe is not None
        reader = sk.FeatureReader(probe)
        weight, bias = reader.linear
        torch.testing.assert_close(
            reader.finish(x @ weight + bias), whole[:, index], atol=1e-4 * scale, rtol=1e-4
        )
