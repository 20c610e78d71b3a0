"""A merged checkpoint: plain transformers computes from it what the hooked model computes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import steerkit as sk
from steerkit.core.errors import MisuseError, ModelMismatchError, SteerkitError
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interchange.base import export, verify_export
from steerkit.interchange.verification.compare import QUESTIONS
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of, with_hidden
from tests.interchange.conftest import consumer_python
from tests.tiny import byte_tokenizer, random_vector, tiny_model

IDS = torch.arange(5, 45).reshape(2, 20)
SIZES = {"vocab_size": 261, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
LLAMA_LIKE = SIZES | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def model_of(config: Any) -> LanguageModel:
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with (
        torch.no_grad()
    ):  # biases are zero by default: a bias that is overwritten instead of added to would not show
        for name, parameter in hf.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return LanguageModel(hf, byte_tokenizer(), config.model_type)


@contextmanager
def plainly_steered(lm: LanguageModel, steerings: list[Steering]) -> Iterator[None]:
    """The reference, without our table: a hook a layer that adds strength times the direction."""
    handles = []
    for steering in steerings:
        for layer in steering.layers:
            shift = steering.strength * steering.vector.direction[layer]

            def add(_m: Any, _a: Any, out: Any, shift: Tensor = shift) -> Any:
                return with_hidden(out, hidden_of(out) + shift)

            handles.append(lm.blocks[layer].register_forward_hook(add))
    yield
    for handle in handles:
        handle.remove()


def logits(hf: Any) -> Tensor:
    with torch.inference_mode():
        return hf(input_ids=IDS).logits


FOLDABLE = {
    "llama": transformers.LlamaConfig(**LLAMA_LIKE),
    "llama tied": transformers.LlamaConfig(**LLAMA_LIKE, tie_word_embeddings=True),
    "llama with biases": transformers.LlamaConfig(**LLAMA_LIKE, mlp_bias=True),
    "gpt2": transformers.GPT2Config(**SIZES, n_embd=32, n_layer=3, n_head=4),
    "gpt-neox": transformers.GPTNeoXConfig(
        **SIZES, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
    ),
}


@pytest.mark.parametrize("config", FOLDABLE.values(), ids=FOLDABLE.keys())
def test_plain_transformers_computes_the_steered_logits(config: Any, tmp_path: Path) -> None:
    lm = model_of(config)
    before = {name: tensor.clone() for name, tensor in lm.hf.state_dict().items()}
    steerings = [
        random_vector(lm, 0).at((0, 2), 0.7, scope="all"),
        random_vector(lm, 1, name="b").at((1, 2), -1.3, scope="all"),
    ]
    folder = export(steerings, "merged", tmp_path / "merged", lm)
    merged = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with plainly_steered(lm, steerings):
        expected = logits(lm.hf)
    assert (logits(merged) - expected).abs().max() <= 1e-4
    assert (expected - logits(lm.hf)).abs().max() > 0.1  # the steering does something

    after = lm.hf.state_dict()  # and the user's model is as it was
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


UNFOLDABLE = {
    "qwen2": (transformers.Qwen2Config(**LLAMA_LIKE), "no bias at 'mlp.down_proj'.*no mlp_bias"),
    "gemma3": (
        transformers.Gemma3TextConfig(**LLAMA_LIKE, head_dim=8),
        "changes its blocks' output after the last projection",
    ),
}


@pytest.mark.parametrize(("config", "reason"), UNFOLDABLE.values(), ids=UNFOLDABLE.keys())
def test_an_architecture_without_a_place_for_it_is_refused(config: Any, reason: str, tmp_path: Path) -> None:
    lm = model_of(config)
    with pytest.raises(MisuseError, match=reason):
        export([random_vector(lm).at(1, scope="all")], "merged", tmp_path / "merged", lm)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_says_what_was_folded_in(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    folder = export([vector.at(2, 1.5, scope="all")], "merged", tmp_path / "merged", tiny)
    note = json.loads((folder / "steerkit.json").read_text())
    assert note["steering"] == ["random@layer=2,strength=1.5,scope=all"]
    assert note["fingerprint"] == tiny.fingerprint
    assert note["vectors"] == {"random": vector.digest}


def test_a_merged_model_is_another_model_to_a_vector(tiny: LanguageModel, tmp_path: Path) -> None:
    steering = random_vector(tiny).at(2, 1.5, scope="all")
    merged = sk.load_model(export([steering], "merged", tmp_path / "merged", tiny))
    with pytest.raises(ModelMismatchError, match="other weights"), sk.steer(merged, steering):
        pass


def test_a_vector_of_another_model_is_refused_unless_allowed(tiny: LanguageModel, tmp_path: Path) -> None:
    foreign = random_vector(tiny_model(seed=7)).at(1, scope="all")
    with pytest.raises(ModelMismatchError, match="other weights"):
        export([foreign], "merged", tmp_path / "merged", tiny)
    assert export([foreign], "merged", tmp_path / "merged", tiny, allow_mismatch=True).is_dir()


def test_what_exists_is_not_overwritten(tiny: LanguageModel, tmp_path: Path) -> None:
    steerings = [random_vector(tiny).at(1, scope="all")]
    with pytest.raises(MisuseError, match="exists"):
        export(steerings, "merged", tmp_path, tiny)
    with pytest.raises(MisuseError, match=r"outside the `with sk\.steer"), sk.steer(tiny, *steerings):
        export(steerings, "merged", tmp_path / "merged", tiny)


def test_a_failure_leaves_no_folder(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tiny.tokenizer), "save_pretrained", fail)
    with pytest.raises(SteerkitError, match="No space left"):
        export([random_vector(tiny).at(1, scope="all")], "merged", tmp_path / "merged", tiny)
    assert list(tmp_path.iterdir()) == []


def test_verification_passes_what_is_right_and_fails_what_is_not(tiny: LanguageModel, tmp_path: Path) -> None:
    steerings = [random_vector(tiny).at(1, scope="all")]
    folder = export(steerings, "merged", tmp_path / "merged", tiny)
    assert verify_export(steerings, "merged", folder, tiny).passed
    assert not verify_export([random_vector(tiny).at(2, scope="all")], "merged", folder, tiny).passed
    assert not verify_export([random_vector(tiny).at(1, 1.01, scope="all")], "merged", folder, tiny).passed


def test_the_reference_model_merged_is_the_hooked_model_to_1e_4(
    smollm: LanguageModel, tmp_path: Path
) -> None:
    vector = random_vector(smollm, size=0.5)
    steerings = [vector.at((0, 14), 1.0, scope="all"), vector.at(29, -2.0, scope="all")]
    folder = export(steerings, "merged", tmp_path / "merged", smollm)
    outcome = verify_export(steerings, "merged", folder, smollm)
    assert outcome.passed
    assert outcome.rows[0]["largest_difference"] <= 1e-4
    assert outcome.rows[0]["largest_shift"] > 1


VLLM = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=4)
greedy = SamplingParams(temperature=0, max_tokens=12)
done = llm.generate([{"prompt_token_ids": ids} for ids in prompts], greedy)
print(json.dumps([list(request.outputs[0].token_ids) for request in done]))
"""


@pytest.mark.vllm
def test_vllm_generates_from_it_what_we_generate_steered(smollm: LanguageModel, tmp_path: Path) -> None:
    python = consumer_python("vllm")
    vector = random_vector(smollm, size=0.5)
    steering = vector.at((10, 14), 1.0, scope="all")
    folder = export([steering], "merged", tmp_path / "merged", smollm)
    prompts = [smollm.renderer.encode_prompt(question) for question in QUESTIONS]
    command = [python, "-c", VLLM, str(folder), json.dumps(prompts)]
    # Plain vLLM without a plugin of ours, in one process, with a cache that a small machine has room for.
    alone = {"VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "0", **os.environ, **alone}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    decoding = Decoding(max_new_tokens=12)
    for steerings, alike in (((steering,), True), ((), False)):
        requests = [Request(question, steerings, decoding, key=i) for i, question in enumerate(QUESTIONS)]
        done_here = sorted(
            TransformersEngine(smollm).generate(requests), key=lambda c: int(str(c.request.key))
        )
        ours = [list(completion.token_ids) for completion in done_here]
        assert ([ids[: len(mine)] for ids, mine in zip(theirs, ours, strict=True)] == ours) is alike
