"""What the plugin reads of any schedule of steps, and how it gets into an answer, without vLLM."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit.core.errors import SteerkitError
from steerkit.integrations.vllm import logit_readers
from steerkit.integrations.vllm.answers import Answers, _with_readings, joined
from steerkit.integrations.vllm.payload import Payload
from steerkit.integrations.vllm.plan import Asked, plan_from_wire, plan_of, plan_to_wire
from steerkit.integrations.vllm.read_rows import ReadRows
from steerkit.integrations.vllm.rows import Rows
from steerkit.integrations.vllm.tables import Tables
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader
from steerkit.models import LanguageModel
from tests.tiny import random_vector

VOCABULARY = 50


@pytest.fixture
def readers(tiny: LanguageModel) -> list[Reader]:
    metadata = ProbeMetadata(name="p", model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    probe = Probe(torch.randn(tiny.n_layers, tiny.d_model) / 4, torch.randn(tiny.n_layers), metadata)
    vector = random_vector(tiny, 1)
    return [
        VectorReader(vector, 1),
        NamedReader("log-probability"),
        ProbeReader(probe),
        NamedReader("entropy"),
        VectorReader(vector, 3),
        NamedReader("margin"),
        VectorReader(random_vector(tiny, 2), 1),
    ]


@dataclass
class Text:
    """A text whose states are given, of which a server knows `prompt` tokens and samples the others."""

    ids: list[int]
    prompt: int
    readers: tuple[Reader, ...]
    states: Tensor  # [layer, position, d_model]
    reached: int = -1
    parts: list[Any] = field(default_factory=list)


class Worker:
    """A worker's tables and rows over texts whose states are given."""

    def __init__(self, tiny: LanguageModel, head: nn.Linear, *, computes_last: bool) -> None:
        self.tables = Tables(range(tiny.n_layers), tiny.d_model, 256, 8, 2, torch.empty(0), readers=4)
        self.rows = Rows(self.tables, lambda: tiny.tokenizer)
        self.head, self.computes_last = head, computes_last
        self.reading = ReadRows(self.tables.readers, head)
        # A steering at a layer that is read: readings are of what it finds.
        self.payload = Payload.of((random_vector(tiny, 5).at([1, 3], 2.0, scope="all"),), tiny.markers)

    def step(self, texts: dict[str, Text], counts: dict[str, int]) -> None:
        names, starts = list(counts), [texts[name].reached for name in counts]
        parts = [slice(start, start + n) for start, n in zip(starts, counts.values(), strict=True)]
        tokens = torch.tensor(
            [t for name, part in zip(names, parts, strict=True) for t in texts[name].ids[part]],
            dtype=torch.int32,
        )
        step = names, starts, list(counts.values()), tokens
        self.rows.place(*step)
        self.reading.place(*step)
        states = torch.cat([texts[n].states[:, p] for n, p in zip(names, parts, strict=True)], dim=1)
        padded = nn.functional.pad(states, (0, 0, 0, 3))
        with self.tables.current():
            for layer, state in enumerate(padded):
                hidden = torch.sin(state)
                torch.ops.steerkit.edit(hidden, state - hidden, layer)
        ends = torch.tensor(list(counts.values())).cumsum(0) - 1
        last = self.head(states[-1][ends]) if self.computes_last else None
        self.reading.note(padded[-1], last)
        if last is not None:
            last.zero_()  # as a sampler may
        for name, n in counts.items():
            texts[name].reached += n


def expected(text: Text, head: nn.Linear, reader: Reader) -> list[float | None]:
    if isinstance(reader, VectorReader):
        v = reader.vector.direction[reader.layer]
        return (text.states[reader.layer] @ (v / v.norm())).tolist()
    if isinstance(reader, ProbeReader):
        return reader.probe.probability(reader.layer, text.states[reader.layer]).tolist()
    log_p = head(text.states[-1]).log_softmax(-1)[:-1]
    if reader.label == "log-probability":
        return [None, *log_p.gather(-1, torch.tensor(text.ids[1:])[:, None]).squeeze(-1).tolist()]
    if reader.label == "entropy":
        return [None, *(-(log_p.exp() * log_p).sum(-1)).tolist()]
    top = log_p.topk(2).values
    return [None, *(top[:, 0] - top[:, 1]).tolist()]


@pytest.mark.parametrize("computes_last", [True, False], ids=["first runner", "second runner"])
@pytest.mark.parametrize("seed", range(4))
def test_any_schedule_reads_each_token_as_its_states_and_logits_are(
    tiny: LanguageModel,
    readers: list[Reader],
    seed: int,
    computes_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunked prefill, continuous batching, preemption, and readings fetched in pieces, in random order."""
    monkeypatch.setattr(logit_readers, "BLOCK", 3)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    head = nn.Linear(tiny.d_model, VOCABULARY).requires_grad_(requires_grad=False)
    worker = Worker(tiny, head, computes_last=computes_last)
    texts = {}
    for number in range(12):
        length = draw.randint(4, 24)
        ids = [draw.randrange(VOCABULARY) for _ in range(length)]
        some = tuple(draw.sample(readers, draw.randint(0, 4)))
        texts[f"r{number}"] = Text(
            ids, draw.randint(1, length - 1), some, torch.randn(tiny.n_layers, length, tiny.d_model)
        )
    while unfinished := [n for n, text in texts.items() if text.reached < len(text.ids)]:
        counts = {}
        for name in draw.sample(unfinished, min(len(unfinished), draw.randint(1, 5))):
            text = texts[name]
            if text.reached < 0:
                text.reached = 0
                if text.readers:
                    worker.reading.admit(name, through_the_wire(text.readers))
                if worker.payload is not None and draw.random() < 0.7:
                    worker.rows.admit(name, worker.payload, text.prompt, text.ids[: text.prompt])
            elif draw.random() < 0.1:  # preempted: everything known is computed again
                text.reached = 0
            left = text.prompt - text.reached
            counts[name] = draw.randint(1, left) if left > 0 else 1
        worker.step(texts, counts)
        if draw.random() < 0.3:
            for name, parts in worker.reading.take(counts).items():
                texts[name].parts += joined([parts])
    for name, text in texts.items():
        text.parts += joined(each[name] for each in [worker.reading.take([name])] if name in each)
        worker.reading.forget(name)
        entries = answered(text)
        assert [entry["reader"] for entry in entries] == list(map(str, text.readers))
        for reader, entry in zip(text.readers, entries, strict=True):
            assert len(entry["prompt"]) == text.prompt
            assert [*entry["prompt"], *entry["completion"]] == pytest.approx(
                expected(text, head, reader), abs=1e-5
            )
    assert not worker.tables.readers._pools[1]._number  # all places were given back
    assert not worker.reading._logits._waiting


def through_the_wire(readers: Sequence[Reader]) -> tuple[Asked, ...]:
    wire = plan_to_wire(readers, stepwise=False)
    plan = plan_of(SimpleNamespace(extra_args={"steerkit_readers": wire}), "fault")
    assert plan is not None
    return plan_from_wire(plan)


def answered(text: Text) -> list[dict[str, Any]]:
    """What the front end makes of the pieces."""
    given: list[Any] = []
    state = SimpleNamespace(
        prompt_len=text.prompt,
        detokenizer=SimpleNamespace(num_output_tokens=lambda: len(text.ids) - text.prompt),
    )
    names = list(map(str, text.readers))
    for number, part in enumerate(text.parts):
        taken = {"steerkit": {"names": names, "parts": [part]}, "other": 1}
        last = number == len(text.parts) - 1
        _with_readings(
            lambda _self, *args, **_: given.append(args),
            state,
            [1],
            None,
            "stop" if last else None,
            None,
            taken,
        )
        assert given[-1][4]["other"] == 1
        assert ("steerkit" in given[-1][4]) == last
    return given[-1][4]["steerkit"]["readings"] if given else [] if not names else pytest.fail("no parts")


def test_a_forged_plan_is_refused() -> None:
    for forged in ("entropy", ["entropy"], {"form": "steerkit-program-3"}):
        with pytest.raises(SteerkitError, match="fault"):
            plan_of(SimpleNamespace(extra_args={"steerkit_readers": forged}), "fault")
    assert plan_of(SimpleNamespace(extra_args=None), "fault") is None


class Core:
    """An engine core of two pipeline stages, whose workers say what they are told to."""

    def __init__(self, taken: list[dict[str, Any]]) -> None:
        self.model_executor = self
        self.taken, self.asked = taken, []
        self.steerkit_queued: set[str] = set()
        self.scheduler = SimpleNamespace(requests={})

    def collective_rpc(self, function: Callable[..., Any], args: tuple[Any, ...] = ()) -> list[Any]:
        if function.__name__ == "logit_readers":
            return [["entropy", "margin"], ["entropy"]]
        self.asked.append(args[0])
        return self.taken


def output(name: str, *, finished: bool) -> Any:
    return SimpleNamespace(request_id=name, finished=finished, kv_transfer_params=None)


def test_the_core_asks_its_workers_once_for_what_has_ended_and_puts_it_into_the_outputs(
    readers: list[Reader],
) -> None:
    numbers = torch.tensor([1.0, 2.0]).numpy().tobytes()
    core = Core([{"a": {0: (0, numbers)}}, {"a": {1: (1, numbers), 0: (5, b"")}}])
    answers = Answers(core)
    answers.expect("a", plan_to_wire([readers[0], readers[3]], stepwise=False))
    answers.expect("b", plan_to_wire([readers[3]], stepwise=True))
    ongoing, ended, other = (
        output("a", finished=False),
        output("a", finished=True),
        output("c", finished=True),
    )
    answers.fill({0: SimpleNamespace(outputs=[ongoing, other])})
    answers.fill(None)
    assert core.asked == []
    assert ongoing.kv_transfer_params is None
    stepping = output("b", finished=False)
    answers.fill({0: SimpleNamespace(outputs=[stepping]), 1: SimpleNamespace(outputs=[ended])})
    assert core.asked == [["b", "a"]]
    assert ended.kv_transfer_params["steerkit"]["parts"] == [(1, 1, numbers), (0, 0, numbers)]
    assert stepping.kv_transfer_params["steerkit"]["parts"] == []
    answers.fill({0: SimpleNamespace(outputs=[output("a", finished=True)])})
    assert len(core.asked) == 1
    with pytest.raises(SteerkitError, match="no reader 'margin' is registered in this server's workers"):
        answers.expect("d", plan_to_wire([readers[5]], stepwise=False))


def test_requests_that_were_aborted_are_not_remembered_for_ever(readers: list[Reader]) -> None:
    answers = Answers(Core([{}]))
    plan = plan_to_wire([readers[3]], stepwise=False)
    for number in range(10_000):
        answers.expect(str(number), plan)
    assert len(answers._plans) <= 1024
