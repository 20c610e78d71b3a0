"""The server engine against servers that answer, refuse, stall, lie and die. No vLLM is needed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from steerkit.core.errors import MisuseError, ModelMismatchError, SteerkitError
from steerkit.core.registry import READERS
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.remote.readers import read_reader_argument
from steerkit.engines.remote.served_model import ServedModel
from steerkit.engines.remote.server import ServerEngine
from steerkit.engines.remote.wire import to_argument
from steerkit.interventions.base import Intervention
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.logit_rules import OpenerBias, ThinkingBudget
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import NamedReader, ProbeReader, RegisteredReader, VectorReader
from steerkit.interventions.store import Store
from steerkit.models import LanguageModel
from tests.engines.fake_server import FakeServer, Reply, completion
from tests.tiny import random_vector, tiny_model

Start = Callable[..., FakeServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start fake servers; they end with the test."""
    servers: list[FakeServer] = []

    def begin(before: Callable[[FakeServer, dict[str, Any]], Reply | None] | None = None) -> FakeServer:
        servers.append(FakeServer(before))
        return servers[-1]

    yield begin
    for server in servers:
        if not server.dead:
            server.kill()


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_model()


@pytest.fixture(scope="module")
def served(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    lm.hf.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return ServedModel(str(folder))


def engine(served: ServedModel, *servers: FakeServer, **options: Any) -> ServerEngine:
    options = {"backoff": 0.01, "timeout": 5.0, "concurrency": 4} | options
    return ServerEngine([server.url for server in servers], served, **options)


def some(lm: LanguageModel, count: int = 12) -> list[Request]:
    vector = random_vector(lm)
    return [Request(f"question {i}", (vector.at(1, i),), Decoding(6), key=i) for i in range(1, count + 1)]


def test_the_model_is_known_without_its_weights(lm: LanguageModel, served: ServedModel) -> None:
    assert served.fingerprint == lm.fingerprint
    assert (served.n_layers, served.d_model, served.stop_ids) == (lm.n_layers, lm.d_model, lm.stop_ids)
    assert served.renderer.digest == lm.renderer.digest


def test_a_request_becomes_one_completion_of_its_own_tokens(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    server = start()
    completions = {c.request.key: c for c in engine(served, server).generate(some(lm))}
    assert sorted(completions) == list(range(1, 13))
    for request in some(lm):
        body = next(b for b in server.answered if b["prompt"] == lm.renderer.encode_prompt(request.prompt))
        assert body["vllm_xargs"] == {"steerkit": to_argument(request.interventions)}
        assert request.interventions[0].tensors[0].digest in body["vllm_xargs"]["steerkit"][0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("the-model", 0.0, 6)
        # What is left out, a server takes from the model's generation_config.json.
        assert (body["repetition_penalty"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, 0, 0.0)
        assert (body["presence_penalty"], body["frequency_penalty"]) == (0.0, 0.0)
        got = completions[request.key]
        assert list(got.token_ids) == completion(body)["choices"][0]["token_ids"]
        assert got.text == lm.renderer.decode(got.token_ids)
        assert got.prompt_tokens == len(body["prompt"])


def test_an_unsteered_request_asks_for_no_steering(served: ServedModel, start: Start) -> None:
    server = start()
    list(engine(served, server).generate([Request("hello", (), Decoding(3))]))
    assert "vllm_xargs" not in server.answered[0]


def test_the_token_that_ended_a_completion_is_not_part_of_it(served: ServedModel, start: Start) -> None:
    stop = served.stop_ids[0]
    answer = {"choices": [{"token_ids": [70, 71, stop], "finish_reason": "stop"}]}
    [got] = engine(served, start(lambda _s, _b: (200, answer, {}))).generate([Request("hello")])
    assert (got.token_ids, got.finish) == ((70, 71), "stop")


def test_a_completion_that_the_server_cut_off_is_none(served: ServedModel, start: Start) -> None:
    short = {"choices": [{"token_ids": [70, 71], "finish_reason": "length"}]}
    with pytest.raises(MisuseError, match="cut a completion off at 2 of 6 tokens"):
        list(
            engine(served, start(lambda _s, _b: (200, short, {}))).generate(
                [Request("hello", (), Decoding(6))]
            )
        )


def test_sampled_rows_have_a_seed_of_prompt_and_sample_alone(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    server, vector = start(), random_vector(lm)
    warm = Decoding(4, temperature=1.0, seed=3)
    cells = [(), (vector.at(1),)]
    requests = [Request("why?", cell, warm, sample=s) for cell in cells for s in (0, 1)]
    list(engine(served, server).generate(requests))
    assert Counter(body["seed"] for body in server.answered).most_common() == [
        (server.answered[0]["seed"], 2),
        (next(b["seed"] for b in server.answered if b["seed"] != server.answered[0]["seed"]), 2),
    ]


def test_all_of_a_decoding_goes_over_the_wire(served: ServedModel, start: Start) -> None:
    server = start()
    how = Decoding(4, 0.7, 0.9, 3, 20, 0.1, 1.2, stop=("\n\n", "END"), stop_token_ids=(9, 11))
    list(engine(served, server).generate([Request("why?", (), how), Request("why not?", (), Decoding(4))]))
    sampled, greedy = sorted(server.answered, key=lambda body: -body["temperature"])
    assert {
        name: sampled[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    } == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
    }
    assert sampled["stop_token_ids"] == [*served.stop_ids, 9, 11]
    # vLLM looks for stop texts in what it would show, and is to see special tokens too, as the other engines do.
    assert (sampled["stop"], sampled["skip_special_tokens"]) == (["\n\n", "END"], False)
    assert not {"stop", "skip_special_tokens", "seed"} & greedy.keys()


def test_a_stop_token_that_ended_a_completion_is_not_part_of_it(served: ServedModel, start: Start) -> None:
    answer = {"choices": [{"token_ids": [70, 71, 99], "finish_reason": "stop"}]}
    how = Decoding(6, stop_token_ids=99)
    [got] = engine(served, start(lambda _s, _b: (200, answer, {}))).generate([Request("hello", (), how)])
    assert (got.token_ids, got.finish) == ((70, 71), "stop")


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_completion_is_cut_at_its_stop_text_as_by_the_other_engines(
    served: ServedModel, start: Start, finish: str
) -> None:
    ids = served.tokenizer("so END", add_special_tokens=False)["input_ids"]
    answer = {"choices": [{"token_ids": ids, "finish_reason": finish}]}
    how = Decoding(len(ids), stop=("never", "END"))
    [got] = engine(served, start(lambda _s, _b: (200, answer, {}))).generate([Request("hello", (), how)])
    assert (got.text, got.token_ids, got.finish) == ("so", tuple(ids[:3]), "stop")


def test_the_models_own_decoding_is_read_from_its_folder(
    lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("own") / "tiny"
    lm.hf.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    assert Decoding.of_model(ServedModel(str(folder))) == Decoding()
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [2, 77]}
    (folder / "generation_config.json").write_text(json.dumps(own))
    found = ServedModel(str(folder))
    assert Decoding.of_model(found, seed=4) == Decoding(temperature=0.6, top_p=0.95, top_k=20, seed=4)
    assert found.stop_ids == (2, 77)


def probe_for(lm: LanguageModel) -> Probe:
    metadata = ProbeMetadata(
        name="doubt", model=lm.name, fingerprint=lm.fingerprint, template_digest="", layer=1
    )
    return Probe(torch.randn(lm.n_layers, lm.d_model), torch.zeros(lm.n_layers), metadata)


def test_readings_come_with_the_answer_of_one_token_more(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    server = start()
    readers = (
        VectorReader(random_vector(lm, name="v"), 2),
        ProbeReader(probe_for(lm)),
        NamedReader("margin"),
    )
    request = Request("why?", (random_vector(lm).at(1),), Decoding(6), readers=readers)
    client = engine(served, server)
    client.check(request)
    [got] = client.generate([request])
    body = server.answered[-1]
    assert body["max_tokens"] == 7
    parts = Store([part for reader in readers for part in reader.tensors])
    sent = read_reader_argument(body["vllm_xargs"]["steerkit_readers"], parts)
    assert sent == readers
    assert (got.tokens, got.finish) == (6, "length")
    length = got.prompt_tokens
    for number, (reader, reading) in enumerate(zip(readers, got.readings, strict=True)):
        assert reading.reader is reader
        assert reading.prompt == (
            None if number % 2 else 100.0 * number,
            *(100.0 * number + at for at in range(1, length)),
        )
        assert reading.completion == tuple(100.0 * number + at for at in range(length, length + 6))
    [plain] = client.generate([Request("why?", (random_vector(lm).at(1),), Decoding(6))])
    assert (plain.readings, server.answered[-1]["max_tokens"]) == ((), 6)


def test_a_token_that_was_never_run_has_no_reading(served: ServedModel, start: Start) -> None:
    short = {"reader": "entropy", "prompt": [None, 1.0], "completion": [2.0]}
    answer = {
        "choices": [{"token_ids": [70, 71], "finish_reason": "stop"}],
        "kv_transfer_params": {"steerkit": {"readings": [short]}},
    }
    [got] = engine(served, start(lambda _s, _b: (200, answer, {}))).generate(
        [Request("hello", readers="entropy")]
    )
    assert got.readings[0].completion == (2.0, None)
    assert len(got.readings[0].prompt) == got.prompt_tokens


def test_a_given_text_is_read_where_it_is_scored(served: ServedModel, start: Start) -> None:
    server = start()
    [score] = engine(served, server).score([ScoreRequest("2 + 2?", "four", readers=("entropy",))])
    text = served.renderer.encode_pair("2 + 2?", "four")
    assert score.token_ids == tuple(text.ids)
    assert "steerkit_prompt_tokens" not in server.answered[-1]["vllm_xargs"]
    assert score.readings[0].prompt == tuple(float(at) for at in range(text.prompt_length))
    assert score.readings[0].completion == tuple(float(at) for at in range(text.prompt_length, len(text.ids)))
    [alone] = engine(served, server).score([ScoreRequest("2 + 2?", "", readers=("entropy",))])
    assert (
        len(alone.readings[0].prompt) == len(alone.token_ids) == len(served.renderer.encode_prompt("2 + 2?"))
    )
    assert (alone.log_probabilities, alone.readings[0].completion) == ((), ())


def test_a_server_that_answers_without_readings_is_found_out(served: ServedModel, start: Start) -> None:
    answer = {"choices": [{"token_ids": [70, 71], "finish_reason": "stop"}]}
    client = engine(served, start(lambda _s, _b: (200, answer, {})))
    with pytest.raises(SteerkitError, match="without the readings that were asked for"):
        list(client.generate([Request("hello", readers="entropy")]))


def test_a_reader_that_cannot_be_read_is_refused_by_name(
    lm: LanguageModel, served: ServedModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS._things, "norm", RegisteredReader("norm", torch.norm, "states"))
    client, norm = engine(served, start()), NamedReader("norm", 1)
    for call in (
        lambda: client.check(Request("why?", readers=(norm,))),
        lambda: list(client.generate([Request("why?", readers=(norm,))])),
        lambda: client.score([ScoreRequest("why?", "so", readers=(norm,))]),
    ):
        with pytest.raises(MisuseError, match="cannot read 'norm@layer=1': 'norm' is a function of states"):
            call()
    vector = random_vector(lm)
    many = tuple(VectorReader(vector * (1 + i), 1) for i in range(17))
    with pytest.raises(MisuseError, match="17 readers in one request: at most 16"):
        client.check(Request("why?", readers=many))
    other = random_vector(tiny_model(seed=9))
    with pytest.raises(ModelMismatchError):
        client.check(Request("why?", readers=(VectorReader(other, 1),)))


def test_scores_are_those_of_the_continuation(lm: LanguageModel, served: ServedModel, start: Start) -> None:
    server = start()
    requests = [ScoreRequest("2 + 2?", text, (random_vector(lm).at(2),)) for text in ("four", "fish")]
    scores = engine(served, server).score(requests)
    for request, score in zip(requests, scores, strict=True):
        text = lm.renderer.encode_pair(request.prompt, request.continuation)
        assert score.request is request
        assert score.log_probabilities == tuple(-i / 100 for i in text.ids[text.prompt_length :])
        body = next(b for b in server.answered if b["prompt"] == list(text.ids))
        assert body["vllm_xargs"]["steerkit_prompt_tokens"] == text.prompt_length


def test_logits_do_not_pass_for_log_probabilities(served: ServedModel, start: Start) -> None:
    def logits(_server: FakeServer, body: dict[str, Any]) -> Reply:
        entries = [None, *({str(token): {"logprob": 7.5}} for token in body["prompt"][1:])]
        return 200, {"choices": [{"prompt_logprobs": entries}]}, {}

    with pytest.raises(SteerkitError, match="logits instead of log-probabilities"):
        engine(served, start(logits)).score([ScoreRequest("2 + 2?", "four")])


def test_no_more_than_the_concurrency_is_under_way_and_requests_are_drawn_as_needed(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    server = start(lambda _s, _b: time.sleep(0.02))
    drawn = 0

    def stream() -> Iterator[Request]:
        nonlocal drawn
        for request in some(lm, 30):
            drawn += 1
            yield request

    completions = engine(served, server, concurrency=3).generate(stream())
    next(completions)
    assert drawn <= 6
    assert len(list(completions)) == 29
    assert server.most_busy <= 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(
    lm: LanguageModel, served: ServedModel, start: Start, status: int
) -> None:
    tries: Counter[str] = Counter()

    def flaky(_server: FakeServer, body: dict[str, Any]) -> Reply | None:
        tries[str(body["prompt"])] += 1
        if tries[str(body["prompt"])] <= 2:
            return status, {"error": {"message": "not now"}}, {}
        return None

    server = start(flaky)
    completions = list(engine(served, server).generate(some(lm, 5)))
    assert sorted(c.request.key for c in completions) == [1, 2, 3, 4, 5]  # type: ignore[type-var]
    assert len(server.answered) == 5


def test_a_refusal_is_raised_at_once_in_the_servers_words(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    server = start(lambda _s, _b: (400, {"error": {"message": "no vector 'random' on this server"}}, {}))
    calls = len(server.answered)
    with pytest.raises(MisuseError, match="no vector 'random' on this server"):
        list(engine(served, server).generate(some(lm)))
    assert len(server.answered) == calls


def test_a_server_without_the_plugin_is_refused_before_it_gets_work(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    server = start()
    server.plugin = False
    with pytest.raises(MisuseError, match="does not know steering"):
        list(engine(served, server).generate(some(lm)))
    assert all(body["vllm_xargs"]["steerkit"] == "@" for body in server.answered)


def test_a_server_whose_vllm_the_plugin_does_not_fit_says_why(served: ServedModel, start: Start) -> None:
    reason = "steerkit's plugin does not fit vLLM 0.99.0"

    def refuses(_server: FakeServer, body: dict[str, Any]) -> Reply | None:
        steers = "vllm_xargs" in body
        return (400, {"error": {"message": reason, "param": "vllm_xargs"}}, {}) if steers else None

    server = start(refuses)
    server.plugin = False
    with pytest.raises(MisuseError, match=f"cannot steer: {reason}"):
        list(engine(served, server).generate([Request("hello")]))
    assert not server.answered


def test_when_every_server_is_gone_the_error_says_so(served: ServedModel, start: Start) -> None:
    servers = [start(), start()]
    for server in servers:
        server.kill()
    with pytest.raises(SteerkitError, match=r"cannot be reached .* after 3 tries"):
        list(engine(served, *servers, attempts=3).generate([Request("hello")]))


def test_a_vector_of_another_model_never_leaves_this_machine(served: ServedModel, start: Start) -> None:
    server, other = start(), tiny_model(seed=5)
    with pytest.raises(ModelMismatchError):
        list(engine(served, server).generate([Request("hello", (random_vector(other).at(1),))]))
    assert not server.answered


def gated(lm: LanguageModel) -> Intervention:
    metadata = ProbeMetadata(name="probe", model=lm.name, fingerprint=lm.fingerprint, layer=1)
    probe = Probe(torch.ones(lm.n_layers, lm.d_model), torch.zeros(lm.n_layers), metadata)
    return random_vector(lm).at(1, gate=ProbeGate(probe, threshold=0.5))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda _: OpenerBias(("No",), 2.0), "no rules on logits"),
        (lambda _: ThinkingBudget(4), "no rules on logits"),
        (lambda _: PromptEdit(begin="No"), "'begin'"),
        (lambda lm: random_vector(lm).at(1, half_life=8.0), "'half_life' 8.0"),
        (lambda lm: random_vector(lm).at(1, positions="lines"), "'positions' 'lines'"),
        (gated, "'gate' 'probe'"),
    ],
)
def test_what_vllm_cannot_do_never_leaves_this_machine(
    asked: Callable[[LanguageModel], Intervention],
    said: str,
    lm: LanguageModel,
    served: ServedModel,
    start: Start,
) -> None:
    server = start()
    there, intervention = engine(served, server), asked(lm)
    assert said in str(there.supports(intervention))
    with pytest.raises(MisuseError, match=f"the server engine cannot carry out .*{said}"):
        list(there.generate([Request("hello", (intervention,))]))
    assert not server.answered


def test_edits_of_the_prompt_are_made_here(lm: LanguageModel, served: ServedModel, start: Start) -> None:
    server = start()
    edits = (PromptEdit(system="Be brief."), PromptEdit(instruction="Or be silent."))
    list(engine(served, server).generate([Request("hello", edits)]))
    engine(served, server).score([ScoreRequest("hello", "there", edits)])
    prompt = lm.renderer.encode_prompt("hello\n\nOr be silent.", "Be brief.")
    assert all(body["prompt"][: len(prompt)] == prompt for body in server.answered)
    assert len(server.answered) == 2
    assert not any("vllm_xargs" in body for body in server.answered)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", ""])
def test_an_address_that_is_none_is_refused(served: ServedModel, url: str) -> None:
    with pytest.raises(MisuseError, match="address"):
        ServerEngine([url], served)


def test_leaving_early_stops_asking(lm: LanguageModel, served: ServedModel, start: Start) -> None:
    server = start(lambda _s, _b: time.sleep(0.01))
    completions = engine(served, server, concurrency=2).generate(some(lm, 12))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert len(server.answered) < 8


def test_a_replica_killed_midway_costs_no_completion_and_doubles_none(
    lm: LanguageModel, served: ServedModel, start: Start
) -> None:
    def slow(_server: FakeServer, _body: dict[str, Any]) -> None:
        time.sleep(0.005)

    def dies(server: FakeServer, _body: dict[str, Any]) -> None:
        time.sleep(0.005)
        if len(server.answered) == 12:
            threading.Thread(target=server.kill).start()
            time.sleep(0.02)  # the requests under way are never answered

    def run(*servers: FakeServer) -> list[tuple[Any, tuple[int, ...]]]:
        done = engine(served, *servers).generate(some(lm, 60))
        return sorted((int(str(c.request.key)), c.token_ids) for c in done)

    doomed, other = start(dies), start(slow)
    struck = run(doomed, other)
    assert doomed.dead
    assert other.answered
    assert [key for key, _ in struck] == list(range(1, 61))
    assert struck == run(start(slow))
