"""What the plugin replaces in vLLM, so that it can all be put back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """Functions of vLLM's modules, classes and objects that are called through ours."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Call `around(original, …)` in the place of `owner.name`. Raises AttributeError where there is none."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, wrapped)

    def undo(self) -> None:
        """Put back what was there before."""
        while self._before:
            owner, name, original = self._before.pop()
            if original is _ABSENT:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, original)
