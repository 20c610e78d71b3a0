"""Compare LaTeX answers as mathematics, by `math_verify`, within a bounded time on any thread.

`math_verify` bounds its own work by a signal, which only the main thread has. Elsewhere the comparison runs in a
process of its own, which is ended when its time is up; starting it takes a second or two.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from fractions import Fraction

from steerkit.core.errors import SteerkitError
from steerkit.scoring.numbers import plain, read_number
from steerkit.scoring.results import final_number, last_boxed

_SECONDS = 30  # for a process of its own, the start included
_MARKUP = re.compile(r"\\[A-Za-z(\[]|\$[^$]*[\\^_=A-Za-z][^$]*\$")
_FORMULA = re.compile(r"\$+([^$]+)\$+")
_MIXED = re.compile(
    r"(?<![\d.,/^])(\d{1,6})(?: |\s*(?=\\))(?:(\d{1,6})/(\d{1,6})|\\[dt]?frac\{(\d+)\}\{(\d+)\})(?![\d/])"
)
_UNICODE_FRACTION = re.compile("[¼-¾⅐-⅞↉]|[⁄∕]")


def equal_latex(text: str, answers: Sequence[str]) -> bool:
    """Whether what the text states is mathematically equal to one of the answers.

    Where the text has no LaTeX and an answer is a plain number, the number that the text states decides
    (`final_number`). Work that takes too long counts as unequal. Raises SteerkitError where math-verify is not
    installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise SteerkitError(
            "judging LaTeX answers takes math-verify: install it with pip install math-verify"
        )
    values = [read_number(answer.strip(" $")) for answer in answers]
    numbers = {value for value in values if value is not None}
    if not _MARKUP.search(text) and numbers:
        stated = final_number(text)
        if stated is not None or None not in values:
            return stated in numbers
    if numbers and _stated_value(text) in numbers:
        return True
    golds = [answer if "$" in answer else f"${answer}$" for answer in map(_improper, answers)]
    stated_text = _improper(text)
    if threading.current_thread() is threading.main_thread():
        return _verified(stated_text, golds)
    return _verified_apart(stated_text, golds)


def _stated_value(text: str) -> Fraction | None:
    """The value of the LaTeX that the text states, where that is one number: its last box, or its only formula."""
    boxed = last_boxed(text)
    formulas = [boxed] if boxed is not None else _FORMULA.findall(text)
    return read_number(formulas[0]) if len(formulas) == 1 else None


def _improper(text: str) -> str:
    """The text with `2 1/2` and `2\\frac{1}{2}` as the fraction 5/2, which math_verify reads otherwise."""
    if _UNICODE_FRACTION.search(text):
        text = plain(text) if "\\" not in text else text
    return _MIXED.sub(_as_fraction, text)


def _as_fraction(match: re.Match[str]) -> str:
    whole, above, below = int(match[1]), int(match[2] or match[4]), int(match[3] or match[5])
    if not 0 < above < below:
        return match[0]
    return f"\\frac{{{whole * below + above}}}{{{below}}}" if match[4] else f"{whole * below + above}/{below}"


def _verified(text: str, golds: Sequence[str]) -> bool:
    from math_verify import parse, verify  # an optional dependency, and slow to import

    stated = parse(text)
    return any(verify(parse(gold), stated) for gold in golds)


def _verified_apart(text: str, golds: Sequence[str]) -> bool:
    """The same, in a process of its own."""
    try:
        ran = subprocess.run(
            [sys.executable, "-m", __name__], input=json.dumps([text, golds]), capture_output=True,
            text=True, encoding="utf-8", timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    if ran.returncode != 0:
        reason = ran.stderr.strip().rpartition("\n")[2]
        raise SteerkitError(f"the LaTeX answer could not be judged outside the main thread: {reason}")
    return bool(json.loads(ran.stdout))


if __name__ == "__main__":
    print(json.dumps(_verified(*json.loads(sys.stdin.buffer.read()))))
