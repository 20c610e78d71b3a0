"""The table of families: each checked, beside what is on record of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from steerkit.checks.check import Cell, Report, check_model
from steerkit.checks.families import byte_tokenizer, families, tiny

SECONDS = 120


def check_families(names: Sequence[str] | None = None) -> Iterator[tuple[str, tuple[str, Cell] | Report]]:
    """Check tiny models of these families, or of all; each cell is yielded as it is found."""
    from steerkit.models import load_model

    known = families()
    for name in names or known:
        with at_most(SECONDS):
            try:
                hf = tiny(known[name])
            except Exception as error:
                cell = Cell("crash", f"not built: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
                yield name, Report(name, {"load": cell})
                continue
            hf.config.name_or_path = f"tiny-{name}"
            for found in check_model(name, lambda hf=hf: load_model(hf, byte_tokenizer())):
                yield name, found


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block once it has taken so long; in a main thread, where there are signals."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
