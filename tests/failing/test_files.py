"""Pairs files, model folders and number formats that mislead: read, or one line that says what is wrong.

Cases C32, C35, C37, C38 and C44 to C47 are failing inputs as they came; the others are further ones of their kinds.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig

import steerkit as sk
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.texts import is_blank
from steerkit.engines.base import Decoding, Request
from steerkit.engines.remote.served_model import ServedModel
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.lint import lint
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, load_pairs
from steerkit.models import LanguageModel, load_model
from steerkit.suites.items import SuiteItem, load_items
from tests.command_line import steerkit
from tests.conftest import save_model
from tests.tiny import byte_tokenizer, random_vector, tiny_hf, tiny_model

HERE = Path(__file__).parent / "pairs"
PAIR = {"id": "a", "prompt": "Why?", "positive": "I do not know.", "negative": "It is so."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model."""
    return save_model(tiny_model(), tmp_path_factory.mktemp("whole") / "model")


# Lines of a file.


def test_c44_an_array_over_several_lines() -> None:
    with pytest.raises(InputError, match=r"line 1: not valid JSON .* one array: write one object a line"):
        load_pairs(HERE / "array.jsonl")


ONE = json.dumps(PAIR)
LAYOUTS = {
    "an array in one line": f"[{ONE}]",
    "arrays, one a line": f"[{ONE}]\n[{ONE}]",
    "an array cut short": f"[\n{ONE},",
    "objects over several lines": json.dumps(PAIR, indent=1)
    + "\n"
    + json.dumps(PAIR | {"id": "b"}, indent=1),
    "two objects in a line": ONE + json.dumps(PAIR | {"id": "b"}),
    "commas between the lines": ONE + ",\n" + json.dumps(PAIR | {"id": "b"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_laid_out_otherwise(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(LAYOUTS[layout], encoding="utf-8")
    for read in (load_pairs, load_items):
        with pytest.raises(InputError, match=r"line 1: .*write one object a line") as no:
            read(path)
        assert "\n" not in str(no.value)


def test_c45_line_ends_of_the_first_macintosh() -> None:
    assert len(load_pairs(HERE / "cr-only.jsonl")) == 6


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\r\n \r\n"], ids=repr)
def test_line_ends_of_every_kind(end: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    separators = "a\u2028b\u2029c\u0085d"  # which are no line ends in JSON
    second = json.dumps(PAIR | {"id": "b", "negative": separators}, ensure_ascii=False)
    path.write_bytes(("\ufeff" + ONE + end + second + end).encode())
    assert [pair.negative for pair in load_pairs(path)] == ["It is so.", separators]


def test_c46_a_side_of_zero_width_is_empty() -> None:
    with pytest.raises(InputError, match="line 6: the positive side is empty"):
        load_pairs(HERE / "zero-width.jsonl")


INVISIBLE = (
    "\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2064\u2066\u2069\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"
    "\u2800\u3164\ufe0f\ufeff\uffa0"
    "\u00a0\u2002\u202f\u3000\u2028\u2029\u0085\x00\x1b\U000e0001\U000e0020\U000e0100\U0001d173"
)


@pytest.mark.parametrize("character", INVISIBLE, ids=lambda c: f"U+{ord(c):04X}")
def test_what_cannot_be_seen_is_refused_alike(character: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    for part in ("positive", "negative", "prompt"):
        path.write_text(json.dumps(PAIR | {part: character * 2}), encoding="utf-8")
        with pytest.raises(InputError, match="is empty"):
            load_pairs(path)
    with pytest.raises(MisuseError, match="the prompt is empty"):
        SuiteItem("i", character)
    with pytest.raises(MisuseError, match="an answer is empty"):
        SuiteItem("i", "Who?", answers=(character,))
    with pytest.raises(MisuseError, match="the prompt is empty"):
        tiny_model().renderer.render(({"role": "user", "content": character},))


@given(st.text())
def test_what_has_a_letter_a_digit_or_a_sign_is_seen(text: str) -> None:
    if any(c.isascii() and unicodedata.category(c)[0] in "LNPS" for c in text):
        assert not is_blank(text)
    assert is_blank(text + "\u200b") is is_blank(text)


@pytest.mark.parametrize(
    "text", ["a", "1", "?", "你", "👍", "é", "e\u0301", "\u200ba", "ไ", "…", "\N{REPLACEMENT CHARACTER}"]
)
def test_what_can_be_seen_is_taken(text: str) -> None:
    assert not is_blank(text)


# Prompts that a chat template rendered already.


def test_c47_rendered_prompts_are_said_in_extract(folder: Path, tmp_path: Path) -> None:
    done = steerkit(
        "extract", "--model", folder, "--pairs", HERE / "rendered.jsonl", "--out", tmp_path / "x.safetensors"
    )
    assert done.code == 0
    assert "holds <|im_start|>: it was rendered by a chat template already" in done.err
    assert done.err.count("rendered by a chat template") == 1


RENDERED = {
    "ChatML": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
    "Llama 3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>",
    "Llama 2": "[INST] Who? [/INST]",
    "Gemma": "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
    "Zephyr": "<|user|>\nWho?\n<|assistant|>\n",
    "gpt-oss": "<|start|>user<|message|>Who?<|end|><|start|>assistant",
    "DeepSeek": "<｜User｜>Who?<｜Assistant｜>",
    "the model's own": "[user]Who?[assistant]",
    "with the model's own end": "Who?</s>",
}


@pytest.mark.parametrize("family", RENDERED)
def test_rendered_prompts_of_every_family_are_said(family: str, tmp_path: Path) -> None:
    prompt, said = RENDERED[family], "was rendered by a chat template already"
    with pytest.warns(UserWarning, match=said):
        list(TransformersEngine(tiny_model()).generate([Request(prompt, decoding=Decoding(1))]))
    pairs = ContrastPairs("p", tuple(ContrastPair(f"{i}", prompt, f"a{i} b", f"c{i} d") for i in range(3)))
    with pytest.warns(UserWarning, match=said):
        sk.extract(tiny_model(), pairs)
    items = tmp_path / "items.jsonl"
    lines = [{"id": f"i{i}", "prompt": f"{i} {prompt}"} for i in range(40)]
    items.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.warns(UserWarning, match=said):
        sk.sweep(
            tiny_model(),
            [],
            sk.Measurement(str(items), limit=2, decoding=Decoding(1), scorers=()),
            out=tmp_path / "run",
        )
    codes = {finding.code for finding in lint(pairs, lm=tiny_model())}
    assert codes & {"rendered", "special-token", "doubled-bos"}


@pytest.mark.parametrize(
    "prompt",
    [
        "What does <b>user</b> mean?",
        "<think> is a tag. What for?",
        "Is [1] a list, and a | b an or?",
        "user: hi",
        "a < b > c",
        "Question: who?",
    ],
)
@pytest.mark.parametrize("chat", [True, False])
def test_prompts_that_only_look_like_it_are_not(prompt: str, chat: bool) -> None:
    lm = tiny_model(chat=chat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.renderer.render(prompt)


def test_a_prompt_in_the_plain_form_is_said() -> None:
    with pytest.warns(UserWarning, match="holds Question:"):
        tiny_model(chat=False).renderer.render("Question: Who?\nAnswer:")


# Too few pairs for an estimator.


def pairs_of(count: int) -> ContrastPairs:
    made = (
        ContrastPair(f"{i}", f"Who is {i}?", f"I cannot tell {i}.", f"It is Ada {i}.") for i in range(count)
    )
    return ContrastPairs("few", tuple(made))


@pytest.mark.parametrize("count", [1, 2])
def test_c38_lda_with_too_few_pairs(count: int) -> None:
    with pytest.raises(
        InputError, match="lda needs more pairs: it cannot be fitted on 1 positive and 1 negative"
    ):
        sk.extract(tiny_model(), pairs_of(count), "lda")


def test_c38_lda_with_the_pairs_as_they_came(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    done = steerkit(
        "extract", "--model", folder, "--method", "lda", "--pairs", HERE / "two.jsonl", "--out", out
    )
    assert (done.code, done.out) == (1, "")
    assert "lda needs more pairs" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("method", ["mean-difference", "pca", "logistic", "lda", "random"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_pairs_give_a_vector_or_a_line(method: str, count: int) -> None:
    if method == "lda" and count < 3:
        with pytest.raises(InputError, match="needs more pairs"):
            sk.extract(tiny_model(), pairs_of(count), method)
    else:
        assert sk.extract(tiny_model(), pairs_of(count), method).n_layers == 4


def test_an_estimator_of_another_package_that_fails_on_few_is_told_apart() -> None:
    def picky(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        if len(positive) < 4:
            raise ValueError("at least four")
        return positive.mean(dim=0) - negative.mean(dim=0)

    def broken(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        raise ValueError(f"a fault of its own in {len(positive) + len(negative)} states")

    with pytest.raises(InputError, match=r"picky needs more pairs: .*\(at least four\)"):
        sk.extract(tiny_model(), pairs_of(3), picky)
    with pytest.raises(ValueError, match="a fault of its own"):
        sk.extract(tiny_model(), pairs_of(12), broken)


# Folders of models.


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def holding(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:4000])


def in_shards(folder: Path) -> None:
    hf = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    hf.save_pretrained(folder, max_shard_size="40KB")


def one_shard_short(folder: Path) -> None:
    in_shards(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def without_index(folder: Path) -> None:
    in_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def one_deeper(folder: Path) -> None:
    names = [path for path in folder.iterdir()]
    (folder / "checkpoint-500").mkdir()
    for path in names:
        path.rename(folder / "checkpoint-500" / path.name)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "C35 no tokenizer": (
        without(*TOKENIZER),
        r"has no tokenizer files \(tokenizer.json, tokenizer_config.json\)",
    ),
    "no vocabulary": (without("tokenizer.json"), r"has no tokenizer files \(tokenizer.json\)"),
    "no weights": (without("model.safetensors"), "has no weights"),
    "config alone": (without("model.safetensors", *TOKENIZER), "has no (weights|tokenizer files)"),
    "no config": (without("config.json"), "has no config.json"),
    "empty": (emptied, "has no config.json, for it is empty"),
    "in a folder of its own": (one_deeper, "has no config.json, but its folder checkpoint-500 has"),
    "a shard missing": (one_shard_short, "lacks 1 of its weight files, model-00002-of"),
    "no index": (without_index, "no model.safetensors.index.json"),
    "weights cut short": (cut, "model.safetensors is damaged or cut short"),
    "weights empty": (holding("model.safetensors", b""), "model.safetensors is damaged"),
    "weights a pointer": (holding("model.safetensors", POINTER), "is a pointer of Git LFS"),
    "tokenizer a pointer": (holding("tokenizer.json", POINTER), "is a pointer of Git LFS"),
    "tokenizer broken": (holding("tokenizer.json", "{"), "tokenizer.json is damaged"),
    "tokenizer empty": (holding("tokenizer.json", ""), "tokenizer.json is damaged"),
    "config broken": (holding("config.json", "{"), "config.json is damaged"),
    "config of nothing": (holding("config.json", "{}"), "names no model_type"),
    "config a list": (holding("config.json", "[]"), "names no model_type"),
    "of no known model": (holding("config.json", '{"model_type": "unheard-of"}'), "does not load"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_whole_model_says_what_is_missing(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "my-fine-tune"
    shutil.copytree(folder, copy)
    change, words = FOLDERS[kind]
    change(copy)
    with pytest.raises(InputError, match=words) as no:
        load_model(copy)
    assert "my-fine-tune" in str(no.value)
    assert "\n" not in str(no.value)
    assert "remove" not in str(no.value)
    assert "delete" not in str(no.value)


def test_a_folder_with_a_gguf_alone_names_it(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"name the file, .*small\.gguf"):
        load_model(tmp_path)


# Number formats.


def spread(folder: Path) -> Path:
    """A model some of whose weights float16 rounds twice or loses."""
    hf = tiny_hf()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.mul_(torch.logspace(-6, 0, weight.numel()).view_as(weight))
    return save_model(LanguageModel(hf, byte_tokenizer(), "spread"), folder)


def test_c32_a_checkpoint_has_one_fingerprint_in_every_number_format(tmp_path: Path) -> None:
    folder = spread(tmp_path / "model")
    made = load_model(folder)
    vector = random_vector(made)
    for dtype in ("float16", "bfloat16", "float32"):
        lm = load_model(folder, dtype=dtype)
        assert lm.fingerprint == made.fingerprint
        vector.check(lm)


def test_c32_a_held_model_in_float16_is_told_from_other_weights(tmp_path: Path) -> None:
    folder = spread(tmp_path / "model")
    made = load_model(folder)
    vector = sk.extract(made, pairs_of(3))
    held = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).eval()
    lm = sk.load_model(held, made.tokenizer)
    assert lm.fingerprint != made.fingerprint
    with pytest.raises(ModelMismatchError, match=r"was made at float32, and .* is at float16") as no:
        vector.check(lm)
    assert "other weights" not in str(no.value)
    vector.check(lm, exact=False)
    with pytest.raises(ModelMismatchError, match="other weights"):
        vector.check(tiny_model(seed=9))


def test_other_weights_are_other_weights_in_float16_too(tmp_path: Path) -> None:
    one, other = (save_model(tiny_model(seed), tmp_path / str(seed)) for seed in (1, 2))
    assert load_model(one, dtype="float16").fingerprint != load_model(other, dtype="float16").fingerprint


# A config that names no longest context.


def bloom() -> LanguageModel:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=261, hidden_size=32, n_layer=3, n_head=2)
    hf: Any = AutoModelForCausalLM.from_config(config).eval()
    return sk.load_model(hf, byte_tokenizer())


def test_c37_a_config_without_a_longest_context_runs(tmp_path: Path) -> None:
    lm = bloom()
    assert lm.context_length >= 2048
    assert [c.tokens for c in TransformersEngine(lm).generate([Request("q", decoding=Decoding(6), key=0)])]
    assert sk.extract(lm, pairs_of(3)).n_layers == 3
    served = ServedModel(str(save_model(lm, tmp_path / "bloom")))
    assert served.context_length == lm.context_length
