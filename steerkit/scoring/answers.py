"""Is a completion's answer correct? One rule for each kind of answer.

`number`: the number that the text states as its result (`steerkit.scoring.results`) is one of the answers, compared
exactly. All unambiguous writings of a number agree (`steerkit.scoring.numbers`): "1,200.50", "1 200,5", "2 1/2",
"3 × 10^4", "two thousand". Percent and currency signs and units do not matter. Where a word multiplies the number
("26 billion miles"), the answer may have it either way, 26000000000 or 26, as the question may ask in that unit.

`text`: one of the answers occurs in the text, as whole words in the same order (`steerkit.scoring.mentions`). A text
that mentions the answer beside wrong ones counts as correct. Where all answers are among yes, no, true and false,
what the text decides on counts (`steerkit.scoring.decisions`).

`latex`: mathematical equality of what the text states and any of the answers (`steerkit.scoring.latex`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.scoring.abstention import abstains
from steerkit.scoring.decisions import PAIRS, decision
from steerkit.scoring.latex import equal_latex
from steerkit.scoring.mentions import mentions
from steerkit.scoring.metrics import Metric, Scores, scorer
from steerkit.scoring.numbers import read_number
from steerkit.scoring.reply import reply_of
from steerkit.scoring.results import final_number, stated_number

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import Kind, SuiteItem


__all__ = ["answers", "final_number", "is_correct"]


@scorer("answers", metrics=[Metric("accuracy", "accuracy", "higher", score="correct", show="main")])
def answers(item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the reply gives an accepted answer and does not abstain; None for an item without answers."""
    if item.answers is None:
        return {"correct": None}
    reply = reply_of(completion)
    return {"correct": not abstains(reply) and is_correct(reply, item.answers, item.kind)}


def is_correct(text: str, answers: Sequence[str], kind: Kind) -> bool:
    """Whether the text gives one of the accepted answers, by the rule for its kind.

    Raises SteerkitError where `latex` is asked for and math-verify is not installed.
    """
    match kind:
        case "number":
            stated = stated_number(text)
            accepted = {read_number(answer) for answer in answers}
            return stated is not None and (stated.value in accepted or stated.count in accepted)
        case "text":
            return _gives_any(text, answers)
        case "latex":
            return equal_latex(text, answers)


def _gives_any(text: str, answers: Sequence[str]) -> bool:
    decisive = {answer.strip().casefold() for answer in answers}
    if decisive <= frozenset().union(*PAIRS):
        pairs = frozenset().union(*(pair for pair in PAIRS if pair & decisive))
        return decision(text, pairs) in decisive
    return any(mentions(text, answer) for answer in answers)
