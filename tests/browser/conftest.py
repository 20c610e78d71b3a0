"""The workbench over a model on a port of its own, and pages of Chromium that note whatever they ask of other hosts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.session import Session
from steerkit.models import LanguageModel
from steerkit.serving.scheduler import Scheduler
from tests.sweeps.synthetic import grid, items, write_run
from tests.tiny import random_vector

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 60_000  # milliseconds: for a busy machine, not a claim


@dataclass(frozen=True)
class Bench:
    """A workbench that is being served: its address, and the folders of its vectors and runs."""

    address: str
    vectors: Path
    runs: Path


@contextmanager
def served(lm: LanguageModel, folder: Path) -> Iterator[Bench]:
    """Serve a model's workbench over `vectors` and `runs` in a folder."""
    import uvicorn
    from fastapi import FastAPI

    from steerkit.serving.workbench import mount

    vectors, runs = folder / "vectors", folder / "runs"
    for place in (vectors, runs):
        place.mkdir(exist_ok=True)
    app = FastAPI()
    with Scheduler(Session(TransformersEngine(lm))) as scheduler, socket.socket() as listening:
        mount(app, lm, scheduler, vectors, runs)
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield Bench(f"http://127.0.0.1:{listening.getsockname()[1]}", vectors, runs)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def bench(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The workbench over the tiny model, with a vector `random` and a run `boats` of 5,000 records."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "vectors").mkdir()
    random_vector(tiny, size=0.5).save(folder / "vectors" / "random.safetensors")
    write_run(folder / "runs" / "boats", grid([2, 4, 6, 8, 10], [0.5, 1, 1.5, 2]), items(122))
    with served(tiny, folder) as bench:
        yield bench


@pytest.fixture(
    scope="module"
)  # Playwright keeps an event loop running until it ends, and others run their own
def chromium() -> Iterator[object]:
    """Chromium, started once a file. `make` installs it where it may (Makefile)."""
    if not Path(CHROMIUM).is_file():
        pytest.fail(f"{CHROMIUM} is missing: apt-get install -y chromium, or link another Chromium to it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., object]]:
    """Open a bench in a page of its own; at the end nothing was asked of another host, and no script failed."""
    contexts, elsewhere, failed = [], [], []

    def opened(bench: Bench, *, width: int = 1440, dark: bool = False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda asked: _note(asked.url, bench.address, elsewhere))
        page.on("websocket", lambda asked: _note(asked.url, bench.address.replace("http", "ws"), elsewhere))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(bench.address)
        page.wait_for_selector("#try-question textarea")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert failed == []


def _note(url: str, own: str, elsewhere: list[str]) -> None:
    if not url.startswith((own, "data:", "blob:")):
        elsewhere.append(url)
