"""What readers read of each token is what plain hooks read one text at a time, however rows are packed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader, as_readers
from steerkit.models import LanguageModel
from tests.tiny import random_vector

PROMPTS = ("Why?", "What is the capital of the moon, and who counts the votes there?", "Name one.", "Hm")


def probe_of(lm: LanguageModel) -> Probe:
    torch.manual_seed(3)
    metadata = ProbeMetadata(
        name="doubt", model=lm.name, fingerprint=lm.fingerprint, template_digest="", layer=1
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


def by_hand(lm: LanguageModel, done: Completion) -> list[list[float | None]]:
    """The same of one text: hooks on the bare blocks, the steering added by `sk.steer`, and logits."""
    prompt = tuple(lm.renderer.encode_prompt(done.request.prompt))
    ids = torch.tensor([[*prompt, *done.token_ids]])
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        seen[layer] = (output if isinstance(output, torch.Tensor) else output[0]).detach()[0]

    def edit(steering: sk.Steering, layer: int, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        at = torch.arange(hidden.shape[1])[:, None]
        places = {"all": at >= 0, "prompt": at < len(prompt) - 1, "completion": at >= len(prompt) - 1}
        change = steering.strength * steering.vector.direction[layer]
        hidden = hidden + places[steering.scope] * change
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handles = [
        block.register_forward_hook(lambda _m, _a, output, layer=layer: keep(layer, output))
        for layer, block in enumerate(lm.blocks)
    ]
    for steering in done.request.interventions:
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
    found: list[list[float | None]] = []
    for reader in done.request.readers:
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


def check(lm: LanguageModel, done: Completion) -> None:
    assert [reading.reader for reading in done.readings] == list(done.request.readers)
    for reading, expected in zip(done.readings, by_hand(lm, done), strict=True):
        assert len(reading.prompt) == done.prompt_tokens
        assert len(reading.completion) == done.tokens
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
        check(tiny, completion)


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
        check(tiny, completion)
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
        check(tiny, completion)


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
