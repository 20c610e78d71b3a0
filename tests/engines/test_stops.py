"""Where a completion is cut at a stop text, against decoding everything anew behind each token."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steerkit.core.prompts import Renderer
from steerkit.engines.stops import Cut, first_cut
from steerkit.models.markers import DEFAULT
from steerkit.models.thinking import Tracker
from tests.tiny import byte_tokenizer

TEXT = (
    "the cat sat on the mat.\n\nThe other cat: a naïve café — what?\n\nEND the end. Ünïcødé 日本語 🙂🙃\n" * 3
)
SPECIAL = ["<s>", "</s>", "<think>"]


def merged(words: int = 340) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with merges, whose tokens hold several characters or part of one."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=words, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: spaces are part of tokens, rare characters are bytes, and a text's first space is dropped."""
    pieces = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted(
        {
            *TEXT.replace(" ", "▁").replace("\n", "").replace("日", ""),
            "▁the",
            "▁cat",
            "END",
            "▁END",
            ".▁",
            "a",
        }
    )
    core = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replaced = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    core.decoder = decoders.Sequence(replaced)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", additional_special_tokens=SPECIAL
    )


def cleaned() -> PreTrainedTokenizerFast:
    """One that takes spaces before punctuation away as it decodes."""
    tokenizer = merged(300)
    tokenizer.clean_up_tokenization_spaces = True
    return tokenizer


MAKERS = {"bytes": byte_tokenizer, "merged": merged, "sentencepiece": sentencepiece, "cleaned": cleaned}
STOPS = [
    "\n",
    "\n\n",
    ".",
    "the",
    " the",
    "e",
    " ",
    "END",
    "é",
    "🙂",
    "<think>",
    "k>",
    "at.\n",
    "END the",
    "’t",
    "ï",
]
made = functools.cache(lambda name: MAKERS[name]())


@pytest.mark.parametrize("name", MAKERS)
@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_completion_is_cut_at_the_first_token_behind_which_its_text_holds_a_stop(
    name: str, data: st.DataObject
) -> None:
    tokenizer = made(name)
    renderer = Renderer(tokenizer)
    pieces = st.one_of(
        st.sampled_from([*STOPS, "cat", " n't", "日", "Ü"]).map(
            lambda t: tokenizer(t, add_special_tokens=False)["input_ids"]
        ),
        st.integers(0, len(tokenizer) - 1).map(lambda i: [i]),
    )
    ids = [i for piece in data.draw(st.lists(pieces, max_size=12)) for i in piece]
    stop = data.draw(st.lists(st.sampled_from(STOPS), min_size=1, max_size=3))

    def text(n: int) -> str:
        return str(tokenizer.decode(ids[:n], skip_special_tokens=False))

    ends = next((n for n in range(1, len(ids) + 1) if any(s in text(n) for s in stop)), None)
    cut = first_cut(renderer, ids, stop)
    if ends is None:
        assert cut is None
        return
    assert cut is not None
    kept = text(ends)[: min(at for s in stop if (at := text(ends).find(s)) >= 0)]
    assert text(cut.tokens).startswith(kept)
    assert cut.tokens == 0 or not text(cut.tokens - 1).startswith(kept)
    assert cut.text == kept


def test_a_stop_may_span_tokens_begin_and_end_inside_one_or_be_all_there_is() -> None:
    tokenizer = merged()
    renderer = Renderer(tokenizer)
    ids = tokenizer(" the cat sat on the mat.", add_special_tokens=False)["input_ids"]
    pieces = [tokenizer.decode([i]) for i in ids]
    assert " the" in pieces  # the tokens hold more than the stop
    assert first_cut(renderer, ids, ["he c"]) == Cut(1, " t")
    assert first_cut(renderer, ids, ["h"]) == Cut(1, " t")
    assert first_cut(renderer, ids, [" "]) == Cut(0, "")
    assert first_cut(renderer, ids, ["mat", "sat", "no"]) == Cut(pieces.index(" cat") + 2, " the cat ")
    assert first_cut(renderer, ids, ["dog"]) is None
    assert first_cut(renderer, ids, []) is None


def test_a_special_token_before_the_cut_is_left_out_of_the_completion_but_for_markers() -> None:
    tokenizer = byte_tokenizer()
    renderer, tracker = Renderer(tokenizer), Tracker(Renderer(tokenizer), DEFAULT)
    ids = tokenizer("<think>ab</think><pad> c.", add_special_tokens=False)["input_ids"]

    def left(stop: str) -> tuple[int, str]:
        cut = first_cut(renderer, ids, [stop])
        assert cut is not None
        return cut.tokens, tracker.read((), ids[: cut.tokens], cut.text).text

    assert left(".") == (len(ids) - 1, "<think>ab</think> c")
    assert left("</think>") == (3, "<think>ab")
    assert left("k>a") == (1, "")
    assert left("ad>") == (5, "<think>ab</think>")
