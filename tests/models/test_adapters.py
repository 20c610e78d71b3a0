"""Adapters: the merge is the sum that it says, as peft has it; whatever else an adapter may hold is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError, SteerkitError
from steerkit.models import LanguageModel, adapters, load_model
from steerkit.models.adapters import AdapterNote, read_adapter
from steerkit.models.fingerprint import weights_digest
from tests.conftest import save_model
from tests.tiny import byte_tokenizer, tiny_hf, tiny_model

RANK, ALPHA = 3, 6.0
PROJECTIONS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
MODULES = [f"model.layers.{layer}.{name}" for layer in (0, 2) for name in PROJECTIONS]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]<think>\n"


def key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def random_factors(hf: Any, rank: int = RANK, modules: list[str] = MODULES) -> dict[str, Tensor]:
    """A and B of each module, large enough to show in bfloat16."""
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for module in modules:
        rows, columns = hf.get_submodule(module).weight.shape
        tensors[key(module, "A")] = 0.2 * torch.randn(rank, columns, generator=draw)
        tensors[key(module, "B")] = 0.2 * torch.randn(rows, rank, generator=draw)
    return tensors


def write(
    folder: Path,
    base: str | Path,
    tensors: dict[str, Tensor],
    note: AdapterNote | None = None,
    **options: object,
) -> Path:
    """An adapter's folder as peft writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": ALPHA}
    config |= {
        "target_modules": MODULES,
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "megatron_core": "megatron.core",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | options))
    header = {"format": "pt"} | ({"steerkit": note.model_dump_json()} if note else {})
    save_file(tensors, folder / "adapter_model.safetensors", metadata=header)
    return folder


@pytest.fixture
def adapter(tiny_folder: Path, tiny: LanguageModel, tmp_path: Path) -> Path:
    return write(tmp_path / "mine", tiny_folder, random_factors(tiny.hf))


def expected(
    tiny: LanguageModel, tensors: dict[str, Tensor], scale: float = ALPHA / RANK
) -> dict[str, Tensor]:
    """The merged weights by module, in double precision."""
    return {
        module: tiny.hf.get_submodule(module).weight.double()
        + scale * tensors[key(module, "B")].double() @ tensors[key(module, "A")].double()
        for module in MODULES
    }


@pytest.mark.parametrize(
    "options", [{}, {"lora_alpha": 16}, {"use_rslora": True}], ids=["plain", "alpha", "rslora"]
)
def test_a_merged_weight_is_the_sum_and_the_others_stay(
    tiny_folder: Path, tiny: LanguageModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    tensors = random_factors(tiny.hf)
    lm = load_model(write(tmp_path / "mine", tiny_folder, tensors, **options))
    scale = options.get("lora_alpha", ALPHA) / (RANK**0.5 if "use_rslora" in options else RANK)
    wanted = expected(tiny, tensors, scale)
    for name, weight in lm.hf.named_parameters():
        module = name.removesuffix(".weight")
        plain = tiny.hf.get_parameter(name)
        assert torch.equal(weight, wanted[module].float() if module in wanted else plain), name


def test_ranks_and_alphas_may_differ_by_module(
    tiny_folder: Path, tiny: LanguageModel, tmp_path: Path
) -> None:
    module = "model.layers.2.mlp.down_proj"
    tensors = random_factors(tiny.hf) | random_factors(tiny.hf, 5, [module])
    options = {
        "rank_pattern": {"layers.2.mlp.down_proj": 5},
        "alpha_pattern": {"down_proj": 20.0, "layers.2": 1.0},
    }
    lm = load_model(write(tmp_path / "mine", tiny_folder, tensors, **options))
    change = 20.0 / 5 * tensors[key(module, "B")].double() @ tensors[key(module, "A")].double()
    plain = tiny.hf.get_submodule(module).weight.double()
    assert torch.equal(lm.hf.get_submodule(module).weight, (plain + change).float())
    assert torch.equal(lm.hf.get_submodule(MODULES[0]).weight, expected(tiny, tensors)[MODULES[0]].float())


def test_the_sum_is_rounded_once_to_the_format_that_is_asked_for(
    adapter: Path, tiny: LanguageModel, tiny_folder: Path
) -> None:
    full, half = load_model(adapter), load_model(adapter, dtype="bfloat16")
    wanted = expected(tiny, load_file(adapter / "adapter_model.safetensors"))
    for module in MODULES:
        assert torch.equal(half.hf.get_submodule(module).weight, wanted[module].to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == full.fingerprint != load_model(tiny_folder).fingerprint


def test_a_change_of_nothing_changes_no_bit(tiny_folder: Path, tiny: LanguageModel, tmp_path: Path) -> None:
    tensors = {name: tensor * name.endswith("A.weight") for name, tensor in random_factors(tiny.hf).items()}
    assert load_model(write(tmp_path / "mine", tiny_folder, tensors)).fingerprint == tiny.fingerprint


def test_an_adapter_names_its_base_or_is_given_one(
    adapter: Path, tiny_folder: Path, tiny: LanguageModel
) -> None:
    by_itself, on_a_base = load_model(adapter), load_model(tiny_folder, adapter=adapter)
    assert by_itself.name == on_a_base.name == "mine"
    assert by_itself.fingerprint == on_a_base.fingerprint
    assert load_model(tiny_folder).fingerprint == tiny.fingerprint


def test_its_chat_template_takes_the_place_of_the_bases(adapter: Path, tiny: LanguageModel) -> None:
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    lm = load_model(adapter)
    opening, closing = map(lm.renderer.encode, (lm.markers.opening, lm.markers.closing))
    assert lm.renderer.encode_prompt("Why?")[-len(opening) :] == opening
    assert closing != opening
    assert lm.renderer.digest != tiny.renderer.digest


def test_a_published_one_loads_and_is_listed_by_its_name(
    adapter: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steerkit.cli.models import models

    note = AdapterNote(name="reasoner", base_digest=weights_digest(tiny.hf), summary="thinks", licence="CC0")
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    write(adapter, base, load_file(adapter / "adapter_model.safetensors"), note)
    monkeypatch.setattr(adapters, "published_adapters", lambda: {"reasoner": adapter})
    assert load_model("reasoner").name == "reasoner"
    assert load_model(base, adapter="reasoner").fingerprint == load_model("reasoner").fingerprint
    models(as_json=True)
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["reasoner"] == {
        "name": "reasoner", "summary": "thinks", "licence": "CC0", "hub_id": None, "base": base, "fetched": False
    }  # fmt: skip


def test_it_is_merged_into_no_other_weights_than_its_own_base(tmp_path: Path, tiny_folder: Path) -> None:
    other = tiny_hf(seed=1)
    note = AdapterNote(name="mine", base_digest=weights_digest(other))
    with pytest.raises(ModelMismatchError, match=r"was trained on the weights of .*tiny, not on these"):
        load_model(write(tmp_path / "mine", tiny_folder, random_factors(other), note))


def test_peft_merges_to_the_same_weights(adapter: Path, tiny: LanguageModel) -> None:
    peft = pytest.importorskip("peft")
    merged = peft.PeftModel.from_pretrained(tiny_hf(), adapter).merge_and_unload()
    ours = load_model(adapter).hf
    for (name, theirs), (same, weight) in zip(
        merged.named_parameters(), ours.named_parameters(), strict=True
    ):
        assert name == same
        assert torch.allclose(weight, theirs, rtol=0, atol=1e-6), name  # they sum in single precision
    ids = torch.tensor([tiny.renderer.encode_prompt("Why?")])
    with torch.inference_mode():
        assert torch.allclose(ours(ids).logits, merged(ids).logits, atol=1e-4)


def test_what_peft_saves_is_read(tmp_path: Path, tiny_folder: Path) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_hf(), peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload()
    for (_, theirs), weight in zip(
        merged.named_parameters(), load_model(tiny_folder, adapter=tmp_path).hf.parameters(), strict=True
    ):
        assert torch.allclose(weight, theirs, rtol=0, atol=1e-5)


def with_tensor(name: str, tensor: Tensor) -> Callable[[Path], None]:
    """Add or replace a tensor."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file(tensors | {name: tensor}, folder / "adapter_model.safetensors")

    return change


def without_tensor(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "adapter_model.safetensors")

    return change


def with_option(**options: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | options))

    return change


def with_file(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


FIRST = MODULES[0]
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "another width": (with_tensor(key(FIRST, "A"), torch.zeros(RANK, 31)), "expected"),
    "another rank": (with_tensor(key(FIRST, "A"), torch.zeros(1, 32)), "expected"),
    "a vector": (with_tensor(key(FIRST, "B"), torch.zeros(RANK)), "expected"),
    "NaN": (with_tensor(key(FIRST, "B"), torch.full((32, RANK), torch.nan)), "NaN or Inf"),
    "one factor": (without_tensor(key(FIRST, "A")), "only one of its two factors"),
    "an unknown module": (with_tensor(key("model.layers.9.mlp.up_proj", "A"), torch.zeros(RANK, 32)), "only one"),
    "a norm": (with_tensor(key("model.norm", "A"), torch.zeros(RANK, 32)), "only one"),
    "a trained head": (with_tensor("base_model.model.lm_head.weight", torch.zeros(261, 32)), "no factor of a linear"),
    "a magnitude": (
        with_tensor("base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector", torch.zeros(64)),
        "no factor of a linear",
    ),
    "DoRA": (with_option(use_dora=True), "option 'use_dora'"),
    "biases": (with_option(bias="all"), "option 'bias'"),
    "an option of the future": (with_option(use_quantum=True), "option 'use_quantum'"),
    "another method": (with_option(peft_type="IA3"), "a IA3 adapter, not LoRA"),
    "a start that changes the base": (with_option(init_lora_weights="pissa"), "changes the base's weights too"),
    "a pattern to hang on": (with_option(alpha_pattern={"(a+)+$": 1.0}), "no module's name"),
    "rank nothing": (with_option(r=0), "damaged at 'r'"),
    "a rank of nothing": (with_option(rank_pattern={"q_proj": 0}), "rank below 1"),
    "alpha without end": (with_option(lora_alpha=float("inf")), "damaged at 'lora_alpha'"),
    "no JSON": (with_file("adapter_config.json", b"{"), "damaged at"),
    "no base": (with_option(base_model_name_or_path=None), "names no base model"),
    "no tensors at all": (lambda f: save_file({}, f / "adapter_model.safetensors"), "holds no tensor"),
    "no safetensors": (with_file("adapter_model.safetensors", b"PK\x03\x04 pickled"), "no safetensors file"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "a template of bytes": (with_file("chat_template.jinja", b"\xff\xfe\x00"), "is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_foreign_adapter_is_refused_in_one_line(
    adapter: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(adapter)
    with pytest.raises(InputError, match=message) as caught:
        load_model(adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("model.layers.9.mlp.up_proj", "does not have"),
        ("model.norm", "no linear projection"),
        ("model", "no linear"),
    ],
)
def test_a_module_that_is_not_there_or_no_projection_is_named(
    tiny_folder: Path, tmp_path: Path, module: str, message: str
) -> None:
    tensors = {key(module, "A"): torch.zeros(RANK, 32), key(module, "B"): torch.zeros(64, RANK)}
    with pytest.raises(InputError, match=message):
        load_model(write(tmp_path / "mine", tiny_folder, tensors))


def test_a_shared_weight_is_not_changed_behind_the_others_back(tmp_path: Path) -> None:
    lm = tiny_model()
    lm.hf.config.tie_word_embeddings = True
    lm.hf.tie_weights()
    base = save_model(lm, tmp_path / "tied")
    tensors = {key("lm_head", "A"): torch.zeros(RANK, 32), key("lm_head", "B"): torch.zeros(261, RANK)}
    with pytest.raises(InputError, match="whose weight another module shares"):
        load_model(write(tmp_path / "mine", base, tensors))


def test_a_weight_that_is_stored_by_input_gets_the_change_transposed(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=261, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    hf = GPT2LMHeadModel(config).eval()
    base = tmp_path / "gpt2"
    hf.save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    module = "transformer.h.1.mlp.c_fc"
    down, up = torch.randn(RANK, 32), torch.randn(128, RANK)
    tensors = {key(module, "A"): down, key(module, "B"): up}
    lm = load_model(write(tmp_path / "mine", base, tensors, fan_in_fan_out=True))
    wanted = hf.get_submodule(module).weight.double() + (ALPHA / RANK * up.double() @ down.double()).T
    assert torch.equal(lm.hf.get_submodule(module).weight, wanted.float())


def misuses(adapter: Path, tiny_folder: Path, tmp_path: Path) -> Iterator[tuple[Callable[[], object], str]]:
    yield (
        lambda: load_model(tiny_hf(), byte_tokenizer(), adapter=adapter),
        "a model that you hold is never changed",
    )
    yield lambda: load_model(adapter, adapter=adapter), "is an adapter itself"
    yield lambda: load_model(tiny_folder, adapter=tmp_path), "has no adapter_config.json"
    yield lambda: load_model(tiny_folder, adapter="nowhere"), "has no adapter_config.json"


@pytest.mark.parametrize("case", range(4))
def test_what_cannot_be_meant_is_said(adapter: Path, tiny_folder: Path, tmp_path: Path, case: int) -> None:
    call, message = list(misuses(adapter, tiny_folder, tmp_path))[case]
    with pytest.raises(MisuseError, match=message):
        call()


def test_an_adapter_on_an_adapter_is_refused_and_not_followed_round(adapter: Path) -> None:
    with_option(base_model_name_or_path=str(adapter))(adapter)
    with pytest.raises(SteerkitError, match="is an adapter itself: merge that one first"):
        load_model(adapter)


def test_a_newer_format_is_refused(adapter: Path, tiny_folder: Path) -> None:
    note = AdapterNote(format_version=2, name="mine", base_digest="")
    write(adapter, tiny_folder, load_file(adapter / "adapter_model.safetensors"), note)
    with pytest.raises(InputError, match="adapter format 2"):
        read_adapter(adapter)
