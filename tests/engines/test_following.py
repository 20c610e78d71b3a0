"""A strength that follows a reader is what one row alone comes to, run token by token with plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import steerkit as sk
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.following import Following, StrengthRamp, StrengthSwitch
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.engines.test_readings import PROMPTS, probe_of
from tests.tiny import random_vector

NAN = float("nan")
BEGUN = PromptEdit(begin="It is\nso.\n\nWhy?\n")


def followings(lm: LanguageModel) -> dict[str, Following]:
    along, probe = VectorReader(random_vector(lm, seed=2), 0), ProbeReader(probe_of(lm), 0)
    return {
        "ramp": StrengthRamp(along, -0.5, 0.5),
        "signed": StrengthRamp(along, -0.2, 0.4, least=-1.0, most=1.5),
        "lines": StrengthRamp(along, -0.5, 0.5, renewed="lines"),
        "steps": StrengthRamp(probe, 0.3, 0.7, renewed="boundaries"),
        "switch": StrengthSwitch(along, 0.2, -0.2),
        "falling": StrengthSwitch(along, -0.2, 0.2),
        "held switch": StrengthSwitch(probe, 0.55, 0.45, renewed="lines"),
        "entropy": StrengthRamp(NamedReader("entropy"), 5.0, 7.0),
        "confidence": StrengthSwitch(NamedReader("log-probability"), -6.0, -6.5, renewed="lines"),
    }


def factors(following: Following, values: Sequence[float], first: int, breaks: Sequence[int]) -> list[float]:
    """One position after the other. `breaks` counts the newlines that end the text read so far, 0, 1 or 2."""
    found, held, on = [], NAN, False
    for place, value in enumerate(values):
        if place < first:
            found.append(0.0)
            continue
        least = {"every": 0, "lines": 1, "boundaries": 2}[following.renewed]
        if place in (first, first + 1) or breaks[place - 1] >= least:
            held = value
        if isinstance(following, StrengthRamp):
            share = min(1.0, max(0.0, (held - following.low) / (following.high - following.low)))
            factor = following.least + (following.most - following.least) * share
            found.append(0.0 if held != held else factor)
            continue
        assert isinstance(following, StrengthSwitch)
        if following.on >= following.off:
            on = held >= following.on or (on and not held < following.off)
        else:
            on = held <= following.on or (on and not held > following.off)
        found.append(float(on))
    return found


def alone(lm: LanguageModel, steering: Steering, ids: Sequence[int], first: int) -> list[float]:
    """The log-probability of each token of `ids` behind `first`, one token more run at a time."""
    assert steering.follows is not None
    following, reader = steering.follows, steering.follows.reader
    newlines = [len(text) - len(text.rstrip("\n")) for text in prefixes_of(lm, ids)]
    of_logits, found = [NAN] * (first + 1), []
    for length in range(first + 1, len(ids)):
        seen: list[float] = []

        def read(_module: Any, _inputs: Any, output: Any, seen: list[float] = seen) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            seen.extend(values_of(reader, hidden[0]))

        def edit(_module: Any, _inputs: Any, output: Any, seen: list[float] = seen) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            readings = seen if reader.place is not None else of_logits
            factor = torch.tensor(factors(following, readings, first, newlines))[:, None]
            hidden = hidden + steering.strength * factor * steering.vector.direction[steering.layers[0]]
            return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

        handles = [lm.blocks[steering.layers[0]].register_forward_hook(edit)]
        if reader.place is not None:
            handles.insert(0, lm.blocks[reader.place.layer].register_forward_hook(read))
        try:
            with torch.inference_mode():
                nats = lm.hf(input_ids=torch.tensor([ids[:length]]), use_cache=False).logits[0, -1].float()
        finally:
            for handle in handles:
                handle.remove()
        log_p = nats.log_softmax(-1)
        found.append(float(log_p[ids[length]]))
        entropy = float(-(log_p.exp() * log_p).sum())
        of_logits.append(entropy if str(reader) == "entropy" else float(log_p[ids[length]]))
    return found


def values_of(reader: Reader, states: torch.Tensor) -> list[float]:
    if isinstance(reader, ProbeReader):
        values: list[float] = reader.probe.probability(reader.layer, states).tolist()
        return values
    if isinstance(reader, VectorReader):
        direction = reader.vector.direction[reader.layer]
        along: list[float] = (states @ (direction / direction.norm())).tolist()
        return along
    return []


def prefixes_of(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    pieces = [lm.renderer.decode_raw([token]) for token in ids]
    return ["".join(pieces[: place + 1]) for place in range(len(pieces))]


def check(lm: LanguageModel, done: Completion) -> None:
    prompt = lm.renderer.encode_prompt(done.request.prompt)
    steering = done.request.interventions[0]
    assert isinstance(steering, Steering)
    expected = alone(lm, steering, [*prompt, *done.token_ids], len(prompt) - 1)
    assert list(done.readings[0].completion) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 40])
def test_packed_rows_follow_as_one_row_alone_does(tiny: LanguageModel, batch_size: int) -> None:
    # Begun with lines and steps that end, which a tiny model seldom writes by itself.
    requests = [
        Request(
            prompt,
            (random_vector(tiny).at(layer=1, strength=6.0, follows=following), BEGUN),
            Decoding(16 + 3 * place, temperature=1.0, seed=place),
            readers=(NamedReader("log-probability"),),
            key=(place, name),
        )
        for place, prompt in enumerate(PROMPTS)
        for name, following in followings(tiny).items()
    ]
    done = list(TransformersEngine(tiny, batch_size).generate(requests))
    assert len(done) == len(requests)
    for completion in done:
        check(tiny, completion)


@pytest.mark.parametrize("name", ["ramp", "signed", "lines", "steps", "switch", "falling", "held switch"])
def test_a_given_text_is_followed_as_a_written_one(tiny: LanguageModel, name: str) -> None:
    steering = random_vector(tiny).at(layer=1, strength=6.0, follows=followings(tiny)[name])
    reply = "It is\nso.\n\nBut why\nis that?\n\n\nNobody knows"
    requests = [ScoreRequest(prompt, reply, (steering,)) for prompt in PROMPTS]
    for score in TransformersEngine(tiny).score(requests):
        first = len(score.token_ids) - len(score.log_probabilities) - 1
        expected = alone(tiny, steering, score.token_ids, first)
        assert list(score.log_probabilities) == pytest.approx(expected, abs=1e-4)


def test_what_is_followed_is_written_and_read_back(tiny: LanguageModel) -> None:
    vector, probe = random_vector(tiny), probe_of(tiny)
    store = sk.Store([vector, random_vector(tiny, seed=2, name="other"), probe])
    for following in followings(tiny).values():
        reader = following.reader
        if isinstance(reader, VectorReader):
            reader = VectorReader(store.vector("other"), reader.layer)
        steering = vector.at(
            layer=1, strength=2.0, follows=type(following)(**{**vars(following), "reader": reader})
        )
        assert sk.parse(str(steering), vectors=store) == steering
        assert sk.from_json(steering.to_json(), store) == steering
    plain = vector.at(layer=1, strength=2.0)
    assert "follows" not in plain.to_json()
    assert plain != vector.at(layer=1, strength=2.0, follows=StrengthRamp(NamedReader("entropy"), 1, 2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random@layer=1,follows=entropy", "by low and high"),
        ("random@layer=1,follows=entropy,low=1,on=2", "by low and high"),
        ("random@layer=1,follows=entropy,low=2,high=1", "high above it"),
        ("random@layer=1,low=1,high=2", "write follows=READER"),
        ("random@layer=1,follows=entropy,low=1,high=2,scope=all", "holds the prompt"),
        ("random@layer=0,follows=random,follows_layer=1,low=1,high=2", "before it acts"),
        ("random@layer=1,follows=entropy,low=1,high=2,renewed=often", "renewed is one of"),
    ],
)
def test_what_cannot_be_followed_is_refused(tiny: LanguageModel, spec: str, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        sk.parse(spec, vectors=sk.Store([random_vector(tiny)], files=False))


def test_a_block_of_steering_takes_what_keeps_no_state_alone(tiny: LanguageModel) -> None:
    every = followings(tiny)
    vector = random_vector(tiny)
    with sk.steer(tiny, vector.at(layer=1, strength=2.0, follows=every["ramp"])):
        pass
    for name in ("switch", "lines", "entropy"):
        with (
            pytest.raises(MisuseError, match="generate through an engine"),
            sk.steer(tiny, vector.at(layer=1, strength=2.0, follows=every[name])),
        ):
            pass


def test_what_is_followed_is_an_axis_of_a_grid(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    grid = sk.Grid(vector, 1, 2.0, {"follows": "none,entropy@low=1,high=3,least=-1"})
    followed = [s.follows for c in grid.cells() for s in c.interventions if isinstance(s, Steering)]
    assert StrengthRamp(NamedReader("entropy"), 1.0, 3.0, least=-1.0) in followed
    assert None in followed


@pytest.mark.parametrize("strength", [0.5, 1.0, -1.0])
@pytest.mark.parametrize("name", ["reach", "mirror"])
def test_a_one_sided_operation_moves_the_wrong_side_alone(
    tiny: LanguageModel, name: str, strength: float
) -> None:
    vector, target = random_vector(tiny), 0.1
    unit = vector.direction[1] / vector.direction[1].norm()
    seen: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append((output if isinstance(output, torch.Tensor) else output[0])[0].clone())

    ids = torch.tensor([tiny.renderer.encode_prompt(PROMPTS[1])])
    steering = vector.at(layer=1, strength=strength, operation=name, target=target, scope="all")
    with torch.inference_mode():
        for acting in ((), (steering,)):
            with sk.steer(tiny, *acting):
                handle = tiny.blocks[1].register_forward_hook(keep)  # behind the steering's own
                tiny.hf(input_ids=ids, use_cache=False)
                handle.remove()
    before, after = seen
    p = before @ unit
    wrong = (target - p) * strength > 0
    assert wrong.any()
    assert not wrong.all()
    assert torch.equal(after[~wrong], before[~wrong])
    times = 1.0 if name == "reach" else 2.0
    moved = before + times * abs(strength) * (target - p)[:, None] * unit
    assert torch.allclose(after[wrong], moved[wrong], atol=1e-5)
