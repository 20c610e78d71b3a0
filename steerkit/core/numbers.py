"""Numbers as they come: Python's own, or a scalar or an array of NumPy, torch or pandas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from steerkit.core.errors import MisuseError


def plain(value: Any) -> Any:
    """Return a scalar as a Python number, an array as a list of them, and anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "ndim") else value


def check_number(what: str, value: Any) -> float:
    """Return `value` as a float. Raises MisuseError unless it is a finite number."""
    number = plain(value)
    try:
        finite = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:  # an integer beyond any float
        finite = False
    if not finite:
        raise MisuseError(f"{what} is a finite number, got {value!r}")
    return float(number)


def check_whole(what: str, value: Any, least: int | None = None) -> int:
    """Return `value` as an int; 14.0 is one. Raises MisuseError unless it is a whole number, and at least `least`."""
    number = plain(value)
    finite = isinstance(number, float) and math.isfinite(number)
    whole = number == number // 1 if finite else isinstance(number, int) and not isinstance(number, bool)
    if not whole:
        raise MisuseError(f"{what} is a whole number, got {value!r}")
    if least is not None and number < least:
        raise MisuseError(f"{what} is at least {least}, got {value!r}")
    return int(number)


def check_several(what: str, value: Any) -> tuple[int, ...]:
    """Return one whole number or several as a tuple. Raises MisuseError for anything else."""
    given = plain(value)
    if isinstance(given, str) or not isinstance(given, Iterable):
        return (check_whole(what, given),)
    return tuple(check_whole(what, each) for each in given)
