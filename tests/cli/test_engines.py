"""`steerkit sweep`, `generate` and `doctor` through servers that steer as the plugin does, without a vLLM."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.core.errors import SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.engines.base import Decoding, Request, ScoreRequest, steerings_of
from steerkit.engines.remote.vectors import ServedVectors
from steerkit.engines.remote.wire import read_argument
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.table import Program
from steerkit.interventions.base import Intervention
from steerkit.interventions.presets import presets
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import edited_prompt
from steerkit.interventions.vector import load_vector
from steerkit.models import LanguageModel
from steerkit.suites.suite import load_suite
from tests.command_line import Outcome, steerkit
from tests.engines.fake_server import FakeServer, Reply

GRID = (
    "--layers",
    "1:2",
    "--strengths",
    "-1,4",
    "--suite",
    "abstention",
    "--limit",
    6,
    "--max-new-tokens",
    6,
)
EDIT = "dont-know-system"


class Steering:
    """Answers as a server that steers: the transformers engine, one request at a time, with the vectors of a folder."""

    def __init__(self, lm: LanguageModel, folder: Path, *, obeys: bool = True) -> None:
        self._engine = TransformersEngine(lm, 1)
        self._vectors = ServedVectors(folder.resolve(), lm.n_layers, lm.d_model)
        self._obeys = obeys
        self._lock = threading.Lock()  # a model is steered by one thread at a time
        prompts = [item.prompt for item in load_suite("abstention").split("choose").items]
        self._prompts = {
            tuple(lm.renderer.encode_prompt(*edited_prompt(prompt, None, edits))): (prompt, edits)
            for prompt in prompts
            for edits in ((), (presets()[EDIT],))
        }

    def __call__(self, _server: FakeServer, body: dict[str, Any]) -> Reply:
        asked = body.get("vllm_xargs", {})
        try:
            acting = read_argument(asked["steerkit"], self._vectors) if asked else ()
        except SteerkitError as error:
            return 400, {"error": {"message": str(error), "param": "steerkit"}}, {}
        with self._lock:
            acting = acting if self._obeys else ()
            if "prompt_logprobs" in body:
                return 200, self._scored(body["prompt"], asked.get("steerkit_prompt_tokens", 1), acting), {}
            prompt, edits = self._prompts.get(tuple(body["prompt"]), ("?", ()))
            [done] = self._engine.generate([Request(prompt, (*edits, *acting), Decoding(body["max_tokens"]))])
        return 200, {"choices": [{"token_ids": list(done.token_ids), "finish_reason": done.finish}]}, {}

    def _scored(self, ids: list[int], start: int, acting: tuple[Intervention, ...]) -> dict[str, Any]:
        with torch.inference_mode():
            [row] = self._engine._score_rows(
                [ScoreRequest("?", "?")], [EncodedText(tuple(ids), start)], [Program.of(steerings_of(acting))]
            )
        scores = [0.0] * start + list(row.log_probabilities)
        entries = [{str(token): {"logprob": score}} for token, score in zip(ids, scores, strict=True)]
        return {"choices": [{"token_ids": [1], "finish_reason": "length", "prompt_logprobs": entries}]}


@pytest.fixture(scope="module")
def folder(tiny_vector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's vectors: the tiny one, under its name."""
    vector = load_vector(tiny_vector)
    return vector.save(tmp_path_factory.mktemp("served") / f"{vector.name}.safetensors").parent


@pytest.fixture(scope="module")
def answers(tiny: LanguageModel, folder: Path) -> Steering:
    return Steering(tiny, folder)


@pytest.fixture
def server(answers: Steering) -> Iterator[FakeServer]:
    with FakeServer(answers) as running:
        yield running


Sweep = Callable[..., Outcome]


@pytest.fixture
def sweep(tiny_folder: Path, tiny_vector: Path) -> Sweep:
    """`steerkit sweep` of one grid into a folder."""

    def run(out: Path, *more: object) -> Outcome:
        return steerkit("sweep", "--model", tiny_folder, "--vector", tiny_vector, *GRID, "--out", out, *more)

    return run


def through(*servers: FakeServer) -> list[object]:
    return [
        "--engine",
        "server",
        "--dtype",
        "float32",
        *(part for s in servers for part in ("--server", s.url)),
    ]


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: (line["cell"], line["item"], line["sample"]))


def test_a_sweep_through_servers_has_the_records_of_the_transformers_engine(
    sweep: Sweep, server: FakeServer, answers: Steering, tmp_path: Path
) -> None:
    more = ("--scorer", "perplexity", "--axis", f"edit=none,{EDIT}", "--axis", "scope=completion,all")
    assert sweep(tmp_path / "here", *more).code == 0
    with FakeServer(answers) as other:
        done = sweep(tmp_path / "there", *through(server, other), *more)
    assert done.code == 0, done.err
    here, there = records(tmp_path / "here"), records(tmp_path / "there")
    assert len(here) == len(there) == 6 * (1 + 2 * 2 * 2 * 2 * 2 + 1)
    for ours, theirs in zip(here, there, strict=True):
        perplexities = [record["scores"].pop("perplexity") for record in (ours, theirs)]
        if perplexities != [None, None]:  # of an empty completion
            assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)
        assert ours == theirs
    runs = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("here", "there")]
    assert runs[0]["protocol"] == runs[1]["protocol"]
    engines = [run["environments"][0]["versions"]["engine"] for run in runs]
    assert engines == ["transformers", "server"]


def test_generate_through_a_server_says_what_it_says_here(
    server: FakeServer, tiny_folder: Path, tiny_vector: Path
) -> None:
    prompt = load_suite("abstention").split("choose").items[0].prompt
    asked = ("--model", tiny_folder, "--steer", f"{tiny_vector}@layer=1,strength=4", "--compare", "--json")
    asked = (*asked, "--max-new-tokens", 6, prompt)
    here, there = (steerkit("generate", *asked, *more) for more in ((), through(server)))
    assert there.code == 0, there.err
    assert json.loads(there.out) == json.loads(here.out)
    assert len({row["completion"] for row in json.loads(there.out)}) == 2
    refused = steerkit("generate", "--model", tiny_folder, "--server", server.url, "Hi")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "is for the engine server" in refused.err


def test_a_run_that_servers_began_goes_on_here(sweep: Sweep, server: FakeServer, tmp_path: Path) -> None:
    assert sweep(tmp_path / "run", *through(server)).code == 0
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    again = sweep(tmp_path / "run")
    assert again.code == 0, again.err
    assert "engine was server, now transformers" in again.err
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before


def test_a_replica_killed_midway_loses_and_doubles_nothing(
    sweep: Sweep, server: FakeServer, answers: Steering, tmp_path: Path
) -> None:
    def dies(doomed: FakeServer, body: dict[str, Any]) -> Reply:
        reply = answers(doomed, body)
        if len(body["prompt"]) > 1 and next(count) == 8:
            threading.Thread(target=doomed.kill).start()
            gone.wait(0.2)
        return reply

    gone, count = threading.Event(), iter(range(10_000))
    with FakeServer(dies) as doomed:
        struck = sweep(tmp_path / "struck", *through(doomed, server), "--batch-size", 4)
        assert doomed.dead
    assert struck.code == 0, struck.err
    assert sweep(tmp_path / "here").code == 0
    assert records(tmp_path / "struck") == records(tmp_path / "here")


def test_a_server_that_is_not_there_is_done_without(sweep: Sweep, server: FakeServer, tmp_path: Path) -> None:
    with FakeServer() as gone:
        gone.kill()
        assert sweep(tmp_path / "run", *through(gone, server)).code == 0
        alone = sweep(tmp_path / "none", *through(gone))
    assert (alone.code, (tmp_path / "none").exists()) == (1, False)
    assert "no server answers" in alone.err


def test_the_key_comes_from_the_environment(
    sweep: Sweep, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERKIT_SERVER_API_KEY", "secret")
    assert sweep(tmp_path / "run", *through(server)).code == 0
    assert server.keys == {"Bearer secret"}
    assert b"secret" not in (tmp_path / "run" / "run.json").read_bytes()


@pytest.fixture(scope="module")
def probe(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = ProbeMetadata(name="probe", model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    made = Probe(torch.ones(tiny.n_layers, tiny.d_model), torch.zeros(tiny.n_layers), metadata)
    return made.save(tmp_path_factory.mktemp("probes") / "probe.safetensors")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--axis", "gate={probe}"], "'gate' 'probe' is read from the whole prompt"),
        (["--steer", "refusal-bias"], "no rules on logits"),
        (["--steer", "dont-know-system@gate={probe},threshold=0.5"], "'gate' 'probe'"),
        (["--vector", "{stranger}"], "no vector 'stranger' on this server"),
        (["--device", "cpu"], "is for the engine transformers"),
        (["--vllm-option", "enforce_eager=true"], "is for the engine vllm"),
        (["--served-name", "another"], "serves the-model, not 'another'"),
        (["--server", "localhost:8000"], "is not the address of a server"),
        (["--dtype", "float8"], "dtype is one of"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_a_run_is_begun(
    options: list[str],
    said: str,
    sweep: Sweep,
    server: FakeServer,
    probe: Path,
    tiny_vector: Path,
    tmp_path: Path,
) -> None:
    stranger = load_vector(tiny_vector).renamed("stranger").save(tmp_path / "stranger.safetensors")
    filled = [str(option).format(probe=probe, stranger=stranger) for option in options]
    done = sweep(tmp_path / "run", *through(server), *filled)
    assert said in done.err
    errors = [line for line in done.err.strip().splitlines() if not line.startswith("warning: ")]
    assert (done.code, len(errors)) == (2, 1)
    assert not (tmp_path / "run").exists()


def test_a_server_that_was_started_for_shorter_texts_is_heard(
    sweep: Sweep, server: FakeServer, tmp_path: Path
) -> None:
    server.models = [{"id": "the-model", "max_model_len": 30}]
    done = sweep(tmp_path / "run", *through(server))
    assert (done.code, (tmp_path / "run").exists()) == (2, False)
    assert "is served for 30" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "llama"], "no engine 'llama'; there are transformers, vllm, server"),
        (["--engine", "server"], "needs a server's address"),
        (["--server", "http://localhost:1"], "is for the engine server"),
        (["--engine", "vllm", "--timeout", 3], "timeout 3.0 is for the engine server"),
        (["--engine", "vllm", "--vllm-option", "eager"], "is not KEY=VALUE"),
        (["--engine", "vllm", "--vllm-option", "dtype=half"], "use --dtype"),
    ],
)
def test_options_of_another_engine_are_one_line(
    options: list[str], said: str, sweep: Sweep, tmp_path: Path
) -> None:
    done = sweep(tmp_path / "run", *options)
    assert said in done.err
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)


def doctor(model: Path, server: FakeServer, vector: Path, strength: float, *more: object) -> Outcome:
    steer = f"{vector}@layer=1,strength={strength}"
    return steerkit("doctor", "--model", model, *through(server), "--steer", steer, *more)


def test_the_doctor_finds_a_server_that_steers_healthy(
    server: FakeServer, tiny_folder: Path, tiny_vector: Path
) -> None:
    done = doctor(tiny_folder, server, tiny_vector, 2.0)
    assert done.code == 0, done.err
    assert "steering arrives as commanded" in done.out
    report = json.loads(doctor(tiny_folder, server, tiny_vector, 2.0, "--json").out)
    assert report["healthy"] is True
    assert [one["server"] for one in report["servers"]] == [server.url]


def test_the_doctor_finds_a_server_that_steers_otherwise_ill(
    server: FakeServer, tiny: LanguageModel, folder: Path, tiny_folder: Path, tiny_vector: Path
) -> None:
    with FakeServer(Steering(tiny, folder, obeys=False)) as liar:
        done = doctor(tiny_folder, server, tiny_vector, 2.0, "--server", liar.url)
    assert done.code == 1
    assert done.out.count("steering arrives as commanded") == 1
    assert done.out.count("steering does NOT arrive") == 1


def test_a_steering_too_weak_to_tell_passes_for_nothing(
    server: FakeServer, tiny_folder: Path, tiny_vector: Path
) -> None:
    done = doctor(tiny_folder, server, tiny_vector, 1e-6)
    assert done.code == 1
    assert "moves too little to tell" in done.out


def test_the_doctor_needs_a_steering_for_a_server_and_only_there(
    server: FakeServer, tiny_folder: Path, tiny_vector: Path
) -> None:
    for options in (through(server), ["--steer", f"{tiny_vector}@layer=1"]):
        done = steerkit("doctor", "--model", tiny_folder, *options)
        assert done.code == 2
        assert "go together" in done.err
