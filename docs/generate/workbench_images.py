"""Make the pictures of the workbench in docs/images: `python -m docs.generate.workbench_images --runs FOLDER`.

The bundled model is served with the published vectors; each tab is driven as a reader would, at 1440 pixels in light
and in dark and at 390. `--runs` holds the run that the tab Runs shows; by default a small sweep is made for it.
"""

from __future__ import annotations

import argparse
import io
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).resolve().parent.parent / "images"
CHROMIUM = "/usr/bin/chromium"
MODEL = "smollm2-135m-instruct"
VECTOR = f"abstain-{MODEL}"
LOOKS = (("1440-light", 1440, "light"), ("1440-dark", 1440, "dark"), ("390-light", 390, "light"))
HEIGHTS = {"try": 900, "grid": 1000, "runs": 1400, "pairs": 1300}
QUESTIONS = ("What did Napoleon say to his barber on 3 May 1809?", "And what is the capital of France?")
PATIENCE = 300_000  # milliseconds


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="the folder of runs; by default one is made")
    parser.add_argument("--run", help="which of the runs is shown; by default the latest")
    parser.add_argument("--tabs", nargs="*", default=list(TABS), choices=list(TABS))
    parser.add_argument("--looks", nargs="*", default=[name for name, *_ in LOOKS])
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    import steerkit as sk

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        lm = sk.load_model(MODEL)
        runs = options.runs or small_run(lm, Path(scratch) / "runs")
        vectors = Path(scratch) / "vectors"
        vectors.mkdir()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with served(lm, vectors, runs) as address:
            for name, width, scheme in LOOKS:
                for tab in options.tabs if name in options.looks else ():
                    context = browser.new_context(
                        viewport={"width": width, "height": HEIGHTS[tab]},
                        color_scheme=scheme,
                        reduced_motion="reduce",
                    )
                    context.set_default_timeout(PATIENCE)
                    page = context.new_page()
                    page.goto(address)
                    page.wait_for_selector("#try-question textarea")
                    TABS[tab](page, options.run)
                    page.wait_for_timeout(400)
                    save(page.screenshot(animations="disabled"), IMAGES / f"workbench-{tab}-{name}.png")
                    context.close()


@contextmanager
def served(lm: Any, vectors: Path, runs: Path) -> Iterator[str]:
    """Serve a model's workbench; the address."""
    import uvicorn
    from fastapi import FastAPI

    from steerkit.engines.transformers.engine import TransformersEngine
    from steerkit.engines.transformers.session import Session
    from steerkit.serving.scheduler import Scheduler
    from steerkit.serving.workbench import mount

    app = FastAPI()
    with Scheduler(Session(TransformersEngine(lm))) as scheduler, socket.socket() as listening:
        mount(app, lm, scheduler, vectors, runs)
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def small_run(lm: Any, folder: Path) -> Path:
    """Sweep a few cells on a few items of the suite abstention; the folder of runs."""
    import steerkit as sk

    grid = sk.Grid(VECTOR, "10:18:4", "0.5:1.5:0.5", control_strengths=())
    measurement = sk.Measurement(suite="abstention", split="choose", limit=24, decoding=sk.Decoding(32))
    sk.sweep(lm, grid, measurement, out=folder / "abstention")
    return folder


def do_try(page: Any, _: str | None) -> None:
    """Two questions, the second of them one that is to be answered."""
    choose(page, page.locator("#try-vector input"), VECTOR)
    for question in QUESTIONS:
        page.fill("#try-question textarea", question)
        page.keyboard.press("Enter")
        page.wait_for_function(
            f"document.querySelector('#try-conversation').innerText.includes({question!r})"
        )
        page.wait_for_function("document.querySelector('#try-line').innerText.startsWith('done')")
    page.evaluate("window.scrollTo(0, 0)")


def do_grid(page: Any, _: str | None) -> None:
    """Thirty cells."""
    go(page, "Grid")
    page.fill("#grid-prompt textarea", QUESTIONS[0])
    page.fill("#grid-layers textarea, #grid-layers input", "8:20:3")
    page.fill("#grid-strengths textarea, #grid-strengths input", "0.5:3:0.5")
    page.click("#grid-fill")
    page.wait_for_function("document.querySelector('#grid-line').innerText.startsWith('31 of 31')")


def do_runs(page: Any, run: str | None) -> None:
    """A run, and the cell that is farthest up and left."""
    go(page, "Runs")
    page.click("#runs-run input")
    page.get_by_role("option", name=run, exact=True).click() if run else page.get_by_role(
        "option"
    ).first.click()
    page.wait_for_selector("#runs-chart .mark")
    best = page.evaluate(
        """() => { const gain = mark => parseFloat(mark.style.bottom) - 0.9 * parseFloat(mark.style.left);
        return [...document.querySelectorAll('#runs-chart .mark[class*=is-sk-c]')]
        .sort((a, b) => gain(b) - gain(a))[0].dataset.cell; }"""
    )
    mark = page.locator(f'#runs-chart .mark[data-cell="{best}"]')
    mark.evaluate("mark => mark.click()")
    page.wait_for_selector("#runs-completions article")
    page.locator("#runs-change").get_by_label("verdict").check()
    page.wait_for_timeout(3000)
    page.evaluate("window.scrollTo(0, 0)")
    mark.focus()


def do_pairs(page: Any, _: str | None) -> None:
    """A built-in set, linted and extracted."""
    go(page, "Pairs")
    page.click("#pairs-set input")
    page.get_by_role("option", name="abstention").click()
    page.wait_for_selector("#pairs-list li")
    page.click("#pairs-lint")
    page.wait_for_selector("#pairs-findings li")
    page.click("#pairs-extract")
    page.wait_for_selector("#pairs-plot svg")


def go(page: Any, tab: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=tab, exact=True).click()


def choose(page: Any, box: Any, option: str) -> None:
    """Choose of a drop-down box."""
    box.click()
    page.get_by_role("option", name=option).click()


def save(png: bytes, path: Path) -> None:
    """Write a picture, as small as it can be without a loss."""
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").save(path, optimize=True)
    print(path)


TABS: dict[str, Callable[[Any, str | None], None]] = {
    "try": do_try,
    "grid": do_grid,
    "runs": do_runs,
    "pairs": do_pairs,
}

if __name__ == "__main__":
    main()
