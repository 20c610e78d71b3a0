"""A model that changes behind our back: one line at the next use, wherever that is.

C36 is a failing input as it came; the others are further ones of its kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import steerkit as sk
from steerkit.calibration.calibrate import calibrate
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.capture import capture
from steerkit.extraction.learned import learn
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, LabelledPrompt, LabelledPrompts
from steerkit.extraction.probe_fit import fit_probe
from steerkit.models import LanguageModel
from tests.tiny import byte_tokenizer, random_vector, tiny_hf

PAIRS = ContrastPairs("p", tuple(ContrastPair(f"{i}", "x" * i + " q", "a b", "a c") for i in range(1, 6)))
PROMPTS = LabelledPrompts(
    "q", tuple(LabelledPrompt(f"{i}", f"Is it {i} or {'a' * i}?", i % 2 == 0) for i in range(12))
)


def dropping() -> LanguageModel:
    """GPT-2 with dropout, as `C36 train-mode` has it."""
    torch.manual_seed(0)
    drop = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}
    config = GPT2Config(vocab_size=261, n_embd=32, n_layer=2, n_head=2, n_positions=128, **drop)
    hf: Any = GPT2LMHeadModel(config).eval()
    return sk.load_model(hf, byte_tokenizer())


def tiny() -> LanguageModel:
    return sk.load_model(tiny_hf(), byte_tokenizer())


def generated(lm: LanguageModel, engine: TransformersEngine | None = None) -> list[str]:
    asked = Request("Why?", decoding=Decoding(2))
    return [completion.text for completion in (engine or TransformersEngine(lm)).generate([asked])]


def steered(lm: LanguageModel) -> None:
    with sk.steer(lm, random_vector(lm).at(1)):
        lm.hf(input_ids=torch.tensor([[5, 6]]))


USES: dict[str, Callable[[LanguageModel], object]] = {
    "extract": lambda lm: sk.extract(lm, PAIRS),
    "capture": lambda lm: capture(lm, [lm.renderer.encode_pair("a", "b")]),
    "probe": lambda lm: fit_probe(lm, PROMPTS),
    "calibrate": lambda lm: calibrate(lm, random_vector(lm).at(1), kl=0.1, prompts=["Why?"], tokens=2),
    "learn": lambda lm: learn(lm, PAIRS, 1, steps=1),
    "generate": generated,
    "score": lambda lm: TransformersEngine(lm).score([ScoreRequest("Why?", "No")]),
    "steer": steered,
    "sweep": lambda lm: sk.sweep(lm, [], sk.Measurement("abstention", limit=1), out="/nowhere/run"),
}


@pytest.mark.parametrize("use", USES)
def test_c36_training_mode_is_refused_in(use: str) -> None:
    lm = dropping()
    lm.hf.train()
    with pytest.raises(MisuseError, match=r"is in training mode, .* call \.eval\(\)"):
        USES[use](lm)


def test_c36_a_model_back_in_evaluation_mode_gives_the_vector_that_it_gave() -> None:
    lm = dropping()
    right = sk.extract(lm, PAIRS).direction
    lm.hf.train()
    lm.hf.eval()
    assert torch.equal(sk.extract(lm, PAIRS).direction, right)


@pytest.mark.parametrize(
    "part", ["transformer", "transformer.h.1", "transformer.h.0.attn", "transformer.drop", "lm_head"]
)
def test_one_module_in_training_mode_is_refused(part: str) -> None:
    lm = dropping()
    lm.hf.get_submodule(part).train()
    for use in ("extract", "generate", "steer"):
        with pytest.raises(MisuseError, match="is in training mode"):
            USES[use](lm)


def test_one_module_in_training_mode_is_refused_on_loading() -> None:
    lm = dropping()
    lm.hf.transformer.h[1].train()
    with pytest.raises(MisuseError, match="is in training mode"):
        sk.load_model(lm.hf, lm.tokenizer)


def optimizer_step(lm: LanguageModel) -> None:
    optimizer = torch.optim.SGD(lm.hf.parameters(), lr=1e-3)
    lm.hf(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    optimizer.step()


def in_place(lm: LanguageModel) -> None:
    with torch.no_grad():
        lm.hf.model.layers[1].mlp.up_proj.weight[3, 5] += 1.0


def past_the_counter(lm: LanguageModel) -> None:
    lm.hf.model.layers[1].mlp.up_proj.weight.data.mul_(1.0001)


def other_parameter(lm: LanguageModel) -> None:
    up = lm.hf.model.layers[1].mlp.up_proj
    up.weight = torch.nn.Parameter(torch.zeros_like(up.weight))


def other_weights(lm: LanguageModel) -> None:
    lm.hf.load_state_dict(tiny_hf(seed=1).state_dict())


def resized(lm: LanguageModel) -> None:
    lm.hf.resize_token_embeddings(300)


def without_a_module(lm: LanguageModel) -> None:
    lm.hf.model.layers[1].mlp.up_proj = torch.nn.Identity()


def quantised(lm: LanguageModel) -> None:
    up = lm.hf.model.layers[1].mlp.up_proj
    up.weight = torch.nn.Parameter((up.weight * 100).to(torch.int8), requires_grad=False)


def one_token_more(lm: LanguageModel) -> None:
    lm.tokenizer.add_tokens(["<new>"])


def to_meta(lm: LanguageModel) -> None:
    lm.hf.to("meta")


CHANGES: dict[str, tuple[Callable[[LanguageModel], None], str]] = {
    "an optimizer step": (optimizer_step, "(was written to|holds other values)"),
    "one value in place": (in_place, r"up_proj.weight (was written to|holds other values)"),
    "values past the counter": (past_the_counter, "up_proj.weight holds other values"),
    "another parameter": (other_parameter, "up_proj.weight holds other values"),
    "other weights": (other_weights, "holds other values"),
    "embeddings resized": (resized, r"had the shape \[261, 32\], and has \[300, 32\]"),
    "a module taken out": (without_a_module, "up_proj.weight is gone"),
    "weights quantised": (
        quantised,
        "up_proj.weight was a Parameter of torch.float32, and is a .* of torch.int8",
    ),
    "a token more": (one_token_more, "its tokenizer had 261 tokens, and has 262"),
    "moved to nowhere": (to_meta, "on meta"),
}


@pytest.mark.parametrize("use", ["extract", "generate", "score", "steer", "probe", "learn", "calibrate"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_one_line_in(change: str, use: str) -> None:
    lm = tiny()
    do, words = CHANGES[change]
    do(lm)
    said = f"is not the model that was loaded: .*{words}.*; load it again, as sk.load_model"
    with pytest.raises(MisuseError, match=said) as no:
        USES[use](lm)
    assert "\n" not in str(no.value)


def test_an_engine_that_was_made_before_the_change_says_it_too() -> None:
    lm = tiny()
    engine = TransformersEngine(lm)
    assert generated(lm, engine)
    in_place(lm)
    with pytest.raises(MisuseError, match="is not the model that was loaded"):
        generated(lm, engine)


@pytest.mark.parametrize(
    "change", ["an optimizer step", "one value in place", "other weights", "embeddings resized"]
)
def test_a_changed_model_loaded_again_is_used(change: str) -> None:
    lm = tiny()
    CHANGES[change][0](lm)
    again = sk.load_model(lm.hf, lm.tokenizer)
    assert sk.extract(again, PAIRS).metadata.fingerprint == again.fingerprint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_number_format_is_warned_of_once(dtype: torch.dtype) -> None:
    lm = tiny()
    lm.hf.to(dtype)
    with pytest.warns(
        UserWarning, match=f"was loaded in float32 and is in {str(dtype).removeprefix('torch.')} now"
    ):
        sk.extract(lm, PAIRS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sk.extract(lm, PAIRS)


def harmless() -> Iterator[tuple[str, Callable[[LanguageModel], object]]]:
    yield "nothing", lambda _lm: None
    yield "the same device", lambda lm: lm.hf.to("cpu")
    yield "the same format", lambda lm: lm.hf.float()
    yield "gradients off", lambda lm: lm.hf.requires_grad_(False)
    yield "evaluation mode again", lambda lm: lm.hf.eval()
    yield "ties tied again", lambda lm: lm.hf.tie_weights()
    yield "gradients of a pass", lambda lm: lm.hf(input_ids=torch.tensor([[5]])).logits.sum().backward()
    yield (
        "weights copied elsewhere",
        lambda lm: setattr(lm.hf.lm_head.weight, "data", lm.hf.lm_head.weight.data.clone()),
    )
    yield "another generation config", lambda lm: setattr(lm.hf.generation_config, "temperature", 0.5)


@pytest.mark.parametrize(("name", "do"), list(harmless()), ids=[name for name, _ in harmless()])
def test_what_changes_nothing_is_not_said(name: str, do: Callable[[LanguageModel], object]) -> None:
    del name
    lm = tiny()
    before = sk.extract(lm, PAIRS).direction
    do(lm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(sk.extract(lm, PAIRS).direction, before)
        assert generated(lm)


def test_every_use_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    lm = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("extract", "generate", "score", "steer", "calibrate", "learn", "generate"):
            USES[name](lm)
        sk.extract(lm, PAIRS).save(tmp_path / "v.safetensors")


# Adapters of peft's.


def adapted() -> tuple[Any, LanguageModel]:
    """A peft model with the adapters a, which is active, and b; and how it is loaded."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], lora_dropout=0.2, init_lora_weights=False
    )
    held = peft.get_peft_model(tiny_hf(), config, adapter_name="a")
    held.add_adapter("b", config)
    held.set_adapter("a")
    held.eval()
    return held, sk.load_model(held, byte_tokenizer())


ADAPTERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "switched": (lambda held: held.set_adapter("b"), r"its adapters were a \S+ \S+, and are b"),
    "switched off": (lambda held: held.base_model.disable_adapter_layers(), "switched off"),
    "merged": (lambda held: held.merge_adapter(), "merged: a"),
    "merged and taken out": (lambda held: held.merge_and_unload(), "its adapters were a .* and are none"),
    "deleted": (lambda held: held.delete_adapter("a"), "its adapters were a"),
    "weighed otherwise": (
        lambda held: [
            m.set_scale("a", 3.0) for m in held.modules() if hasattr(m, "lora_A") and hasattr(m, "set_scale")
        ],
        "its adapters were a",
    ),
}


@pytest.mark.parametrize("change", ADAPTERS)
def test_adapters_changed_are_one_line(change: str) -> None:
    held, lm = adapted()
    before = sk.extract(lm, PAIRS)
    do, words = ADAPTERS[change]
    do(held)
    held.eval()
    for use in ("extract", "generate", "steer"):
        with pytest.raises(MisuseError, match=f"is not the model that was loaded: .*{words}"):
            USES[use](lm)
    assert not torch.equal(sk.extract(sk.load_model(lm.hf, lm.tokenizer), PAIRS).direction, before.direction)


def test_an_adapter_that_drops_out_is_refused() -> None:
    held, lm = adapted()
    held.train()
    with pytest.raises(MisuseError, match="is in training mode"):
        sk.extract(lm, PAIRS)
    held.eval()
    next(module for module in held.modules() if isinstance(module, torch.nn.Dropout)).train()
    with pytest.raises(MisuseError, match=r"is in training mode \(its Dropout\)"):
        sk.extract(lm, PAIRS)


def test_an_adapter_put_on_after_loading_is_one_line() -> None:
    peft = pytest.importorskip("peft")
    lm = tiny()
    peft.get_peft_model(
        lm.hf, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    with pytest.raises(MisuseError, match="its adapters were none, and are default"):
        sk.extract(lm, PAIRS)
