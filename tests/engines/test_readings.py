"""What readers read of each token is what plain hooks read one text at a time, however rows are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import steerkit as sk
from steerkit.checks.families import byte_tokenizer, families
from steerkit.checks.families import tiny as tiny_family
from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message
from steerkit.core.registry import READERS
from steerkit.engines.base import Completion, ContinuationScore, Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader, as_readers
from steerkit.models import LanguageModel
from tests.engines.sites import hybrid
from tests.tiny import random_vector

Readings = list[list[tuple[float, float] | None]]
PROMPTS = ("Why?", "What is the capital of the moon, and who counts the votes there?", "Name one.", "Hm")


def probe_of(lm: LanguageModel, name: str = "doubt") -> Probe:
    torch.manual_seed(3)
    metadata = ProbeMetadata(
        name=name, model=lm.name, fingerprint=lm.fingerprint, template_digest="", layer=1
    )
    return Probe(torch.randn(lm.n_layers, lm.d_model) / 4, torch.randn(lm.n_layers), metadata)


def readers_of(lm: LanguageModel) -> list[Reader]:
    vector = random_vector(lm)
    return [
        VectorReader(vector, 0),
        VectorReader(vector, lm.n_layers - 1),
        ProbeReader(probe_of(lm)),
        NamedReader("log-probability"),
        NamedReader("entropy"),
        NamedReader("margin"),
    ]


def by_hand(
    lm: LanguageModel, request: Request | ScoreRequest, prompt: int, text: Sequence[int], cached: bool
) -> Readings:
    """What the request's readers read of `text`, by hooks on the bare blocks, which steer too, and logits.

    In one pass, or `cached`: the prompt but for its last token, then token by token, with the model's own cache.
    """
    ids = torch.tensor([list(text)])
    seen: dict[int, list[torch.Tensor]] = {}
    begin = 0

    def keep(layer: int, output: Any) -> None:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        seen.setdefault(layer, []).append(hidden.detach()[0])

    def edit(steering: sk.Steering, layer: int, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        at = begin + torch.arange(hidden.shape[1])[:, None]
        places = {"all": at >= 0, "prompt": at < prompt - 1, "completion": at >= prompt - 1}
        change = steering.strength * steering.vector.direction[layer]
        hidden = hidden + places[steering.scope] * change
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handles = [
        block.register_forward_hook(lambda _m, _a, output, layer=layer: keep(layer, output))
        for layer, block in enumerate(lm.blocks)
    ]
    for steering in request.interventions:
        assert isinstance(steering, sk.Steering)
        for layer in steering.layers:
            hook = partial(edit, steering, layer)
            handles.append(
                lm.blocks[layer].register_forward_hook(lambda _m, _a, output, hook=hook: hook(output))
            )
    parts = [range(prompt - 1), *(range(i, i + 1) for i in range(prompt - 1, len(text)))]
    nats, past = [], None
    try:
        with torch.inference_mode():
            for part in parts if cached else [range(len(text))]:
                begin = part.start
                out = lm.hf(input_ids=ids[:, part.start : part.stop], use_cache=cached, past_key_values=past)
                past = out.past_key_values if cached else None
                nats.append(out.logits[0].float())
    finally:
        for handle in handles:
            handle.remove()
    states, logits = {layer: torch.cat(parts) for layer, parts in seen.items()}, torch.cat(nats)
    log_p = logits.log_softmax(-1)
    found: Readings = []
    for reader in request.readers:
        if isinstance(reader, VectorReader):
            v = reader.vector.direction[reader.layer]
            read = states[reader.layer]
            found.append(with_size(read @ (v / v.norm()), read.norm(dim=-1)))
        elif isinstance(reader, ProbeReader):
            read, weight = states[reader.layer], reader.probe.weight[reader.layer]
            # A probability moves by at most a quarter of what its log-odds do.
            size = weight.norm() * read.norm(dim=-1) / 4
            found.append(with_size(reader.probe.probability(reader.layer, read), size))
        else:
            top = log_p.topk(2, dim=-1).values
            values = {
                "log-probability": log_p[:-1].gather(-1, ids[0, 1:, None]).squeeze(-1),
                "entropy": -(log_p.exp() * log_p).sum(-1)[:-1],
                "margin": (top[:, 0] - top[:, 1])[:-1],
            }
            found.append([None, *with_size(values[reader.label], logits.abs().amax(-1)[:-1])])
    return found


def with_size(values: torch.Tensor, sizes: torch.Tensor) -> list[tuple[float, float] | None]:
    """Each value with the size of what it is read of: a state's norm, or the largest logit."""
    return list(zip(values.tolist(), sizes.expand(values.shape).tolist(), strict=True))


def check_completion(lm: LanguageModel, done: Completion, cached: bool = False) -> None:
    prompt = lm.renderer.encode_prompt(done.request.prompt)
    check(lm, done, len(prompt), [*prompt, *done.token_ids], cached, ran_last=done.finish == "stop")


def check(
    lm: LanguageModel,
    done: Completion | ContinuationScore,
    prompt: int,
    text: Sequence[int],
    cached: bool = False,
    *,
    ran_last: bool = True,
) -> None:
    assert [reading.reader for reading in done.readings] == list(done.request.readers)
    hand = by_hand(lm, done.request, prompt, text, cached=False)
    other = by_hand(lm, done.request, prompt, text, cached=True) if cached else hand
    for reading, values, others in zip(done.readings, hand, other, strict=True):
        assert len(reading.prompt) == prompt
        got = [*reading.prompt, *reading.completion]
        if reading.reader.place is not None and not ran_last:
            values[-1] = None
        assert [value is None for value in got] == [value is None for value in values]
        for value, one, two in zip(got, values, others, strict=True):
            if one is not None and two is not None:
                allowed = 1e-5 * max(1.0, one[1]) + abs(one[0] - two[0])
                assert value == pytest.approx(one[0], abs=allowed), reading.reader


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_token_is_read_as_a_plain_hook_reads_it(tiny: LanguageModel, batch_size: int) -> None:
    readers = readers_of(tiny)
    requests = [
        Request(prompt, (), Decoding(3 + 4 * place), key=(place, place), readers=tuple(readers[place:]))
        for place, prompt in enumerate(PROMPTS)
    ]
    done = list(TransformersEngine(tiny, batch_size).generate([*requests, Request("And?", (), Decoding(5))]))
    assert len(done) == len(requests) + 1
    for completion in done:
        check_completion(tiny, completion)


@pytest.fixture(scope="session", params=["qwen3-next", "falcon_h1", "lfm2"])
def hybrid_model(request: pytest.FixtureRequest) -> LanguageModel:
    """Random hybrids: linear attention with experts, state spaces beside attention, short convolutions."""
    if request.param == "qwen3-next":
        return hybrid()
    return sk.LanguageModel(tiny_family(families()[request.param]), byte_tokenizer(), request.param)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_hybrid_is_read_as_a_plain_hook_reads_it(hybrid_model: LanguageModel, batch_size: int) -> None:
    # Its recurrent blocks add up in another order over a whole text than token by token: no reading can be closer to
    # the one way than the model's other way is.
    check_packed(hybrid_model, batch_size, cached=True)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_bundled_model_is_read_as_a_plain_hook_reads_it(bundled: LanguageModel, batch_size: int) -> None:
    check_packed(bundled, batch_size)


def check_packed(lm: LanguageModel, batch_size: int, cached: bool = False) -> None:
    """Rows of unequal length, with different steerings and readers."""
    vector = random_vector(lm)
    requests = [
        Request(prompt, acting, Decoding(3 + 4 * place), readers=tuple(readers_of(lm)[place % 3 :]))
        for place, prompt in enumerate(PROMPTS)
        for acting in ((), (vector.at(layer=0, strength=0.5),))
    ]
    for completion in TransformersEngine(lm, batch_size).generate(requests):
        check_completion(lm, completion, cached)


def test_a_steered_row_is_read_as_the_layers_below_the_reading_left_it(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    steering = vector.at(layer=0, strength=2.0)
    requests = [
        Request(prompt, acting, Decoding(6), readers=(VectorReader(vector, 1), NamedReader("entropy")))
        for prompt in PROMPTS
        for acting in (
            (),
            (steering,),
            (replace(steering, scope="all"),),
            (replace(steering, scope="prompt"),),
        )
    ]
    done = list(TransformersEngine(tiny, 5).generate(requests))
    for completion in done:
        check_completion(tiny, completion)
    plain, steered = (
        next(c for c in done if c.request.interventions == acting and c.request.prompt == PROMPTS[0])
        for acting in ((), (steering,))
    )
    assert plain.readings[0].prompt[:-1] == pytest.approx(steered.readings[0].prompt[:-1])
    assert plain.readings[0].prompt[-1] != pytest.approx(steered.readings[0].prompt[-1])


def test_reading_changes_nothing_that_is_written(tiny: LanguageModel) -> None:
    sampled = Decoding(12, temperature=1.0, seed=5)
    for decoding in (Decoding(12), sampled):
        plain = [Request(prompt, (), decoding, key=prompt) for prompt in PROMPTS]
        read = [replace(request, readers=tuple(readers_of(tiny))) for request in plain]
        one, other = (
            {c.request.key: c for c in TransformersEngine(tiny, 3).generate(r)} for r in (plain, read)
        )
        assert {k: (c.token_ids, c.finish) for k, c in one.items()} == {
            k: (c.token_ids, c.finish) for k, c in other.items()
        }
        assert not one[PROMPTS[0]].readings


def test_rows_of_one_batch_have_different_readers(tiny: LanguageModel) -> None:
    every = readers_of(tiny)
    requests = [
        Request(prompt, (), Decoding(4), readers=some)
        for prompt in PROMPTS
        for some in ((), (every[0],), (every[3], every[1]), (every[2],))
    ]
    for completion in TransformersEngine(tiny, 16).generate(requests):
        check_completion(tiny, completion)


@pytest.mark.parametrize("scope", [None, "completion", "all"])
def test_given_texts_are_read_as_plain_hooks_read_them(tiny: LanguageModel, scope: Any) -> None:
    steerings = (replace(random_vector(tiny).at(layer=0, strength=2.0), scope=scope),) if scope else ()
    requests = [
        ScoreRequest(prompt, reply, steerings, readers=tuple(readers_of(tiny)[place:]))
        for place, prompt in enumerate(PROMPTS)
        for reply in (
            "Because it rains.",
            "No",
            "I do not know of any moon that has a capital, nor of votes.",
        )
    ]
    for score in TransformersEngine(tiny).score(requests):
        check(tiny, score, len(score.token_ids) - len(score.log_probabilities), score.token_ids)


def test_a_prompt_alone_is_read_and_its_tokens_join_to_the_text(tiny: LanguageModel) -> None:
    (text,) = sk.read(tiny, "Why is it so?", ["entropy", VectorReader(random_vector(tiny), 1)])
    ids = tiny.renderer.encode_prompt("Why is it so?")
    assert text.text == tiny.renderer.decode_raw(ids)
    assert text.prompt_tokens == len(text.tokens) == len(ids)
    assert text.values(0)[0] is None
    assert None not in text.values(1)
    (other,) = sk.read(tiny, (Message(role="user", content="Why is it so?"),), "entropy")
    assert other.values() == pytest.approx(text.values(0))
    with pytest.raises(MisuseError, match="nothing reads"):
        sk.read(tiny, "Why?", [])


def test_a_reader_given_twice_or_without_a_layer_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="given twice"):
        as_readers(["entropy", "entropy"])
    with pytest.raises(MisuseError, match=r"VectorReader\(vector, layer\)"):
        as_readers([random_vector(tiny)])
    with pytest.raises(MisuseError, match="takes no layer"):
        NamedReader("entropy", 3)
    with pytest.raises(MisuseError, match="no reader 'nothing'"):
        as_readers("nothing")
    other = random_vector(tiny)
    with pytest.raises(MisuseError):
        VectorReader(other, 99)


def test_what_a_reader_is_written_as_is_read_back(tiny: LanguageModel) -> None:
    vector, probe = random_vector(tiny, name="a b,c"), probe_of(tiny)
    store = sk.Store([vector, probe])
    for reader in (*readers_of(tiny)[3:], VectorReader(vector, 1), ProbeReader(probe), ProbeReader(probe, 0)):
        assert sk.parse_reader(str(reader), vectors=store) == reader
    same_name = probe_of(tiny, vector.name)
    bringing = sk.Store([vector, same_name])
    assert sk.parse_reader(str(ProbeReader(same_name)), vectors=bringing) == ProbeReader(same_name)
    assert sk.parse_reader(str(VectorReader(vector, 0)), vectors=bringing) == VectorReader(vector, 0)
    with pytest.raises(MisuseError, match="names no layer"):
        sk.parse_reader('"a b,c"', vectors=store)
    with pytest.raises(MisuseError, match="takes no layer"):
        sk.parse_reader("entropy@layer=2")


def test_a_prompt_is_left_unread_where_nobody_asks(tiny: LanguageModel) -> None:
    readers = tuple(readers_of(tiny))
    asked = Request(PROMPTS[1], (), Decoding(5), readers=readers)
    engine = TransformersEngine(tiny)
    [read], [unread] = (list(engine.generate([each])) for each in (asked, replace(asked, reads_prompt=False)))
    for one, other in zip(read.readings, unread.readings, strict=True):
        assert one.completion == pytest.approx(other.completion)
        assert set(other.prompt[:-1]) == {None}
        of_states = one.reader.place is not None  # at the prompt's end, which is a step of the completion
        assert other.prompt[-1] == (pytest.approx(one.prompt[-1]) if of_states else None)


def test_prompts_that_begin_alike_are_read_alike_once(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LM head runs for each different past of the prompts alone, and steered prompts have pasts of their own."""
    prompts = [
        f"A long beginning that all of them share, and then {end}" for end in ("one", "two", "one more")
    ]
    steering = replace(random_vector(tiny).at(layer=0, strength=2.0), scope="all")
    requests = [
        Request(prompt, acting, Decoding(2), readers=tuple(readers_of(tiny)))
        for prompt in prompts
        for acting in ((), (steering,))
    ]
    positions: list[int] = []
    head = tiny.hf.get_output_embeddings()
    assert head is not None
    handle = head.register_forward_hook(lambda _m, given, _out: positions.append(given[0].shape[:2].numel()))
    try:
        done = list(TransformersEngine(tiny).generate(requests))
    finally:
        handle.remove()
    for completion in done:
        check_completion(tiny, completion)
    pasts = {
        ids[: i + 1]
        for ids in map(tuple, map(tiny.renderer.encode_prompt, prompts))
        for i in range(len(ids) - 1)
    }
    assert positions[:2] == [len(pasts)] * 2  # steered and unsteered prompts in passes of their own

    monkeypatch.setattr(type(tiny.hf), "get_output_embeddings", lambda _self: None)
    for completion in TransformersEngine(tiny).generate(
        requests
    ):  # a model whose head is no module of its own
        check_completion(tiny, completion)


def test_reading_takes_no_pass_of_its_own(tiny: LanguageModel) -> None:
    passes: list[int] = []
    handle = tiny.blocks[0].register_forward_hook(lambda _m, _given, _out: passes.append(1))
    counts = []
    try:
        engine = TransformersEngine(tiny)
        list(engine.generate([Request("Why?", (), Decoding(2))]))  # shortcuts are tried now
        for readers in ((), tuple(readers_of(tiny))):
            passes.clear()
            list(engine.generate(Request(prompt, (), Decoding(7), readers=readers) for prompt in PROMPTS))
            counts.append(len(passes))
    finally:
        handle.remove()
    assert counts[0] == counts[1]


def test_a_registered_reader_gives_a_number_a_token(tiny: LanguageModel) -> None:
    @sk.reader("as-wide-as-states", of="states")
    def wide(hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    try:
        with pytest.raises(MisuseError, match="a number a token"):
            sk.read(tiny, "Why?", NamedReader("as-wide-as-states", 1))
    finally:
        del READERS._things["as-wide-as-states"]


@pytest.mark.parametrize("text", ["entropy@as=probe", "entropy@site=resid_post", "", " ", None, ["entropy"]])
def test_what_names_no_reader_is_refused(text: Any) -> None:
    with pytest.raises(MisuseError):
        sk.parse_reader(text)
