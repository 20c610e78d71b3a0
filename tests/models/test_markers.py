from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import steerkit
from steerkit.chains.chains import find_chain
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import load_model
from steerkit.models.markers import DEFAULT, ThinkingMarkers
from steerkit.scoring.reply import final_reply
from tests.tiny import byte_tokenizer, tiny_hf

OTHER = ThinkingMarkers("[THINK]", "[/THINK]")


def test_one_module_writes_them_down() -> None:
    package = Path(steerkit.__file__).parent
    writers = [p.name for p in package.rglob("*.py") if DEFAULT.closing in p.read_text(encoding="utf-8")]
    assert writers == ["markers.py"]


def test_what_stands_behind_the_last_closing_marker_answers() -> None:
    text = "[THINK]is it [/THINK] or[/THINK] 12"
    assert OTHER.behind(text) == " 12"
    assert DEFAULT.behind(text) == text
    assert final_reply(text, OTHER) == "12"


def test_a_chain_stands_between_the_models_own_markers() -> None:
    chain = find_chain("[THINK]\n3 + 4 = 7.\n[/THINK]\nThe answer is 7.", OTHER)
    assert chain is not None
    assert (chain.opening, chain.steps, chain.reply) == ("[THINK]\n", ("3 + 4 = 7.",), "The answer is 7.")
    assert find_chain("[THINK] 3 + 4", OTHER) is None


@pytest.mark.parametrize("markers", [DEFAULT, OTHER])
def test_thinking_is_counted_between_the_markers_that_the_model_is_given(markers: ThinkingMarkers) -> None:
    lm = load_model(tiny_hf(), byte_tokenizer(), markers=markers)
    assert lm.markers == markers
    engine = TransformersEngine(lm)
    for opened in (DEFAULT, OTHER):
        [done] = engine.generate([Request(f"hm {opened.opening}", decoding=Decoding(4))])
        assert done.thinking_tokens == (done.tokens if opened == markers else 0)


def test_markers_may_be_set_on_a_loaded_model() -> None:
    lm = load_model(tiny_hf(), byte_tokenizer())
    assert [len(ids) for ids in lm.thinking_markers] == [1, 1]
    lm.markers = OTHER
    assert [len(ids) for ids in lm.thinking_markers] == [len(OTHER.opening), len(OTHER.closing)]


def test_a_tokenizer_that_cannot_write_a_marker_has_none() -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "yes": 1, "<think>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert DEFAULT.encode(tokenizer) == ((2,), ())
