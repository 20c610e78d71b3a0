"""Has a completion fallen apart? Empty texts and repetition, the two ways in which too strong a steering shows."""

from __future__ import annotations

import functools
import re
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Scores, scorer

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import SuiteItem

NGRAM = 4  # tokens, of `repetition`
TIMES = 3
PHRASE, WINDOW = 4, 40  # words
UNSPACED_PHRASE, UNSPACED_WINDOW = 8, 80  # characters, in a script that writes no blanks between words
DISTINCT = (
    0.5  # of the words from the first to the last time: parallel sentences with something new have more
)
CYCLES = 5  # how often something shorter follows itself
COUNTED = 8  # the same of what has no letter, numbers in it taken for equal: a sum of six is a sum
SAME_CHARACTER = 20  # in a row: a third has sixteen threes as a float
LONGEST_CYCLE = 40  # characters

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[^\W\d_{_UNSPACED}]+(?:['’][^\W\d_{_UNSPACED}]+)*")
_UNSPACED_CHARACTER = re.compile(rf"[{_UNSPACED}]")
_LETTER, _DIGIT = re.compile(r"[^\W\d_]"), re.compile(r"\d")
_COUNTING = re.compile(r"0[^0]*[=+*×·/−\n]|[=+*×·/−\n][^0]*0")  # a sum, or a list without entries

METRICS = (
    Metric("degenerate", "degenerate", "lower", "degen."),
    Metric("repetition", "repetition", "lower", show="hidden", graded=True),
)


@scorer("degeneration", metrics=METRICS)
def degeneration(_item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the completion is blank or repeats itself like a stuck record, and how much of its tokens repeats."""
    scores = {"degenerate": is_degenerate(completion.text)}
    if completion.text and not completion.tokens:  # a text whose tokens are not known
        return scores
    return {**scores, "repetition": repetition(completion.token_ids)}


def repetition(token_ids: Sequence[int]) -> float:
    """The share, 0 to 1, of a text's 4-grams of tokens that occurred earlier in it (0 where it has none)."""
    ngrams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@functools.lru_cache(maxsize=1024)  # many cells give the same completion
def is_degenerate(text: str) -> bool:
    """Whether a text is blank or has fallen into repetition.

    It has where a phrase of four words (of eight characters in a script without blanks) comes three times within 40
    words, of which at most half are distinct; where something of up to 40 characters follows itself five times (eight
    times without a letter in it, 20 times if it is one letter or digit); and where sums or the numbers of an empty
    list go on and on. `experiments/degeneration` measures this on replies that two readers labelled.
    """
    text = text.casefold().strip()
    if not text:
        return True
    words, characters = _WORD.findall(text), _UNSPACED_CHARACTER.findall(text)
    if _comes_back(words, PHRASE, WINDOW) or _comes_back(characters, UNSPACED_PHRASE, UNSPACED_WINDOW):
        return True
    counted = re.sub(r"\d+", "0", re.sub(r"\s*\n\s*", "\n", text))
    return (
        _goes_round(text, CYCLES, _LETTER)
        or _goes_round(text, COUNTED, _DIGIT)
        or _goes_round(counted, COUNTED, _COUNTING)
    )


def _comes_back(units: Sequence[str], size: int, window: int) -> bool:
    """Whether `size` units in a row come three times within a window that says little else."""
    seen: defaultdict[tuple[str, ...], deque[int]] = defaultdict(lambda: deque(maxlen=TIMES))
    for start in range(len(units) - size + 1):
        phrase = tuple(units[start : start + size])
        if not any(map(str.isalpha, phrase)):
            continue
        starts = seen[phrase]
        starts.append(start)
        span = units[starts[0] : start + size]
        if len(starts) == TIMES and len(span) <= window and len(set(span)) <= DISTINCT * len(span):
            return True
    return False


def _goes_round(text: str, times: int, sign: re.Pattern[str]) -> bool:
    """Whether something that holds the sign follows itself, `times` times in all."""
    for period in range(1, min(LONGEST_CYCLE, len(text) // times) + 1):
        needed = max(period * times, SAME_CHARACTER) - period
        run = 0
        for end in range(period, len(text)):
            run = run + 1 if text[end] == text[end - period] else 0
            if run >= needed and sign.search(text, end - period + 1, end + 1):
                return True
    return False
