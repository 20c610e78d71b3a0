"""From options to a running server: a socket, a model, an application, and a graceful end."""

from __future__ import annotations

import json
import shlex
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.core.errors import SteerkitError
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import load_vector, published_vectors
from steerkit.serving.address import Address
from steerkit.serving.limits import Limits

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn
    from fastapi import FastAPI

    from steerkit.serving.scheduler import Scheduler

CONNECTIONS_BESIDE = 256  # beyond those that may wait for an answer
BACKLOG = 2048


def make_server(
    engine: TransformersEngine,
    address: Address,
    limits: Limits,
    *,
    name: str | None = None,
    folder: Path | None = None,
    exact: bool = True,
    more: Callable[[FastAPI, Scheduler], None] | None = None,
) -> uvicorn.Server:
    """Return a server of an engine's model, to be run on a bound socket.

    `name` is what clients call the model, `folder` holds the vectors to be named, `more` adds to the application.
    """
    import uvicorn

    from steerkit.engines.transformers.session import Session
    from steerkit.serving.admission import Admission
    from steerkit.serving.app import LOOPBACK, make_app
    from steerkit.serving.connections import Impatient
    from steerkit.serving.routes import Served
    from steerkit.serving.scheduler import Scheduler

    called = name or engine.lm.name
    scheduler = Scheduler(Session(engine, most_waiting=limits.most_waiting))
    admission = Admission(engine, limits, name=called, folder=folder, exact=exact)
    served = Served(called, scheduler, admission, limits)
    app = make_app(served, key=address.key, hosts=(*LOOPBACK, address.host))
    if more is not None:
        more(app, scheduler)

    class Ending(uvicorn.Server):
        """Lets go, when it is told to end, of the streams that a page of the workbench keeps open as long as it is."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            for route in app.routes:
                if (stop := getattr(getattr(route, "app", None), "stop_event", None)) is not None:
                    stop.set()

    config = uvicorn.Config(
        app,
        http=Impatient,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.most_waiting + engine.batch_size + CONNECTIONS_BESIDE,
        timeout_graceful_shutdown=int(limits.closing_seconds),
    )
    return Ending(config)


def run(server: uvicorn.Server, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Run a server until SIGINT or SIGTERM; what is under way then may end, within its limits. For the main thread.

    `ready` is called once requests find it.
    """
    bound.listen(BACKLOG)
    ready()
    # uvicorn raises these again once it has shut down, for whoever handled them before.
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[bound])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def example(url: str, name: str, steering: str | None, *, has_key: bool) -> str:
    """Return a command that asks the server at `url`, as it is."""
    body: dict[str, object] = {
        "model": name,
        "messages": [{"role": "user", "content": "Who will win the next election?"}],
        "max_tokens": 40,
        "temperature": 0,
    }
    if steering is not None:
        body["vllm_xargs"] = {"steerkit": [steering]}
    # In double quotes, where a shell puts the key in; it is never printed.
    bearer = ' -H "Authorization: Bearer $STEERKIT_SERVER_API_KEY"' if has_key else ""
    whole = shlex.join([f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"])
    return f"curl {whole}{bearer} -d {shlex.quote(json.dumps(body))}"


def steering_to_show(engine: TransformersEngine, folder: Path | None) -> str | None:
    """Return a spec that a request to this server may name: a vector of this very model, in its recommended use."""
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder else {}
    for name, path in {**files, **published_vectors()}.items():
        with suppress(SteerkitError):
            vector = load_vector(path)
            vector.check(engine.lm, exact=True)
            return name if recommended_use(vector) else f"{name}@layer={engine.lm.n_layers // 2}"
    return None
