"""Where the weights are, and in what form, changes nothing but what it must.

Offloaded: nothing. Quantised: the numbers, and everything steerkit does is what hooks by hand do on the same model.
"""

from __future__ import annotations

import gc
import itertools
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from torch import Tensor, nn

import steerkit as sk
from steerkit.core.errors import MisuseError, ModelMismatchError, SteerkitError
from steerkit.core.registry import ENGINES
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.catalogue import EngineOptions
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel, load_model
from steerkit.models.fingerprint import weights_digest
from steerkit.models.placement import bytes_of
from tests.command_line import steerkit
from tests.extraction.test_extraction import PAIRS
from tests.tiny import byte_tokenizer, random_vector, tiny_hf
from tests.tiny_gguf import write_tiny_gguf

PROMPTS = ["Hi!", "What is the capital of France?", "Who wrote Hamlet, and in which language?"]
WIDTH = 64  # bitsandbytes takes whole blocks of 64 weights, and 32 rows of them on a CPU
BYTES = sum(weight.numel() * 4 for weight in tiny_hf(width=WIDTH).parameters())
HELD = {"everything": 2 * BYTES, "a part": int(0.6 * BYTES), "nothing": 1000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint wide enough to be quantised."""
    path = tmp_path_factory.mktemp("models") / "wide"
    tiny_hf(width=WIDTH).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> LanguageModel:
    """The checkpoint, loaded whole."""
    return load_model(folder)


@pytest.fixture(scope="module")
def vector(plain: LanguageModel) -> sk.SteeringVector:
    """A vector from the float weights."""
    return sk.extract(plain, PAIRS, aggregation="last")


def completions(lm: LanguageModel, batch_size: int, *cells: tuple[sk.Steering, ...]) -> list[tuple[int, ...]]:
    asked = [
        Request(prompt, cell, Decoding(max_new_tokens=10), key=key)
        for key, (prompt, cell) in enumerate(itertools.product(PROMPTS, cells))
    ]
    found = {c.request.key: c.token_ids for c in TransformersEngine(lm, batch_size).generate(asked)}
    return [found[key] for key in range(len(asked))]


def cells(vector: sk.SteeringVector) -> list[tuple[sk.Steering, ...]]:
    return [(), (vector.at(2, 1.5),), (vector.at([1, 3], 0.7, scope="all"),)]


def left_padded(lm: LanguageModel) -> dict[str, Tensor]:
    texts = [lm.renderer.encode_prompt(prompt) for prompt in PROMPTS]
    width = max(map(len, texts))
    ids = torch.tensor([[lm.pad_id] * (width - len(text)) + text for text in texts])
    return {"input_ids": ids, "attention_mask": (ids != lm.pad_id).long()}


def steered(lm: LanguageModel, *steerings: sk.Steering) -> Tensor:
    with sk.steer(lm, *steerings):
        return lm.hf.generate(**left_padded(lm), max_new_tokens=10, do_sample=False)


def by_hand(lm: LanguageModel, layer: int, shift: Tensor) -> Tensor:
    """`generate` with a raw hook that adds `shift` at the last prompt token and behind."""

    def add(_block: nn.Module, _args: object, hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, -1] += shift.to(hidden)
        return hidden

    handle = lm.blocks[layer].register_forward_hook(add)
    try:
        return lm.hf.generate(**left_padded(lm), max_new_tokens=10, do_sample=False)
    finally:
        handle.remove()


def read_by_hand(lm: LanguageModel) -> Tensor:
    """The mean difference at the last token `[n_layers, d_model]`, each text in a pass of its own."""
    means = []
    for texts in ([(p.prompt, p.positive) for p in PAIRS], [(p.prompt, p.negative) for p in PAIRS]):
        states = []
        for text in texts:
            seen: list[Tensor] = []
            handles = [
                block.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out[0, -1].float()))
                for block in lm.blocks
            ]
            with torch.inference_mode():
                lm.hf(torch.tensor([lm.renderer.encode_pair(*text).ids]))
            for handle in handles:
                handle.remove()
            states.append(torch.stack(seen))
        means.append(torch.stack(states).mean(dim=0))
    return means[0] - means[1]


def offloaded_by_accelerate(how: str, tmp_path: Path) -> LanguageModel:
    hf = tiny_hf(width=WIDTH)
    if how == "cpu_offload":
        accelerate.cpu_offload(hf, "cpu")
    else:
        accelerate.disk_offload(hf, str(tmp_path), "cpu")
    return load_model(hf, byte_tokenizer())


@pytest.fixture(params=[*HELD, "cpu_offload", "disk_offload"])
def offloaded(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> LanguageModel:
    """The checkpoint with weights on disk, and two models that a user offloaded himself."""
    if request.param not in HELD:
        return offloaded_by_accelerate(request.param, tmp_path)
    lm = load_model(folder, max_memory={"cpu": HELD[request.param]})
    away = sum(weight.is_meta for weight in lm.hf.parameters())
    everything = len(list(lm.hf.parameters()))
    assert {"everything": away == 0, "a part": 0 < away < everything, "nothing": away == everything}[
        request.param
    ]
    return lm


def test_an_offloaded_model_does_everything_that_it_does_when_it_is_held_whole(
    plain: LanguageModel, offloaded: LanguageModel, vector: sk.SteeringVector
) -> None:
    assert offloaded.fingerprint.split(":")[1] == plain.fingerprint.split(":")[1]
    assert offloaded.quantised_from == ""
    own = sk.extract(offloaded, PAIRS, aggregation="last")
    assert torch.equal(own.direction, vector.direction)
    assert own.metadata.alignment == pytest.approx(vector.metadata.alignment, abs=1e-4)
    assert torch.equal(steered(offloaded, vector.at(2, 1.5)), steered(plain, vector.at(2, 1.5)))
    assert completions(offloaded, 9, *cells(vector)) == completions(plain, 9, *cells(vector))
    asked = [ScoreRequest(prompt, "Paris, I think.", (vector.at(2, 1.5),)) for prompt in PROMPTS]
    ours, theirs = (list(TransformersEngine(lm).score(asked)) for lm in (offloaded, plain))
    assert [s.log_probabilities for s in ours] == [s.log_probabilities for s in theirs]
    kls = [sk.calibrate(lm, vector.at(2), kl=0.1, prompts=PROMPTS, tokens=6) for lm in (offloaded, plain)]
    assert kls[0].strengths == kls[1].strengths


def test_a_vector_is_learned_on_an_offloaded_model_and_its_flags_come_back(
    folder: Path, plain: LanguageModel
) -> None:
    lm = load_model(folder, max_memory={"cpu": HELD["a part"]})
    flags = {name: weight.requires_grad for name, weight in lm.hf.named_parameters()}
    learned, expected = (
        sk.extract(each, PAIRS, "contrastive-energy", layers=[2], options={"steps": 3})
        for each in (lm, plain)
    )
    assert torch.allclose(learned.direction, expected.direction, atol=1e-6)
    assert {name: weight.requires_grad for name, weight in lm.hf.named_parameters()} == flags


def test_tied_weights_that_offloading_parts_count_once() -> None:
    config = tiny_hf(width=WIDTH).config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    hf = transformers.LlamaForCausalLM(config).eval()
    whole = load_model(hf, byte_tokenizer())
    accelerate.cpu_offload(hf, "cpu")
    assert load_model(hf, byte_tokenizer()).fingerprint == whole.fingerprint


def test_an_offload_folder_of_our_own_goes_with_the_model_and_a_named_one_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sizes = {"cpu": HELD["nothing"]}
    lm = load_model(folder, max_memory=sizes)
    assert len(list(tmp_path.glob("steerkit-offload-*"))) == 1
    del lm
    gc.collect()
    with pytest.raises(SteerkitError):
        load_model(folder, max_memory=sizes, quantization="8bit")  # which leaves nothing on a disk
    assert not list(tmp_path.glob("steerkit-offload-*"))
    load_model(folder, max_memory=sizes, offload_folder=tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


def test_a_device_map_says_which_module_goes_where(folder: Path, plain: LanguageModel) -> None:
    names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    lm = load_model(folder, device_map=dict.fromkeys(names, "cpu") | {"model.layers": "disk"})
    assert {name.split(".")[1] for name, weight in lm.hf.named_parameters() if weight.is_meta} == {"layers"}
    assert lm.fingerprint == plain.fingerprint


def test_a_merged_checkpoint_is_not_written_from_offloaded_weights(
    folder: Path, tmp_path: Path, vector: sk.SteeringVector
) -> None:
    lm = load_model(folder, max_memory={"cpu": HELD["a part"]})
    with pytest.raises(MisuseError, match="is offloaded: load the model whole"):
        sk.export([vector.at(2, scope="all")], "merged", tmp_path / "merged", lm)


def test_a_model_without_weights_is_told_so() -> None:
    with torch.device("meta"):
        hf = transformers.LlamaForCausalLM(tiny_hf(width=WIDTH).config).eval()
    with pytest.raises(MisuseError, match="on the meta device, where it has no weights"):
        load_model(hf, byte_tokenizer())


# Quantised models, and whether a row is the same whatever stands beside it: with a threshold above 0 bitsandbytes'
# 8-bit product takes the columns in which any row of the batch has an outlier out of the rounding of all.


def by_bitsandbytes(folder: Path, **options: Any) -> LanguageModel:
    """What a user makes with transformers himself."""
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.BitsAndBytesConfig(**options),
        device_map={"": "cpu"},
        dtype=torch.float32,
    )
    return load_model(hf.eval(), byte_tokenizer())


def by_torchao(folder: Path) -> LanguageModel:
    """The same with torchao's weight-only int8."""
    quantization = pytest.importorskip("torchao.quantization")
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig()),
        device_map={"": "cpu"},
        dtype=torch.float32,
    )
    return load_model(hf.eval(), byte_tokenizer())


QUANTISED: dict[str, tuple[Callable[[Path], LanguageModel], bool]] = {
    "8bit": (partial(load_model, quantization="8bit"), False),
    "8bit without outliers": (partial(by_bitsandbytes, load_in_8bit=True, llm_int8_threshold=0.0), True),
    "4bit": (partial(load_model, quantization="4bit"), True),
    "fp4, scales quantised": (
        partial(by_bitsandbytes, load_in_4bit=True, bnb_4bit_use_double_quant=True),
        True,
    ),
    "torchao": (by_torchao, True),
}


@pytest.fixture(scope="module", params=QUANTISED)
def quantised(request: pytest.FixtureRequest, folder: Path) -> tuple[LanguageModel, bool]:
    """A quantised model, and whether its rows are independent of each other."""
    load, independent = QUANTISED[request.param]
    return load(folder), independent


def test_a_quantised_model_is_read_and_steered_as_by_hooks_on_it(
    quantised: tuple[LanguageModel, bool],
) -> None:
    lm, independent = quantised
    found, expected = sk.extract(lm, PAIRS, aggregation="last").direction, read_by_hand(lm)
    error = float((found - expected).norm() / expected.norm())
    assert error < (1e-5 if independent else 5e-2)
    push = random_vector(lm, 1, size=2.0)
    assert torch.equal(steered(lm, push.at(2)), by_hand(lm, 2, push.direction[2]))
    assert not torch.equal(steered(lm, push.at(2)), by_hand(lm, 2, 0 * push.direction[2]))


def test_a_quantised_models_rows_are_the_same_packed_and_alone_where_its_products_keep_them_apart(
    quantised: tuple[LanguageModel, bool],
) -> None:
    lm, independent = quantised
    asked = cells(random_vector(lm, 1))
    packed = completions(lm, 9, *asked)
    assert packed == completions(lm, 9, *asked)  # the same packing gives the same completions in any case
    if independent:
        assert packed == completions(lm, 1, *asked)


def test_a_quantised_model_has_a_fingerprint_of_its_own_and_shares_the_other_digest(
    quantised: tuple[LanguageModel, bool], plain: LanguageModel
) -> None:
    lm, _ = quantised
    before = lm.fingerprint
    with torch.inference_mode():  # a CPU packs 4-bit weights anew when they are first used
        lm.hf(torch.tensor([[5, 6, 7]]))
    assert load_model(lm.hf, lm.tokenizer).fingerprint == before != plain.fingerprint
    assert before.split(":")[0] == plain.fingerprint.split(":")[0]
    assert lm.quantised_from == plain.kept_digest


@pytest.mark.parametrize("nested", [False, True])
def test_the_fingerprint_of_4_bit_weights_is_one_before_and_after_they_are_packed(
    folder: Path, nested: bool
) -> None:
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_use_double_quant=nested
        ),
        device_map={"": "cpu"},
    ).eval()
    before = weights_digest(hf)
    with torch.inference_mode():
        hf(torch.tensor([[5, 6, 7]]))
    assert weights_digest(hf) == before


def test_a_vector_of_the_float_weights_is_taken_once_with_a_word(
    folder: Path, vector: sk.SteeringVector
) -> None:
    lm = load_model(folder, quantization="4bit")
    named = vector.renamed("said-once")
    with pytest.warns(UserWarning, match="'said-once' was made on .* quantised otherwise.*calibrate again"):
        completions(lm, 4, (named.at(2),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        completions(lm, 4, (named.at(2),))
        with sk.steer(lm, named.at(1)):
            pass


def test_an_older_vector_is_refused_on_quantised_weights_with_what_to_pass(
    folder: Path, vector: sk.SteeringVector
) -> None:
    lm = load_model(folder, quantization="4bit")
    older = sk.SteeringVector(vector.direction, vector.metadata.model_copy(update={"kept_digest": ""}))
    with pytest.raises(ModelMismatchError, match=r"is quantised, .* allow the mismatch if"):
        older.check(lm)
    older.check(lm, exact=False)


def test_a_vector_of_other_weights_is_refused_on_quantised_ones_as_before(folder: Path) -> None:
    lm = load_model(folder, quantization="4bit")
    other = load_model(tiny_hf(seed=1, width=WIDTH), byte_tokenizer())
    stranger = sk.extract(other, PAIRS, aggregation="last")
    with pytest.raises(ModelMismatchError, match="is for other weights"):
        stranger.check(lm)


def test_a_vector_of_quantised_weights_is_refused_on_the_float_ones(
    folder: Path, plain: LanguageModel
) -> None:
    own = sk.extract(load_model(folder, quantization="4bit"), PAIRS, aggregation="last")
    with pytest.raises(ModelMismatchError, match="is for other weights"):
        own.check(plain)


def test_what_only_changes_matrices_shares_the_other_digest_which_therefore_proves_nothing(
    plain: LanguageModel,
) -> None:
    merged = tiny_hf(width=WIDTH)
    with torch.no_grad():
        merged.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    lm = load_model(merged, byte_tokenizer())
    assert lm.kept_digest == plain.kept_digest
    assert lm.fingerprint != plain.fingerprint


@pytest.mark.parametrize("part", ["embed_tokens.weight", "norm.weight", "layers.2.input_layernorm.weight"])
def test_other_embeddings_or_norms_have_another_digest(plain: LanguageModel, part: str) -> None:
    hf = tiny_hf(width=WIDTH)
    with torch.no_grad():
        hf.model.get_parameter(part).mul_(1.02)
    assert load_model(hf, byte_tokenizer()).kept_digest != plain.kept_digest


# What cannot be meant.


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"device": "cpu", "device_map": "auto"}, "give one"),
        ({"device": "cpu", "max_memory": {"cpu": "1GB"}}, "give one"),
        ({"device_map": "cpu"}, "device_map is one of auto, .* the option device"),
        ({"device_map": {"": "cpu"}, "max_memory": {"cpu": "1GB"}}, "leave max_memory out"),
        ({"offload_folder": "there"}, "without a device_map or max_memory"),
        ({"quantization": "2bit"}, "quantization is one of 8bit, 4bit, got '2bit'"),
        ({"max_memory": {"cpu": "much"}}, "a size such as 500MB or 10GiB, got 'much'"),
        ({"max_memory": {"attic": "1GB"}}, "for cpu or for a GPU by its number, got 'attic'"),
        ({"max_memory": {63: "1GB"}}, "names GPU 63, and this machine has"),
    ],
)
def test_what_cannot_be_meant_together_is_refused_in_one_line(
    folder: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(MisuseError, match=complaint) as refused:
        load_model(folder, **options)
    assert "\n" not in str(refused.value)


def test_what_is_merged_held_or_quantised_already_is_not_quantised(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="merged into float weights in one place"):
        load_model("smollm2-135m-reasoner", quantization="4bit")
    with pytest.raises(MisuseError, match=r"give max_memory .* to its from_pretrained"):
        load_model(tiny_hf(), byte_tokenizer(), max_memory={"cpu": "1GB"})
    with pytest.raises(MisuseError, match="quantised already: load it as it is"):
        load_model(write_tiny_gguf(tmp_path / "tiny.gguf"), quantization="8bit")
    lm = load_model(folder, quantization="8bit")
    lm.hf.save_pretrained(tmp_path / "rounded")
    lm.tokenizer.save_pretrained(tmp_path / "rounded")
    with pytest.raises(MisuseError, match="is quantised already: leave quantization out"):
        load_model(tmp_path / "rounded", quantization="4bit")
    assert load_model(tmp_path / "rounded").fingerprint == lm.fingerprint


def test_without_bitsandbytes_it_is_said_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerkit.models.placement.find_spec", lambda _name: None)
    with pytest.raises(MisuseError, match="pip install bitsandbytes"):
        load_model(folder, quantization="8bit")


def test_another_engine_has_no_use_for_it() -> None:
    with pytest.raises(MisuseError, match="quantization '4bit' is for the engine transformers"):
        ENGINES["vllm"].check(EngineOptions("m", quantization="4bit"))


@pytest.mark.parametrize(
    ("written", "size"), [("500MB", 500_000_000), ("1.5 KiB", 1536), ("2gib", 2 << 30), (7, 7)]
)
def test_a_size_is_what_it_says(written: int | str, size: int) -> None:
    assert bytes_of("cpu", written) == size


def test_the_command_line_places_and_quantises(
    folder: Path, tmp_path: Path, vector: sk.SteeringVector
) -> None:
    file = vector.save(tmp_path / "v.safetensors")
    asked = ["generate", "Hi!", "--model", str(folder), "--steer", f"{file}@layer=2,strength=1.5", "--json"]
    asked += ["--max-new-tokens", "6"]
    whole, spread = steerkit(*asked), steerkit(*asked, "--max-memory", "cpu=300KB")
    assert (spread.code, spread.err, spread.out) == (0, "", whole.out)
    rounded = steerkit(*asked, "--quantization", "8bit")
    assert rounded.code == 0
    assert rounded.err.count("\n") == 1
    assert "calibrate again" in rounded.err
    refused = steerkit(*asked, "--device", "cpu", "--device-map", "auto")
    assert refused.code == 2
    assert refused.err.startswith("error: device puts the whole model in one place")
    refused = steerkit(*asked, "--max-memory", "300KB")
    assert refused.code == 2
    assert "is not DEVICE=SIZE" in refused.err
