"""What a handler of the workbench tells the page: its values, or in one line what went wrong, and nothing lost.

A handler returns or yields a dictionary from components to values. Those that it leaves out stay as they are, so an
error changes the line of its tab alone.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from html import escape
from typing import Any

from steerkit.core.characters import one_line
from steerkit.core.errors import SteerkitError

log = logging.getLogger("steerkit.workbench")

# How events are run. What is over at once does not go through Gradio's queue: its client loses an event that is queued
# while the stream of the one before is being closed, and then waits for ever.
WRITTEN_SLOWLY: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "once",
}
OVER_AT_ONCE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}


def said(text: str, *, wrong: bool = False) -> str:
    """Return the line of a tab as HTML; an empty text clears it. An error is announced at once."""
    if not text:
        return ""
    role, style = ("alert", "sk-wrong") if wrong else ("status", "sk-said")
    return f'<p class="{style}" role="{role}">{escape(one_line(text))}</p>'


def in_one_line(line: Any, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return the handler, with each error told in `line`, a component, instead of raised.

    It may be a function, a generator or an asynchronous generator.
    """

    def told(error: Exception) -> dict[Any, str]:
        if isinstance(error, SteerkitError):
            return {line: said(str(error), wrong=True)}
        log.exception("the workbench failed")
        return {
            line: said(
                f"something failed inside ({type(error).__name__}: {error}); see the server's log", wrong=True
            )
        }

    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def streamed(*given: Any, **named: Any) -> AsyncIterator[Any]:
            try:
                async for values in handler(*given, **named):
                    yield values
            except Exception as error:
                yield told(error)

        return streamed
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generated(*given: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from handler(*given, **named)
            except Exception as error:
                yield told(error)

        return generated

    @functools.wraps(handler)
    def answered(*given: Any, **named: Any) -> Any:
        try:
            return handler(*given, **named)
        except Exception as error:
            return told(error)

    return answered
