"""What readers read of each token is what plain hooks read one text at a time, however rows are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message
from steerkit.engines.base import Completion, ContinuationScore, Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader, as_readers
from steerkit.models import LanguageModel
from tests.tiny import random_vector

Readings = list[list[float | None]]
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


def by_hand(lm: LanguageModel, request: Request | ScoreRequest, prompt: int, text: Sequence[int]) -> Readings:
    """What the request's readers read of `text`, by hooks on the bare blocks, which steer too, and logits."""
    ids = torch.tensor([list(text)])
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        seen[layer] = (output if isinstance(output, torch.Tensor) else output[0]).detach()[0]

    def edit(steering: sk.Steering, layer: int, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        at = torch.arange(hidden.shape[1])[:, None]
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
    try:
        with torch.inference_mode():
            logits = lm.hf(input_ids=ids, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    log_p = logits.float().log_softmax(-1)
    found: Readings = []
    for reader in request.readers:
        if isinstance(reader, VectorReader):
            v = reader.vector.direction[reader.layer]
            found.append((seen[reader.layer] @ (v / v.norm())).tolist())
        elif isinstance(reader, ProbeReader):
            found.append(reader.probe.probability(reader.layer, seen[reader.layer]).tolist())
        elif reader.label == "log-probability":
            found.append([None, *log_p[:-1].gather(-1, ids[0, 1:, None]).squeeze(-1).tolist()])
        elif reader.label == "entropy":
            found.append([None, *(-(log_p.exp() * log_p).sum(-1))[:-1].tolist()])
        else:
            top = log_p.topk(2, dim=-1).values
            found.append([None, *(top[:, 0] - top[:, 1])[:-1].tolist()])
    return found


def check_completion(lm: LanguageModel, done: Completion) -> None:
    prompt = lm.renderer.encode_prompt(done.request.prompt)
    check(lm, done, len(prompt), [*prompt, *done.token_ids])


def check(lm: LanguageModel, done: Completion | ContinuationScore, prompt: int, text: Sequence[int]) -> None:
    assert [reading.reader for reading in done.readings] == list(done.request.readers)
    for reading, expected in zip(done.readings, by_hand(lm, done.request, prompt, text), strict=True):
        assert len(reading.prompt) == prompt
        got = [*reading.prompt, *reading.completion]
        assert [value is None for value in got] == [value is None for value in expected]
        assert [v for v in got if v is not None] == pytest.approx(
            [v for v in expected if v is not None], abs=1e-5, rel=1e-5
        ), reading.reader


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
