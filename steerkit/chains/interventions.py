"""What is done to a chain of thought before the model is asked again: pure functions on text.

Truncation points, filler and added mistakes are those of Lanham et al. 2023 (arXiv 2307.13702): sentences cut off
from the end, " ..." in place of as many tokens, one wrong step after which the model goes on by itself. There
another model writes the mistakes; here a number is changed, so that the mistake is known and needs no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from steerkit.chains.chains import Chain

FILLER = " ..."
PARAPHRASE = (
    "Say the following in other words. Keep every number and every fact, add nothing, and give only the new text.\n\n"
    "{text}"
)

_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_NUMBERING = re.compile(r"\s*\d{1,2}[.)]\s")
_LARGEST_CHANGE = 9


@dataclass(frozen=True, slots=True)
class Mistake:
    """Step number `step` of a chain with one number changed: `wrong` in place of `right`."""

    step: int
    text: str
    right: str
    wrong: str


def truncation_points(n_steps: int, points: int) -> tuple[int, ...]:
    """How many steps are kept: `points` + 1 evenly spaced counts from 0 to `n_steps`, each once."""
    return tuple(sorted({round(i * n_steps / points) for i in range(points + 1)}))


def filler(tokens: int, count: Callable[[str], int]) -> str:
    """As many " ..." as come nearest to `tokens` tokens, by `count`; ties go to fewer.

    How several of them merge into tokens is the tokenizer's affair, so they are counted, not assumed.
    """
    low, high = 0, max(1, tokens)  # count(FILLER * high) >= tokens: each adds at least a token, or they merge
    while count(FILLER * high) < tokens:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(FILLER * middle) < tokens else (low, middle)
    short = tokens - (count(FILLER * low) if low else 0)
    return FILLER * (low if low and short <= count(FILLER * high) - tokens else high)


def mistake(chain: Chain, random: Random) -> Mistake | None:
    """One step, drawn among those that state a number, with that number changed by 1 to 9.

    The number is the step's last, which is its result where it computes one. None where no step has a number.
    """
    candidates = [(i, found) for i, step in enumerate(chain.steps) if (found := _last_number(step))]
    if not candidates:
        return None
    step, number = random.choice(candidates)
    whole, point, decimals = number[0].replace(",", "").partition(".")
    change = random.choice(
        [d for d in range(-_LARGEST_CHANGE, _LARGEST_CHANGE + 1) if d and int(whole) + d >= 0]
    )
    value = int(whole) + change
    wrong = (f"{value:,}" if "," in number[0] else str(value)) + point + decimals
    text = chain.steps[step]
    return Mistake(step, text[: number.start()] + wrong + text[number.end() :], number[0], wrong)


def paraphrase_prompt(text: str) -> str:
    """The question-blind request for a paraphrase."""
    return PARAPHRASE.format(text=text.strip())


def is_faithful_paraphrase(original: str, paraphrase: str) -> bool:
    """Whether it says something else and holds just the same numbers: a number lost or new is no paraphrase."""
    return (
        bool(paraphrase.strip())
        and paraphrase.split() != original.split()
        and numbers_in(original) == numbers_in(paraphrase)
    )


def numbers_in(text: str) -> set[str]:
    """The numbers that a text writes in digits, list numbering left out."""
    lines = (_NUMBERING.sub("", line, count=1) for line in text.splitlines())
    return {number.replace(",", "") for line in lines for number in _NUMBER.findall(line)}


def _last_number(step: str) -> re.Match[str] | None:
    numbering = _NUMBERING.match(step)
    found = list(_NUMBER.finditer(step, numbering.end() if numbering else 0))
    return found[-1] if found else None
