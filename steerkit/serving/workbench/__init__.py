"""The workbench: a page on the server's port to try, compare, look at runs and make vectors. It holds no logic.

1. What it shows and does is the package's: interventions, engine, analysis, report, extraction.
2. No request leaves the machine: fonts are the system's, and no part of the page is fetched from elsewhere.
3. An error is one line, and what was typed stays where it was typed.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from steerkit.models import LanguageModel
    from steerkit.serving.scheduler import Scheduler

PATH = "/workbench"
LARGEST_UPLOAD = "1kb"  # the page uploads nothing


def mount(
    app: FastAPI,
    lm: LanguageModel,
    scheduler: Scheduler,
    vectors: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    exact: bool = True,
) -> None:
    """Put the workbench under `/workbench` of an app, and lead `/` there.

    `scheduler.stream(request)` yields a request's events (`steerkit.serving.scheduler`). `vectors` is the folder that
    vectors and pairs are read from and saved to, `runs` one that holds run directories. With a `key` the page asks for
    it as the password, under any name. Unless `exact`, it takes vectors of other weights of the same architecture.
    Raises MisuseError where one of the folders is none.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where it is first imported
    import gradio as gr
    from fastapi.responses import RedirectResponse

    from steerkit.serving.workbench.context import Context
    from steerkit.serving.workbench.page import blocks, style, theme

    page = blocks(Context(lm, scheduler, _folder(vectors, "vectors"), _folder(runs, "runs"), exact))
    app.add_api_route("/", lambda: RedirectResponse(f"{PATH}/"), include_in_schema=False)
    gr.mount_gradio_app(
        app, page, PATH, theme=theme(), css=style(), footer_links=[], run_history=False, ssr_mode=False,
        max_file_size=LARGEST_UPLOAD, enable_monitoring=False, mcp_server=False, pwa=False,
        auth=None if key is None else _asks_for(key),
    )  # fmt: skip


def _asks_for(key: str) -> Callable[[str, str], bool]:
    """What the page's login takes: any name, and the key."""
    return lambda _name, given: hmac.compare_digest(given.encode(), key.encode())


def _folder(given: str | os.PathLike[str] | None, what: str) -> Path | None:
    from steerkit.core.errors import MisuseError

    if given is None:
        return None
    path = Path(given)
    if not path.is_dir():
        raise MisuseError(f"{path} is no folder: make it, or name another one for {what}")
    return path.resolve()
