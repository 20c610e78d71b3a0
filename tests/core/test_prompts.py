"""Prompts to tokens: one beginning-of-sequence marker, and completions that begin where they begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message, Renderer, check_prompt, common_prefix_length
from steerkit.core.texts import is_blank
from steerkit.models import LanguageModel
from tests.tiny import byte_tokenizer

CHAT = Renderer(byte_tokenizer())
PLAIN = Renderer(byte_tokenizer(chat=False))


def said(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def markers(renderer_model: LanguageModel, ids: list[int]) -> int:
    """How many of the ids before the prompt's own words are the beginning-of-sequence marker."""
    bos = renderer_model.tokenizer.bos_token_id
    return next((place for place, token in enumerate(ids) if token != bos), len(ids))


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_bundled_prompt_has_the_marker_its_tokenizer_would_add_and_never_two(
    bundled: LanguageModel, system: str | None
) -> None:
    ids = bundled.renderer.encode_prompt("Who was Ada Lovelace?", system)
    assert markers(bundled, ids) == 1
    alone = bundled.renderer.encode_prompt("Who was Ada Lovelace?")
    pair = bundled.renderer.encode_pair("Who was Ada Lovelace?", "A mathematician.")
    assert list(pair.ids[: pair.prompt_length]) == alone[: pair.prompt_length]


def test_a_chat_template_writes_the_only_marker_of_the_tiny_model() -> None:
    ids = CHAT.encode_prompt("hi")
    assert ids[0] == 1
    assert ids.count(1) == 1


def test_the_plain_form_is_what_the_design_says() -> None:
    assert PLAIN.render("Why?") == "Question: Why?\nAnswer:"
    assert PLAIN.render("Why?", "Be brief.") == "Be brief.\n\nQuestion: Why?\nAnswer:"


def test_the_plain_form_begins_with_the_marker_of_a_tokenizer_that_adds_one(gemma: LanguageModel) -> None:
    assert gemma.renderer.render("Why?").startswith(gemma.tokenizer.bos_token)
    own = gemma.tokenizer("Question: Why?\nAnswer:")["input_ids"]
    assert gemma.renderer.encode_prompt("Why?") == own


def test_a_plain_completion_is_joined_with_one_space() -> None:
    assert PLAIN.join("Answer:", "Yes") == "Answer: Yes"
    assert PLAIN.join("Answer:", " Yes") == "Answer: Yes"
    assert PLAIN.join("Answer:", "\nYes") == "Answer:\nYes"
    assert CHAT.join("[assistant]", "Yes") == "[assistant]Yes"


@given(st.text(min_size=1).filter(lambda text: not is_blank(text)), st.text(min_size=1))
def test_prompt_and_completion_part_at_their_common_prefix(prompt: str, completion: str) -> None:
    for renderer in (CHAT, PLAIN):
        text = renderer.encode_pair(prompt, completion)
        alone = renderer.encode_prompt(prompt)
        assert text.prompt_length == common_prefix_length(alone, text.ids)
        assert list(text.ids) == renderer.encode(renderer.join(renderer.render(prompt), completion))
        assert text.completion_length >= 1


def test_a_token_that_spans_the_seam_belongs_to_the_completion(smollm: LanguageModel) -> None:
    renderer = smollm.renderer
    alone = renderer.encode_prompt("Count.")
    text = renderer.encode_pair(
        "Count.", "   one"
    )  # the prompt ends in a newline: it and two blanks are one token
    assert text.prompt_length < len(alone)
    assert smollm.tokenizer.decode(text.ids[text.prompt_length :]) == "\n   one"


def test_no_end_of_turn_follows_a_completion(smollm: LanguageModel) -> None:
    text = smollm.renderer.encode_pair("Why?", "Because.")
    assert smollm.tokenizer.decode(text.ids[text.prompt_length :]) == "Because."


def test_an_empty_completion_has_no_token_and_is_refused() -> None:
    with pytest.raises(MisuseError, match="adds no token"):
        CHAT.encode_pair("Why?", "")


def test_a_system_message_leads_the_chat() -> None:
    assert CHAT.render("hi", "Be brief.") == "<s>[system]Be brief.[user]hi[assistant]"


def test_chat_messages_are_rendered_in_order_and_the_assistant_speaks_next() -> None:
    messages = (said("user", "a"), said("assistant", "b"), said("user", "c"))
    assert CHAT.render(messages) == "<s>[user]a[assistant]b[user]c[assistant]"
    assert CHAT.render(messages, "s").startswith("<s>[system]s[user]a")


def test_two_system_messages_are_one_too_many() -> None:
    with pytest.raises(MisuseError, match="a system message already"):
        CHAT.render((said("system", "a"), said("user", "b")), "c")


def test_chat_messages_need_a_template() -> None:
    with pytest.raises(MisuseError, match="no chat template"):
        PLAIN.render((said("user", "a"),))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n",
        [],
        None,
        7,
        b"bytes",
        [{"role": "user"}],
        [{"role": "user", "content": "a", "name": "b"}],
        [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": None}],
        ["user: a"],
    ],
)
def test_what_is_no_prompt_is_a_misuse(prompt: object) -> None:
    with pytest.raises(MisuseError):
        check_prompt(prompt)


def test_text_that_is_no_unicode_is_a_misuse() -> None:
    with pytest.raises(MisuseError, match="UTF-8"):
        CHAT.encode_prompt("caf\udce9")


def test_the_digest_is_that_of_the_template_not_of_the_tokenizer() -> None:
    assert CHAT.digest == Renderer(byte_tokenizer()).digest
    assert CHAT.digest != PLAIN.digest
    other = byte_tokenizer()
    other.chat_template += " "
    assert Renderer(other).digest != CHAT.digest


def test_the_plain_digest_depends_on_the_marker(gemma: LanguageModel) -> None:
    assert gemma.renderer.digest != PLAIN.digest


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_a_common_prefix_is_common_and_no_longer_one_is(a: list[int], b: list[int]) -> None:
    n = common_prefix_length(a, b)
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]
