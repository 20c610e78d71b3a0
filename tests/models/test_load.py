"""Loading: no request where none is needed, and a model that the user holds stays as it is."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from steerkit import steer
from steerkit.core.errors import InputError, MisuseError
from steerkit.models import LanguageModel, load_model
from tests.tiny import byte_tokenizer, random_vector, tiny_hf
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to reach a network, each of which fails; the offline switches are off."""
    tried: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.mark.parametrize("kind", ["bundled", "folder", "gguf"])
def test_what_is_local_is_loaded_without_a_request(
    requests: list[object],
    kind: str,
    smollm: LanguageModel,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "gguf":
        monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path))
        load_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    else:
        load_model(smollm.name if kind == "bundled" else tiny_folder)
    assert requests == []


def test_a_hub_id_does_try_the_network_and_says_so_when_it_fails(
    requests: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client waits between its tries
    with pytest.raises(MisuseError, match="check the spelling and the network"):
        load_model("nobody/nothing-at-all")
    assert requests


def state(hf: Any) -> dict[str, Any]:
    """All of a model that steering could leave a mark on."""
    return {
        "weights": {name: (weight.data_ptr(), weight.clone()) for name, weight in hf.state_dict().items()},
        "config": hf.config.to_dict(),
        "generation": hf.generation_config.to_dict(),
        "attributes": set(vars(hf)),
        "modules": [(name, type(module), id(module)) for name, module in hf.named_modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in hf.modules()
        ],
        "methods": (hf.generate.__func__, hf.forward.__func__, hf.prepare_inputs_for_generation.__func__),
        "gradients": [p.requires_grad for p in hf.parameters()],
        "training": hf.training,
    }


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, (place, weight) in before.pop("weights").items():
        assert after["weights"][name][0] == place
        assert torch.equal(after["weights"][name][1], weight)
    assert {name: after[name] for name in before} == before


def test_a_model_that_the_user_holds_is_never_changed() -> None:
    hf, tokenizer = tiny_hf(), byte_tokenizer()
    hf.config.name_or_path = "mine"
    before = state(hf)
    lm = load_model(hf, tokenizer)
    ids = torch.tensor([lm.renderer.encode_prompt("Why?")])
    with steer(lm, random_vector(lm).at(layer=[1, 2], scope="all")):
        hf.generate(ids, max_new_tokens=3, do_sample=False)
    with pytest.raises(RuntimeError), steer(lm, random_vector(lm).at(layer=1)):
        raise RuntimeError
    assert lm.hf is hf
    assert lm.tokenizer is tokenizer
    assert lm.name == "mine"
    assert_unchanged(before, state(hf))


def test_the_bridge_leaves_the_users_model_alone_and_shares_its_memory(tmp_path: Path) -> None:
    lm = load_model(tiny_hf(), byte_tokenizer())
    before = state(lm.hf)
    bridge = lm.bridge
    assert_unchanged(before, state(lm.hf))
    assert {p.data_ptr() for p in bridge.original_model.parameters()} == {
        p.data_ptr() for p in lm.hf.parameters()
    }
    assert bridge.original_model is not lm.hf
    lm.hf.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path).fingerprint == lm.fingerprint


def test_the_bridge_computes_what_the_model_computes() -> None:
    lm = load_model(tiny_hf(), byte_tokenizer())
    ids = torch.tensor([lm.renderer.encode_prompt("Why?")])
    with torch.inference_mode():
        assert torch.allclose(lm.bridge(ids), lm.hf(ids).logits, atol=1e-4)


def test_a_model_object_needs_its_tokenizer() -> None:
    with pytest.raises(MisuseError, match="needs its tokenizer"):
        load_model(tiny_hf())
    with pytest.raises(MisuseError, match="a name, a path or a transformers"):
        load_model(42)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_number_format_is_the_one_asked_for(tiny_folder: Path, dtype: str) -> None:
    assert load_model(tiny_folder, dtype=dtype).dtype == getattr(torch, dtype)


def test_the_default_on_a_cpu_is_float32(tiny_folder: Path) -> None:
    assert load_model(tiny_folder, device="cpu").dtype == torch.float32


def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_with_noise(tmp_path: Path) -> None:
    hf = tiny_hf()
    hf.config.num_hidden_layers = 5
    hf.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of its weights, such as"):
        load_model(tmp_path)


def wrapper(kind: str, text: Any) -> Any:
    """A small vision-language model around a text decoder, with random weights."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, image_token_id=260)
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "gemma3"])
def test_the_text_decoder_inside_a_vision_model_loads_by_folder_and_by_object(
    kind: str, tmp_path: Path
) -> None:
    text = {"vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "layer_types": None}
    if kind == "llava":
        text["model_type"] = "llama"
    if kind == "qwen2_5_vl":
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    model = wrapper(kind, text)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    held, named = load_model(model, byte_tokenizer()), load_model(str(tmp_path))
    ids = torch.tensor([held.renderer.encode_prompt("What is it?")])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        assert torch.equal(held.hf(input_ids=ids).logits, expected)
        assert torch.allclose(named.hf(input_ids=ids).logits, expected, atol=1e-5)
    assert held.n_layers == named.n_layers == 3
