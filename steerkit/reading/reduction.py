"""What a record keeps of a reading: every token of the completion, or one number.

    per-token      a number for every token of the completion
    mean, max      over the tokens of the completion
    last           at the last token of the completion that was read: where its length or a stop text ended it, the
                   model never ran the very last one, and states are read at the one before
    first-answer   at the first token of the answer, behind any thinking
    prompt-end     at the last token of the prompt, where probes are fitted and gates read

Where there is nothing to read (an empty completion, one that never left its thinking) the number is None. So is one
that is not finite, which JSON does not have. Numbers are kept with six significant digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.interventions.readers import Reading

PER_TOKEN = "per-token"
REDUCTIONS = (PER_TOKEN, "mean", "max", "last", "first-answer", "prompt-end")

Value = float | None
Kept = Value | tuple[Value, ...]


def check_reduction(name: str) -> str:
    """Return the name of a reduction. Raises MisuseError where it is none."""
    if name not in REDUCTIONS:
        raise MisuseError(f"no reading {name!r}: choose one of {', '.join(REDUCTIONS)}")
    return name


def kept_of(completion: Completion, reduction: str) -> tuple[Kept, ...]:
    """Return what is kept of each of a completion's readings, in their order."""
    first = next(
        (span.first_token for span in completion.spans if span.kind == "answer" and span.tokens), None
    )
    if first is None and not completion.spans and completion.token_ids:
        first = 0  # an engine that tells no thinking from an answer
    return tuple(_kept(reading, reduction, first) for reading in completion.readings)


def rounded(value: Value) -> Value:
    """Return the number with six significant digits, None for one that is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def reduced(values: Sequence[Value], reduction: str) -> Value:
    """Return one number of those of a completion's tokens. Raises MisuseError unless it is their mean, max or last."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    match reduction:
        case "mean":
            return rounded(sum(there) / len(there)) if there else None
        case "max":
            return rounded(max(there, default=None))
        case "last":
            read = [value for value in values if value is not None]
            return rounded(read[-1]) if read else None
    raise MisuseError(f"a completion's tokens are read as their mean, max or last, not as {reduction!r}")


def _kept(reading: Reading, reduction: str, first_answer: int | None) -> Kept:
    match reduction:
        case "per-token":
            return tuple(map(rounded, reading.completion))
        case "first-answer":
            return None if first_answer is None else _at(reading.completion, first_answer)
        case "prompt-end":
            return _at(reading.prompt, len(reading.prompt) - 1)
    return reduced(reading.completion, reduction)


def _at(values: Sequence[Value], place: int) -> Value:
    return rounded(values[place]) if 0 <= place < len(values) else None
