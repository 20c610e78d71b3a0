"""Sites: TransformerLens' names on the bare model, whatever its blocks return, checked by a nudge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.doctor import diagnose
from steerkit.models import LanguageModel
from steerkit.models.sites import Given, hidden_of, on_blocks, with_hidden
from tests.tiny import byte_tokenizer, tiny_hf, tiny_model

RESIDUAL_NAMES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
VOCABULARY = 261
SMALL = {
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "openai-gpt": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "gpt_neox": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
}


@contextmanager
def reading(lm: LanguageModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What stands at each named site during a forward pass inside the block."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name in names:
        site = lm.site(name)

        def read_output(_m: nn.Module, _a: Any, output: Any, name: str = name) -> None:
            seen[name] = hidden_of(output)

        def read_input(_m: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            seen[name] = args[0] if args else kwargs["hidden_states"]

        if site.side == "out":
            handles.append(site.module.register_forward_hook(read_output))
        else:
            handles.append(site.module.register_forward_pre_hook(read_input, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def test_hooks_on_the_bare_model_read_what_the_bridge_caches(smollm: LanguageModel) -> None:
    names = [f"blocks.{layer}.{name}" for layer in (0, 13, 29) for name in RESIDUAL_NAMES]
    ids = torch.tensor([smollm.renderer.encode_prompt("Who wrote Middlemarch?")])
    with torch.inference_mode():
        _, cache = smollm.bridge.run_with_cache(ids, names_filter=names)
        with reading(smollm, names) as seen:
            smollm.decoder(input_ids=ids, use_cache=False)
    for name in names:
        assert torch.allclose(seen[name], cache[name], rtol=1e-4, atol=1e-3), name


@pytest.mark.parametrize(
    "name",
    [
        *(f"blocks.{layer}.{name}" for layer in (0, 3) for name in RESIDUAL_NAMES),
        "blocks.1.hook_in",
        "blocks.1.hook_out",
        "blocks.1.attn.hook_out",
        "blocks.1.attn.q.hook_out",
        "blocks.1.attn.hook_z",
        "blocks.1.mlp.hook_post",
        "embed.hook_out",
        "ln_final.hook_out",
        "unembed.hook_in",
    ],
)
def test_a_hook_name_finds_its_module(tiny: LanguageModel, name: str) -> None:
    ids = torch.tensor([tiny.renderer.encode_prompt("Why?")])
    with torch.inference_mode(), reading(tiny, [name]) as seen:
        tiny.hf(input_ids=ids)
    assert seen[name].shape[:2] == ids.shape


def test_the_residual_stream_of_one_block_is_the_input_of_the_next(tiny: LanguageModel) -> None:
    after, before = tiny.site("blocks.1.hook_resid_post"), tiny.site("blocks.2.hook_resid_pre")
    assert (after.module, after.side) == (tiny.blocks[1], "out")
    assert (before.module, before.side) == (tiny.blocks[2], "in")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "blocks",
        "blocks.1",
        "blocks.4.hook_out",
        "blocks.-1.hook_out",
        "blocks.x.hook_out",
        "blocks.1.attn.hook_pattern",
        "blocks.1.hook_nothing",
        "nowhere.hook_out",
    ],
)
def test_a_name_without_a_tensor_is_a_misuse(tiny: LanguageModel, name: str) -> None:
    with pytest.raises(MisuseError, match=r"names no tensor|has blocks 0 to 3"):
        tiny.site(name)


@pytest.mark.parametrize("form", [lambda h: h, lambda h: (h, "weights"), lambda h: [h, "weights"]])
def test_what_a_block_returns_keeps_its_form(form: Any) -> None:
    old, new = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    output = form(old)
    changed = with_hidden(output, new)
    assert hidden_of(output) is old
    assert hidden_of(changed) is new
    assert type(changed) is type(output)
    assert changed is new or changed[1] == "weights"


@pytest.mark.parametrize("architecture", SMALL)
def test_steering_arrives_in_blocks_of_every_form(architecture: str) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, vocab_size=VOCABULARY, **SMALL[architecture])
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    lm = LanguageModel(hf, byte_tokenizer(), architecture)
    assert len(lm.blocks) == 3
    assert diagnose(lm).healthy


def test_a_model_that_skips_a_block_is_refused() -> None:
    hf = tiny_hf()
    hf.config.num_hidden_layers = 3  # the decoder walks its first three blocks only
    with pytest.raises(SteerkitError, match="cannot be steered safely"):
        LanguageModel(hf, byte_tokenizer(), "skips")


def test_a_model_in_which_a_nudge_is_lost_is_refused() -> None:
    class Forgetful(nn.Module):
        def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
            return torch.zeros_like(hidden_states)

    hf = tiny_hf()
    hf.model.layers[3] = Forgetful()
    with pytest.raises(SteerkitError, match="cannot be steered safely"):
        LanguageModel(hf, byte_tokenizer(), "forgets")


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(MisuseError, match=r"call \.eval\(\)"):
        LanguageModel(tiny_hf().train(), byte_tokenizer(), "trains")


def test_an_architecture_without_an_adapter_is_found_by_its_structure() -> None:
    hf = tiny_hf()
    hf.config.architectures = ["SomethingNew"]
    hf.config.model_type = "something-new"
    assert LanguageModel(hf, byte_tokenizer(), "unknown").blocks == tuple(hf.model.layers)


def test_checking_a_model_leaves_no_hook_behind() -> None:
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in tiny_model().hf.modules())


def test_hooks_on_blocks_read_edit_and_count(tiny: LanguageModel) -> None:
    ids = torch.tensor([tiny.renderer.encode_prompt("Why?")])
    seen: dict[int, Tensor] = {}
    acts: dict[int, Any] = {
        1: lambda hidden: hidden + 1,
        2: lambda hidden: seen.update({2: hidden.clone()}),
    }
    with torch.inference_mode():
        with on_blocks(tiny.blocks, {2: lambda hidden: seen.update({0: hidden.clone()})}):
            tiny.decoder(input_ids=ids, use_cache=False)
        with on_blocks(tiny.blocks, acts) as ran:
            tiny.decoder(input_ids=ids, use_cache=False)
    assert ran == {1: 1, 2: 1}
    assert not torch.equal(seen[0], seen[2])


def test_hooks_on_blocks_change_what_a_block_is_given(tiny: LanguageModel) -> None:
    ids = torch.tensor([tiny.renderer.encode_prompt("Why?")])
    seen: list[Tensor] = []

    def doubled(given: Given) -> Given:
        args, kwargs = given
        return (2 * args[0], *args[1:]), kwargs

    for inputs in ({}, {1: doubled}):
        with torch.inference_mode(), on_blocks(tiny.blocks, {1: seen.append}, inputs):
            tiny.decoder(input_ids=ids, use_cache=False)
    assert not torch.equal(*seen)


def test_hooks_on_blocks_come_off_after_an_exception() -> None:
    lm = tiny_model()
    with (
        pytest.raises(ZeroDivisionError),
        on_blocks(lm.blocks, {0: lambda _: 1 / 0}, {1: lambda given: given}),
    ):
        lm.decoder(input_ids=torch.tensor([[1, 70]]), use_cache=False)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.hf.modules())
