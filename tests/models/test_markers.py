from __future__ import annotations

from pathlib import Path

import pytest

import steerkit
from steerkit.chains.chains import find_chain
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.prompt_edit import PromptEdit
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
    assert final_reply("[THINK]is it [/THINK] or[/THINK] 12", OTHER) == "12"


def test_a_chain_stands_between_the_models_own_markers() -> None:
    chain = find_chain("[THINK]\n3 + 4 = 7.\n[/THINK]\nThe answer is 7.", OTHER)
    assert chain is not None
    assert (chain.opening, chain.steps, chain.reply) == ("[THINK]\n", ("3 + 4 = 7.",), "The answer is 7.")
    assert find_chain("[THINK] 3 + 4", OTHER) is None


@pytest.mark.parametrize("markers", [DEFAULT, OTHER, ThinkingMarkers("(hm", "hm)")])
def test_thinking_is_counted_between_the_markers_that_the_model_is_given(markers: ThinkingMarkers) -> None:
    lm = load_model(tiny_hf(), byte_tokenizer(), markers=markers)
    assert lm.markers == markers
    begun = PromptEdit(begin=f"Well\n{markers.opening}1{markers.closing}")
    [done] = TransformersEngine(lm).generate([Request("hm", (begun,), decoding=Decoding(60))])
    written = lm.renderer.encode(f"1{markers.closing}")
    assert done.thinking_tokens == len(written)


def test_markers_may_be_set_on_a_loaded_model() -> None:
    lm = load_model(tiny_hf(), byte_tokenizer())
    assert lm.markers == DEFAULT
    assert lm.thinking.markers == DEFAULT
    lm.markers = OTHER
    assert lm.thinking.markers == OTHER
    lm.markers = None
    assert lm.markers == DEFAULT
