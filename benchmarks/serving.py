"""What serving costs beside the packed engine: clients in a process of their own, each steered otherwise.

The server runs in a thread of this process, on the model that the engine runs too; only one of them works at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import steerkit as sk
from benchmarks.decoding import long_prompts
from benchmarks.measure import take_turns
from benchmarks.rows import Row, Target, at_least, at_most
from benchmarks.setting import Workbench
from steerkit.core.prompts import EncodedText
from steerkit.serving.address import Address
from steerkit.serving.limits import Limits
from steerkit.serving.running import make_server

ROOT = Path(__file__).parent.parent
NAME = "benchmarked"
TIE = 1e-3  # nats between two tokens that rounding may turn around
Written = dict[int, tuple[int, ...]]  # the tokens of each request


def run(bench: Workbench) -> Iterator[Row]:
    """Tokens a second through the server, streamed and not, over the packed engine's and over one at a time."""
    sizes = bench.sizes
    asked = _requests(bench)
    engine = sk.TransformersEngine(bench.lm, sizes.clients)
    alone = asked[: sizes.served_alone]
    written: dict[str, Written] = {}
    shares: dict[str, list[float]] = {"whole": [], "streamed": []}

    def by_engine(name: str, engine: sk.TransformersEngine, requests: Sequence[sk.Request]) -> None:
        written[name] = {c.request.key: c.token_ids for c in engine.generate(requests)}  # type: ignore[misc]

    with tempfile.TemporaryDirectory() as folder, _server(bench, Path(folder)) as url, _clients() as ask:
        bodies = [_body(bench, request) for request in asked]

        def by_clients(name: str) -> None:
            job = {"url": url, "clients": sizes.clients, "stream": name == "streamed", "bodies": bodies}
            told = ask(job)
            written[name] = dict(enumerate(map(tuple, told["token_ids"])))
            shares[name].append(told["cpu_seconds"] / told["seconds"])

        variants = {
            "engine": partial(by_engine, "engine", engine, asked),
            "whole": partial(by_clients, "whole"),
            "streamed": partial(by_clients, "streamed"),
            "alone": partial(by_engine, "alone", sk.TransformersEngine(bench.lm, 1), alone),
        }
        seconds = take_turns(variants, sizes.serving_repeats, bench.wait)
    tokens = {name: sum(map(len, texts.values())) for name, texts in written.items()}
    speeds = {name: [tokens[name] / s for s in times] for name, times in seconds.items()}
    compared: tuple[tuple[str, str, str, Target], ...] = (
        ("not streamed / packed engine", "whole", "engine", at_least(0.85)),
        ("streamed / packed engine", "streamed", "engine", at_least(0.7)),
        ("not streamed / one at a time", "whole", "alone", at_least(6)),
    )
    for what, ours, reference, target in compared:
        yield Row.of(
            f"serving {sizes.clients} clients, tokens a second: {what}",
            [a / b for a, b in zip(speeds[ours], speeds[reference], strict=True)],
            target=target,
            note=f"{len(asked)} requests, each steered otherwise; {tokens[ours]} tokens",
            seconds={name: seconds[name] for name in (ours, reference)},
        )
    for name, values in shares.items():
        what = (
            f"serving, {'streamed' if name == 'streamed' else 'not streamed'}: the clients' share of a core"
        )
        yield Row.of(what, values[1:] or values, unit="", note="one asyncio process, httpx")
    yield from _differences(bench, asked, written)


def _requests(bench: Workbench) -> list[sk.Request]:
    """Requests of mixed lengths, no two clients' steered alike."""
    sizes, prompts, layers = bench.sizes, long_prompts(), bench.lm.n_layers
    return [
        sk.Request(
            prompts[i % len(prompts)],
            (bench.vector.at(i % layers, 0.05 + 0.01 * (i % sizes.clients)),),
            sk.Decoding(sizes.served_tokens[i % len(sizes.served_tokens)]),
            key=i,
        )
        for i in range(sizes.served_requests)
    ]


def _body(bench: Workbench, request: sk.Request) -> dict[str, Any]:
    [steering] = request.interventions
    spec = steering.spec(lambda _: NAME)
    return {
        "model": bench.lm.name,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.decoding.max_new_tokens,
        "temperature": 0,
        "return_token_ids": True,
        "vllm_xargs": {"steerkit": [spec]},
    }


def _differences(bench: Workbench, asked: Sequence[sk.Request], written: dict[str, Written]) -> Iterator[Row]:
    """How many completions differ from the same request's by the engine and alone, ties apart."""
    engine = sk.TransformersEngine(bench.lm)
    for reference, called in (("engine", "by the engine"), ("alone", "one at a time")):
        differ = [
            (asked[i], written[name][i], tokens)
            for name in ("whole", "streamed")
            for i, tokens in written[reference].items()
            if written[name][i] != tokens
        ]
        ties = [_gap(engine, *each) < TIE for each in differ]
        yield Row.of(
            f"serving: completions that differ from those {called}",
            [len(ties) - sum(ties)],
            unit="",
            target=at_most(0),
            note=f"of {2 * len(written[reference])}; {sum(ties)} more part where two tokens are within {TIE:g} nats",
        )


def _gap(
    engine: sk.TransformersEngine, request: sk.Request, one: tuple[int, ...], other: tuple[int, ...]
) -> float:
    """Nats between the two tokens at which two completions of a request part."""
    stop = engine.lm.stop_ids[:1]
    one, other = one + stop, other + stop
    at = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    prompt = tuple(engine.lm.renderer.encode_prompt(request.prompt))
    texts = [EncodedText((*prompt, *tokens[: at + 1]), len(prompt)) for tokens in (one, other)]
    scores = engine.score(
        [sk.ScoreRequest(request.prompt, "", request.interventions, encoded=text) for text in texts]
    )
    return abs(scores[0].log_probabilities[-1] - scores[1].log_probabilities[-1])


@contextmanager
def _server(bench: Workbench, folder: Path) -> Iterator[str]:
    """A server of the model on loopback, with the vector in its folder; its address."""
    bench.vector.save(folder / f"{NAME}.safetensors")
    address = Address(port=0)
    engine = sk.TransformersEngine(bench.lm, bench.sizes.clients)
    with address.bound() as listening:
        server = make_server(engine, address, Limits(), folder=folder)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield address.url(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _clients() -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """A process of clients, and how it is told a job and says what came of it."""
    command = [sys.executable, "-m", "benchmarks.serving_clients"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, back = process.stdin, process.stdout

        def ask(job: dict[str, Any]) -> dict[str, Any]:
            to.write(json.dumps(job) + "\n")
            to.flush()
            told: dict[str, Any] = json.loads(back.readline())
            return told

        yield ask
