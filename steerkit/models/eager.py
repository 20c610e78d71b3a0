"""Compiled code runs eagerly while hooks are on.

`torch.compile` does not look at hooks: what it made without them goes on without them, and what it makes with them
keeps them when they are gone. So while a hook is on, nothing that it made runs, and it makes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steerkit.core.errors import MisuseError


class _EagerStance:
    """PyTorch's stance is one for the whole process: it is taken with the first block and put back with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._taken: Any = None

    def take(self) -> None:
        with self._lock:
            if not self._open:
                try:
                    self._taken = torch.compiler.set_stance("force_eager")
                except RuntimeError as error:  # PyTorch's own, which names no remedy
                    raise MisuseError(
                        "a function that torch.compile compiles cannot steer or read the model: call it inside the "
                        "steering block"
                    ) from error
            self._open += 1

    def give_back(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                self._taken.__exit__(None, None, None)


_STANCE = _EagerStance()


@contextmanager
def running_eagerly() -> Iterator[None]:
    """Run eagerly whatever `torch.compile` made, and compile nothing, in every thread until the block ends.

    Blocks may nest, and may end in any order and in any thread. What was compiled before serves again afterwards.
    Raises MisuseError inside a function that is being compiled.
    """
    _STANCE.take()
    try:
        yield
    finally:
        _STANCE.give_back()
