"""Every way of decoding against transformers' own `generate`, row by row, in batches of mixed settings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.engines.transformers.batch import RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.sampling import row_uniforms
from steerkit.engines.transformers.stepping import Stepping
from steerkit.engines.transformers.whole_texts import WholeTextBatch
from steerkit.interventions.logit_rules import OpenerBias, ThinkingBudget
from steerkit.models import LanguageModel
from tests.tiny import CHAT_TEMPLATE, SPECIAL, byte_tokenizer, random_vector, tiny_hf

TOKENS = 24
PROMPTS = ["Why?", "a b c a b c", "What is the tallest mountain on Earth, and who climbed it first?", "no"]
PENALTIES = [{"repetition_penalty": value} for value in (1.3, 5.0, 0.6)]
SAMPLED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 5},
    {"top_p": 0.8},
    {"temperature": 0.9, "top_p": 1e-4},
    {"min_p": 0.2},
    {"temperature": 1.4, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    {"top_k": 1},
    {"top_k": 10_000, "min_p": 1.0},
]


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    """In float64: in float32, the rounding of one packing or another decides where a number meets a token's edge."""
    return LanguageModel(tiny_hf().double(), byte_tokenizer(), "tiny")


def run(lm: LanguageModel, requests: Sequence[Request], batch_size: int) -> list[Completion]:
    """Completions in the order of their requests."""
    numbered = [dataclasses.replace(request, key=i) for i, request in enumerate(requests)]
    done = {c.request.key: c for c in TransformersEngine(lm, batch_size).generate(numbered)}
    return [done[i] for i in range(len(requests))]


def generated(
    lm: LanguageModel, prompt: str, how: Decoding | None = None, sample: int = 0, **options: Any
) -> list[int]:
    """What `generate` adds to a prompt, alone; where it samples, at the row's own random numbers."""
    ids = lm.renderer.encode_prompt(prompt)
    numbers = iter(row_uniforms(how or Decoding(max_new_tokens=TOKENS), ids, sample).tolist())

    def at_the_rows_number(
        probabilities: Tensor, num_samples: int
    ) -> Tensor:  # in place of a throw of torch's own
        assert num_samples == 1
        order = np.argsort(-probabilities[0].numpy(), kind="stable")
        reached = probabilities[0].double().numpy()[order].cumsum()
        return torch.tensor([[order[int((reached <= next(numbers)).sum())]]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", at_the_rows_number)
        out = lm.hf.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=TOKENS,
            eos_token_id=[*lm.stop_ids, *(how.stop_token_ids if how else ())],
            **options,
        )
    return out[0, len(ids) :].tolist()


def without_end(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """Tokens without the one that ended them."""
    return ids[:-1] if ids and ids[-1] in stop_ids else ids


def test_greedy_rows_with_a_repetition_penalty_are_those_of_generate(tiny: LanguageModel) -> None:
    cases = list(itertools.product(PROMPTS, [{}, *PENALTIES]))
    requests = [Request(prompt, (), Decoding(TOKENS, **how)) for prompt, how in cases]
    for (prompt, how), done in zip(cases, run(tiny, requests, 5), strict=True):
        assert list(done.token_ids) == without_end(
            generated(tiny, prompt, do_sample=False, **how), tiny.stop_ids
        )


def test_sampled_rows_are_those_of_generate_at_the_same_random_numbers(tiny: LanguageModel) -> None:
    cases = list(itertools.product(PROMPTS, SAMPLED, (0, 1)))
    hows = [Decoding(TOKENS, **{"temperature": 1.0, "seed": 3, **how}) for _, how, _ in cases]
    requests = [Request(prompt, (), how, sample=n) for (prompt, _, n), how in zip(cases, hows, strict=True)]
    done = run(tiny, requests, 7)
    for (prompt, options, n), how, completion in zip(cases, hows, done, strict=True):
        # What a caller of `generate` leaves out is `top_k` 50, which ours is not.
        expected = generated(tiny, prompt, how, n, do_sample=True, **{"top_k": 0, **options})
        assert list(completion.token_ids) == without_end(expected, tiny.stop_ids)
    assert len({c.token_ids for c in done}) > len(cases) / 2


def test_a_stop_token_ends_a_row_as_it_ends_generate(tiny: LanguageModel) -> None:
    for prompt in PROMPTS:
        plain = generated(tiny, prompt, do_sample=False)
        how = Decoding(TOKENS, stop_token_ids=(plain[7], plain[3], 259))
        expected = generated(tiny, prompt, how, do_sample=False)
        [done] = run(tiny, [Request(prompt, (), how)], 1)
        assert list(done.token_ids) == expected[:-1] == plain[: len(expected) - 1]
        assert done.finish == "stop"


def speaking() -> LanguageModel:
    """The tiny model with a tokenizer whose tokens are printable and hold up to four characters."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    text = "So the end is near. Or is it?\n\nWell, he said: there is no end, and no one to tell of it. Why then? "
    pieces = dict.fromkeys(text[at : at + n] for n in (4, 3, 2) for at in range(len(text) - n))
    written = [piece.replace(" ", "Ġ").replace("\n", "Ċ") for piece in [*characters, *pieces]]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *written][:261])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return LanguageModel(tiny_hf().double(), tokenizer, "speaking")


def test_a_stop_text_ends_a_row_at_the_token_that_ends_generate_and_is_no_part_of_it() -> None:
    """`generate` keeps the stop text, so its text is cut here before the two are compared."""
    lm = speaking()
    decode = lm.tokenizer.decode
    cases: list[tuple[str, Decoding]] = []
    for prompt in PROMPTS:
        text = decode(generated(lm, prompt, do_sample=False)).partition("<")[0]  # before any special token
        for at in range(0, len(text) - 4, 3):
            cases.append((prompt, Decoding(TOKENS, stop=text[at : at + 2])))
            cases.append(
                (prompt, Decoding(TOKENS, stop=("never there", text[at : at + 4], text[at + 1 : at + 3])))
            )
    assert len(cases) > 60
    inside = 0
    for (prompt, how), done in zip(cases, run(lm, [Request(p, (), how) for p, how in cases], 6), strict=True):
        ids = generated(lm, prompt, do_sample=False, stop_strings=list(how.stop), tokenizer=lm.tokenizer)
        text = decode(ids)
        before = text[: min(at for stop in how.stop if (at := text.find(stop)) >= 0)]
        assert done.finish == "stop"
        assert done.text == before.strip()
        kept = list(done.token_ids)
        assert kept == ids[: len(kept)]
        assert decode(kept).startswith(before)
        assert not kept or not decode(kept[:-1]).startswith(before)
        inside += decode(kept) != before
    assert inside > 10  # stop texts that begin inside a token


def test_a_stop_text_counts_behind_the_last_token_that_there_is_room_for(tiny: LanguageModel) -> None:
    [plain] = run(tiny, [Request("Why?", (), Decoding(TOKENS))], 1)
    ends = next(n for n in range(4, TOKENS) if tiny.tokenizer.decode([plain.token_ids[n]]).isascii())
    stop = tiny.tokenizer.decode([plain.token_ids[ends]])
    first = list(plain.token_ids).index(plain.token_ids[ends])
    [done] = run(tiny, [Request("Why?", (), Decoding(first + 1, stop=stop))], 1)
    assert (done.finish, done.token_ids) == ("stop", plain.token_ids[:first])
    [done] = run(tiny, [Request("Why?", (), Decoding(first, stop=stop))], 1)
    assert (done.finish, done.token_ids) == ("length", plain.token_ids[:first])


WAYS = st.builds(
    Decoding,
    max_new_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.7]),
    seed=st.integers(0, 1),
    top_k=st.sampled_from([0, 4]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.4]),
    stop=st.sampled_from([(), (), ("a", "e"), ("\n",), ("<",)]),
    stop_token_ids=st.sampled_from([(), (70, 120, 200, 230)]),
)


@given(
    st.lists(st.tuples(st.sampled_from(PROMPTS), WAYS, st.integers(0, 4)), min_size=2, max_size=12),
    st.integers(2, 5),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_among_rows_of_other_settings_is_the_row_alone(
    tiny: LanguageModel, asked: list[tuple[str, Decoding, int]], batch_size: int
) -> None:
    """Steered, ruled or neither; with fewer places than rows, so that rows retire and others take their places."""
    vector = random_vector(tiny)
    under = [
        (),
        (vector.at(1, 1.0),),
        (OpenerBias(("No", "I"), 6.0),),
        (ThinkingBudget(3),),
        (vector.at(2, 0.5, scope="answer"),),
    ]
    requests = [Request(prompt, under[place], how) for prompt, how, place in asked]
    together = run(tiny, requests, batch_size)
    for request, done in zip(requests, together, strict=True):
        [alone] = run(tiny, [request], 1)
        assert (done.token_ids, done.text, done.finish) == (alone.token_ids, alone.text, alone.finish)


def test_a_model_whose_texts_run_whole_decodes_alike(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hows = [Decoding(12, **{"temperature": 1.0, **how}) for how in SAMPLED]
    hows += [Decoding(12, repetition_penalty=1.3), Decoding(12, stop=("e", "<"), stop_token_ids=(70, 120))]
    requests = [Request(prompt, (), how) for prompt in PROMPTS for how in hows]
    expected = run(tiny, requests, 5)
    monkeypatch.setattr(Stepping, "_new_batch", lambda self: WholeTextBatch(self._lm, aligns=True))
    found = run(tiny, requests, 5)
    assert [(c.token_ids, c.text, c.finish) for c in found] == [
        (c.token_ids, c.text, c.finish) for c in expected
    ]


def test_rows_that_start_again_for_want_of_memory_are_the_same(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hows = [
        Decoding(TOKENS, repetition_penalty=1.3),
        Decoding(TOKENS, 1.0, 0.9, repetition_penalty=1.3),
        Decoding(TOKENS, stop="e"),
    ]
    requests = [Request(prompt, (), how) for prompt in PROMPTS for how in hows]
    expected = run(tiny, requests, 1)
    step, steps = RunningBatch.step, itertools.count()

    def sometimes(self: Any) -> None:
        if next(steps) == 5:
            raise torch.OutOfMemoryError("out of memory")
        step(self)

    monkeypatch.setattr(RunningBatch, "step", sometimes)
    found = run(tiny, requests, 6)
    assert [(c.token_ids, c.finish) for c in found] == [(c.token_ids, c.finish) for c in expected]


def test_plain_greedy_rows_run_no_processor(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a processor was made")

    monkeypatch.setattr("steerkit.engines.transformers.sampling._Group.__init__", none)
    run(tiny, [Request("Why?", (), Decoding(5, top_p=0.5, top_k=3, min_p=0.1, seed=9))], 2)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    {"do_sample": True, "temperature": 1.5, "top_k": 0},
    {
        "do_sample": True,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "typical_p": 1.0,
        "num_beams": 1,
    },
    {"do_sample": True, "temperature": 1.5, "stop_strings": ["e", "i", "o"]},
]


@pytest.fixture
def configured(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], LanguageModel]:
    """The tiny model with a generation config of its own."""

    def with_config(fields: dict[str, Any]) -> LanguageModel:
        ends = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
        monkeypatch.setattr(tiny.hf, "generation_config", GenerationConfig(**ends, **fields))
        return tiny

    return with_config


@pytest.mark.parametrize("fields", CONFIGS, ids=str)
def test_the_models_own_decoding_is_what_generate_does_unasked(
    fields: dict[str, Any], configured: Callable[[dict[str, Any]], LanguageModel]
) -> None:
    lm = configured(fields)
    how = Decoding.of_model(lm, max_new_tokens=TOKENS, seed=5)
    assert how.max_new_tokens == TOKENS
    requests = [Request(prompt, (), how, sample=n) for prompt in PROMPTS for n in (0, 1)]
    for request, done in zip(requests, run(lm, requests, 3), strict=True):
        expected = generated(lm, str(request.prompt), how, request.sample, tokenizer=lm.tokenizer)
        if how.stop:
            assert list(done.token_ids) == expected[: len(done.token_ids)]
            text = lm.tokenizer.decode(expected)
            assert done.text == lm.renderer.decode(expected) or any(stop in text for stop in how.stop)
            assert len(expected) - len(done.token_ids) <= 1
        else:
            assert list(done.token_ids) == without_end(expected, lm.stop_ids)


def test_single_fields_stand_before_the_models_own(
    configured: Callable[[dict[str, Any]], LanguageModel],
) -> None:
    lm = configured({"do_sample": True, "temperature": 0.6, "top_p": 0.95, "repetition_penalty": 1.1})
    assert Decoding.of_model(lm) == Decoding(temperature=0.6, top_p=0.95, top_k=50, repetition_penalty=1.1)
    assert Decoding.of_model(lm, top_k=7, stop="x").top_k == 7
    assert Decoding.of_model(lm, temperature=0.0) == Decoding(repetition_penalty=1.1)
    greedy = configured({"temperature": 0.6, "top_p": 0.95})
    assert Decoding.of_model(greedy) == Decoding()
    assert Decoding.of_model(greedy, temperature=0.3) == Decoding(temperature=0.3, top_p=0.95, top_k=50)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size to 3"),
        ({"num_beams": 4}, "num_beams to 4"),
        ({"do_sample": True, "typical_p": 0.9}, "typical_p to 0.9"),
        ({"do_sample": True, "eta_cutoff": 1e-3}, "eta_cutoff"),
        ({"suppress_tokens": [1, 2]}, "suppress_tokens"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id"),
        ({"min_new_tokens": 5}, "min_new_tokens"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
    ],
)
def test_what_the_models_config_sets_and_we_have_not_is_refused_by_name(
    fields: dict[str, Any], named: str, configured: Callable[[dict[str, Any]], LanguageModel]
) -> None:
    with pytest.raises(MisuseError, match=named) as caught:
        Decoding.of_model(configured(fields))
    assert "\n" not in str(caught.value)


def test_every_setting_of_transformers_is_taken_refused_or_known_to_do_nothing() -> None:
    """A field that a later transformers brings is refused where a config sets it."""
    from steerkit.engines.generation_config import NEUTRAL, TAKEN, WITHOUT_EFFECT, own_decoding

    defaults = GenerationConfig(**GenerationConfig._get_default_generation_params())
    assert own_decoding(defaults)["temperature"] == 0
    assert own_decoding(defaults, temperature=1.0)["top_k"] == 50
    later = GenerationConfig()
    later.brand_new = 3  # no field of this transformers: `generate` would pass it over as well
    assert own_decoding(later) == own_decoding(GenerationConfig())
    assert not set(TAKEN) & (WITHOUT_EFFECT | NEUTRAL.keys())


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 1e-9},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_k": True},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
        {"repetition_penalty": float("inf")},
        {"stop": ""},
        {"stop": ("a", "")},
        {"stop": (3,)},
        {"stop": None},
        {"stop_token_ids": (-1,)},
        {"stop_token_ids": "a"},
        {"stop_token_ids": 1.5},
        {"max_new_tokens": 2.5},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match=next(iter(wrong))) as caught:
        Decoding(**wrong)
    assert "\n" not in str(caught.value)


def test_one_stop_is_accepted_where_several_are_and_a_decoding_says_what_it_does() -> None:
    assert Decoding(stop="a", stop_token_ids=7) == Decoding(stop=["a"], stop_token_ids=[7])
    assert str(Decoding()) == "greedy, at most 64 tokens"
    how = Decoding(
        9, 0.6, 0.95, 1, top_k=20, min_p=0.1, repetition_penalty=1.1, stop="\n\n", stop_token_ids=7
    )
    assert str(how) == (
        "temperature 0.6, top-k 20, top-p 0.95, min-p 0.1, seed 1, repetition penalty 1.1, stopping at '\\n\\n', 7, "
        "at most 9 tokens"
    )
