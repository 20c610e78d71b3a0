"""A decoding step waits for the device once: to read which rows ended. More would stall a GPU at every token."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steerkit.core.sites import SITES, SiteName
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.batch import RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.base import Intervention
from steerkit.interventions.following import StrengthRamp, StrengthSwitch
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.logit_rules import (
    CyclicReflex,
    LogitRule,
    OpenerBias,
    SwitchPenalty,
    ThinkingBudget,
)
from steerkit.interventions.policies import ReplyNow, Trigger
from steerkit.interventions.readers import NamedReader, ProbeReader, VectorReader
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.engines.test_readings import probe_of
from tests.tiny import random_vector

# What makes the host wait: a tensor's value read as a number, or a shape that depends on values.
WAITING_OPERATORS = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "equal",
}
READING_METHODS = ("tolist", "numpy", "cpu")


class _Waits(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in WAITING_OPERATORS:
            self.counts[name] += 1
        if name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.counts["index by mask"] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """One counter a step, of everything that would make the host wait for the device."""
    counters: list[Counter[str]] = []
    step = RunningBatch.step

    def counted(self: RunningBatch) -> None:
        counts: Counter[str] = Counter()
        with pytest.MonkeyPatch.context() as patch, _Waits(counts):
            for name in READING_METHODS:
                method = getattr(torch.Tensor, name)

                def reading(tensor: torch.Tensor, *args: Any, method: Any = method, name: str = name) -> Any:
                    counts[name] += 1
                    return method(tensor, *args)

                patch.setattr(torch.Tensor, name, reading)
            step(self)
        counters.append(counts)

    monkeypatch.setattr(RunningBatch, "step", counted)
    return counters


def at_site(vector: SteeringVector, site: SiteName) -> SteeringVector:
    return replace(vector, metadata=vector.metadata.model_copy(update={"site": site}))


def test_a_step_reads_the_device_once(tiny: LanguageModel, waits_of_steps: list[Counter[str]]) -> None:
    v, w = random_vector(tiny, 1), random_vector(tiny, 2)
    compositions = [
        (v.at(1, 1.0), w.at(1, 0.5, operation="rotate")),
        (v.at([0, 2], 1.0, operation="clamp", target=1.0, scope="all"),),
        (v.at(2, 1.0, scope="thinking"), w.at(3, 1.0, scope="answer", operation="ablate")),
        (w.at(2, 1.0, gate=PositionGate(v, 0.0)),),
        (
            v.at(1, 1.0, half_life=4),
            w.at(1, 0.5, scope="thinking", positions="boundaries"),
            v.at(1, positions="last"),
        ),
        tuple(at_site(v, site).at(1, 0.5) for site in SITES),
    ]
    rules: list[LogitRule | None] = [
        None,
        OpenerBias(("No",), 2.0),
        ThinkingBudget(3),
        SwitchPenalty(("a", "b"), beta=4),
        CyclicReflex(("a", "b"), period=8),
    ]
    decoding = [
        Decoding(max_new_tokens=9),
        Decoding(max_new_tokens=7, temperature=0.8, top_p=0.9),
        Decoding(9, 0.8, 0.9, top_k=20, min_p=0.01, repetition_penalty=1.2, stop="never", stop_token_ids=260),
        Decoding(9, repetition_penalty=1.2),
    ]
    requests = [
        Request(f"question {i} <think>", (*cell, *filter(None, [rules[i % len(rules)]])), how)
        for i, cell in enumerate(compositions)
        for how in decoding
    ]
    list(TransformersEngine(tiny, len(requests)).generate(requests))
    assert len(waits_of_steps) >= 9
    assert all(counts == {"tolist": 1} for counts in waits_of_steps), waits_of_steps


@pytest.mark.parametrize("decides", [False, True])
def test_readers_followings_and_policies_cost_no_further_wait(
    tiny: LanguageModel, waits_of_steps: list[Counter[str]], decides: bool
) -> None:
    v, probe = random_vector(tiny, 1), probe_of(tiny)
    readers = (
        VectorReader(v, 1),
        ProbeReader(probe),
        NamedReader("entropy"),
        NamedReader("log-probability"),
        NamedReader("margin"),
    )
    ramp, switch = StrengthRamp(readers[1], 0.2, 0.8), StrengthSwitch(readers[2], 5.0, 4.0, renewed="lines")
    acting: list[tuple[Intervention, ...]] = [
        (),
        (v.at(2, 1.0, follows=ramp),),
        (v.at(1, 1.0, follows=switch),),
    ]
    if decides:
        acting.append((ReplyNow(when=Trigger(readers[0], 1e6, 1e6)),))
    requests = [
        Request(f"question {i}", cell, Decoding(9), readers=readers[i:]) for i, cell in enumerate(acting)
    ]
    list(TransformersEngine(tiny, len(requests)).generate(requests))
    assert len(waits_of_steps) >= 9
    assert all(counts == {"tolist": 1} for counts in waits_of_steps), waits_of_steps


def test_the_counter_sees_what_it_should() -> None:
    counts: Counter[str] = Counter()
    with _Waits(counts):
        x = torch.arange(4)
        float(x.sum())
        x[x > 1]
        x.nonzero()
    with torch.inference_mode(), _Waits(counts):  # as the engine runs
        assert torch.ones(2, dtype=torch.bool).all()
    assert counts["_local_scalar_dense"] == 1
    assert counts["is_nonzero"] == 1
    assert counts["index by mask"] == 1
    assert counts["nonzero"] >= 1
