"""A half-life and step boundaries: the same positions and strengths in every engine path, by a plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.context import steer
from steerkit.engines.transformers.divergence import divergences
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.layout import line_ends
from steerkit.engines.transformers.table import LINE_END, STEP_END, Program
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.engines import reference
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer, random_vector, tiny_hf

LAYER = 1
# Begins every completion, so that there are steps to end, by one empty line and by two, and a line that ends no step.
SCRIPT = "ab\n\ncd\ne\n\n\nf</think>\n\ng"
PROMPTS = ["hi", "a longer question?\n\n"]


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    """One whose template opens thinking."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("[assistant]", "[assistant]\n\n<think>")
    return LanguageModel(tiny_hf(), tokenizer, "reasoner")


def cells(lm: LanguageModel) -> list[Steering]:
    v, w = random_vector(lm, 3, size=0.5), random_vector(lm, 4, size=0.5)
    return [
        v.at(LAYER, 1.5, half_life=3),
        v.at(LAYER, 0.5, operation="rotate", half_life=5.5),
        v.at(LAYER, 1.0, operation="clamp", target=2.0, scope="answer", half_life=40),
        v.at(LAYER, 1.0, scope="thinking", operation="ablate", half_life=10),
        v.at(LAYER, 4.0, positions="boundaries"),
        v.at(LAYER, 4.0, scope="thinking", positions="boundaries"),
        v.at(LAYER, 4.0, scope="answer", positions="boundaries", half_life=8),
        v.at(LAYER, 4.0, positions="lines"),
        v.at(LAYER, 4.0, scope="thinking", positions="lines", half_life=20),
        v.at(LAYER, 4.0, positions="last"),
        w.at(LAYER, 1.0),
    ]


def edited(steering: Steering, age: int, h: Tensor) -> Tensor:
    """`h` `[d_model]` after a steering `age` tokens into the completion, by the formulas of `Steering`."""
    v = steering.vector.direction[LAYER]
    unit = v / v.norm()
    s = steering.strength * (2 ** (-age / steering.half_life) if steering.half_life else 1)
    p = h @ unit
    match steering.operation:
        case "add":
            return h + s * v
        case "ablate":
            return h - s * p * unit
        case "clamp":
            assert steering.target is not None
            return h + s * (steering.target - p) * unit
        case "rotate":
            across = h - p * unit
            angle = torch.acos(p / h.norm()) * (1 - s)
            return h.norm() * (torch.cos(angle) * unit + torch.sin(angle) * across / across.norm())


def acts_at(lm: LanguageModel, steering: Steering, read: Sequence[int], age: int) -> bool:
    """Whether the position that ends the text `read` is one of the steering's."""
    prompt_length = len(read) - age
    thinking = lm.thinking.kinds(read[:prompt_length], read[prompt_length:])[-1] == "thinking"
    if steering.scope in ("thinking", "answer") and thinking != (steering.scope == "thinking"):
        return False
    if steering.positions == "last":
        return age == 0
    text = lm.tokenizer.decode(list(read), skip_special_tokens=False)
    return text.endswith({"every": "", "lines": "\n", "boundaries": "\n\n"}[steering.positions])


def reference_logits(
    lm: LanguageModel, ids: Sequence[int], prompt_length: int, *steerings: Steering
) -> Tensor:
    """Logits `[position, vocabulary]` of a text, each position steered by hand."""
    edits: list[Any] = []
    for steering in steerings:
        for place in range(prompt_length - 1, len(ids)):
            age = place - prompt_length + 1
            if acts_at(lm, steering, ids[: place + 1], age):
                edits.append((LAYER, lambda h, s=steering, age=age: edited(s, age, h), [place]))
    return reference.steered_logits(lm, ids, edits)


def greedily(lm: LanguageModel, prompt: str, steerings: Sequence[Steering], tokens: int) -> list[int]:
    """A completion that begins with SCRIPT and goes on greedily, everything computed anew at every step."""
    ids = lm.renderer.encode_prompt(prompt)
    generated = lm.renderer.encode(SCRIPT)
    while len(generated) < tokens:
        logits = reference_logits(lm, [*ids, *generated], len(ids), *steerings)[-1]
        token = int(logits.argmax())
        if token in lm.stop_ids:
            break
        generated.append(token)
    return generated


def run(lm: LanguageModel, requests: list[Request], batch_size: int) -> dict[object, Completion]:
    return {c.request.key: c for c in TransformersEngine(lm, batch_size).generate(requests)}


def test_any_packing_gives_each_row_what_a_plain_loop_gives(tiny: LanguageModel) -> None:
    script = PromptEdit(begin=SCRIPT)
    length = len(tiny.renderer.encode(SCRIPT)) + 8
    compositions: list[tuple[Steering, ...]] = [
        (),
        *((s,) for s in cells(tiny)),
        (cells(tiny)[0], cells(tiny)[4]),
    ]
    requests = [
        Request(p, (*steerings, script), Decoding(max_new_tokens=length - 3 * (i % 2)), key=(p, i))
        for p in PROMPTS
        for i, steerings in enumerate(compositions)
    ]
    expected = {
        (p, i): greedily(tiny, p, steerings, length - 3 * (i % 2))
        for p in PROMPTS
        for i, steerings in enumerate(compositions)
    }
    for p in PROMPTS:
        assert len({tuple(expected[p, i]) for i in range(0, len(compositions), 2)}) > 2, (
            "the cells must differ"
        )
    for batch_size in (1, 5, 32):
        for key, completion in run(tiny, requests, batch_size).items():
            assert list(completion.token_ids) == expected[key], (key, batch_size)  # type: ignore[index]


def test_sk_steer_around_generate_steers_the_same(tiny: LanguageModel) -> None:
    script = tiny.renderer.encode(SCRIPT)
    texts = [tiny.renderer.encode_prompt(p) for p in PROMPTS]
    width, length = max(map(len, texts)), len(script) + 8

    def scripted(_row: int, ids: Tensor) -> list[int]:
        n = len(ids) - width
        return [script[n]] if n < len(script) else list(range(261))

    for cached in (True, False):
        for steering in cells(tiny):
            with steer(tiny, steering):
                out = tiny.hf.generate(
                    torch.tensor([[0] * (width - len(t)) + t for t in texts]),
                    attention_mask=torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts]),
                    max_new_tokens=length,
                    do_sample=False,
                    pad_token_id=0,
                    use_cache=cached,
                    prefix_allowed_tokens_fn=scripted,
                )
            for row, p in zip(out[:, width:].tolist(), PROMPTS, strict=True):
                expected = greedily(tiny, p, [steering], length)
                assert row[: len(expected)] == expected, (p, str(steering), cached)


def test_scores_and_divergences_are_those_of_a_plain_pass(tiny: LanguageModel) -> None:
    steerings = cells(tiny)
    texts = [tiny.renderer.encode_pair(p, SCRIPT + "!?") for p in PROMPTS]
    asked = [
        ScoreRequest(p, SCRIPT + "!?", (s,), key=(i, j))
        for i, p in enumerate(PROMPTS)
        for j, s in enumerate(steerings)
    ]
    scores = {score.request.key: score for score in TransformersEngine(tiny).score(asked)}
    tables = list(divergences(tiny, texts, [Program.of((s,)) for s in steerings]))
    for i, text in enumerate(texts):
        start = text.prompt_length
        plain = reference.steered_logits(tiny, text.ids, [])[start - 1 : -1].double().log_softmax(-1)
        for j, steering in enumerate(steerings):
            steered = (
                reference_logits(tiny, text.ids, start, steering)[start - 1 : -1].double().log_softmax(-1)
            )
            taken = steered.gather(-1, torch.tensor(text.ids[start:])[:, None])[:, 0]
            torch.testing.assert_close(
                torch.tensor(scores[i, j].log_probabilities).double(), taken, rtol=1e-3, atol=1e-3
            )
            kl = (plain.exp() * (plain - steered)).sum(-1)
            torch.testing.assert_close(tables[i][j], kl, rtol=1e-3, atol=1e-4)
            assert float(kl.max()) > 1e-3, "what moves nothing tests nothing"


def test_an_empty_line_ends_a_step_however_it_is_tokenised(smollm: LanguageModel) -> None:
    text = "First.\n\nSecond\n\n\nThird\nFourth \n\n  Fifth.\n \nSixth"
    ids = smollm.renderer.encode(text)
    one_by_one = [token for char in text for token in smollm.renderer.encode(char)]
    assert len(one_by_one) > len(ids)
    for tokens in (ids, one_by_one):
        found = line_ends(torch.tensor([tokens]), smollm.line_breaks)[0].tolist()
        read = [smollm.tokenizer.decode(tokens[: i + 1]) for i in range(len(tokens))]
        kinds = [
            STEP_END if so_far.endswith("\n\n") else LINE_END if so_far.endswith("\n") else 0
            for so_far in read
        ]
        assert found == kinds
        assert 3 <= found.count(STEP_END) <= 4
        assert LINE_END in found


def test_a_bare_pass_that_cannot_know_the_completion_is_refused(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    ids = torch.tensor([tiny.renderer.encode_prompt("hi\n\n")])
    cache = tiny.hf(ids, use_cache=True).past_key_values
    for steering, said in (
        (vector.at(LAYER, half_life=4), "half-life"),
        (vector.at(LAYER, positions="boundaries"), "whole text"),
    ):
        with steer(tiny, steering):
            tiny.hf(ids)
            with pytest.raises(MisuseError, match=said):
                tiny.hf(ids[:, :1], past_key_values=cache)


def test_rows_that_do_not_fade_are_bit_for_bit_as_they_were(tiny: LanguageModel) -> None:
    steady, fading = cells(tiny)[-1], cells(tiny)[0]
    ids = torch.tensor([tiny.renderer.encode_prompt("hi")] * 2)
    with torch.inference_mode():
        with steer(tiny, rows=[[steady], [steady]]):
            alone = tiny.hf(ids).logits[0]
        with steer(tiny, rows=[[steady], [fading]]):
            beside = tiny.hf(ids).logits[0]
    assert torch.equal(alone, beside)
