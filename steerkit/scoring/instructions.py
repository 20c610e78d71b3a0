"""Does a reply follow the constraints that its prompt states? Their kinds are those of `steerkit.suites.constraints`.

Hard accuracy: all constraints are followed. Soft accuracy: the mean share of them that is (MathIF, Fu et al. 2025,
arXiv 2505.14810). Judged is the reply alone, what comes after the thinking. A reply without a letter or digit
follows nothing.

Words are what white space parts. Case does not matter where a constraint is about a word or a phrase; white space at
the ends of the reply, and how much of it stands between words, never does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Scores, scorer
from steerkit.scoring.reply import reply_of
from steerkit.suites.constraints import Constraint, has_word, question_and_constraints

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.runs.record import Record
    from steerkit.suites.items import SuiteItem

_BULLET = re.compile(r"^\s*- +\S", re.MULTILINE)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_QUOTES = ('""', "“”")

# What each kind of constraint asks of the reply, given the constraint's value and the question.
_CHECKS: dict[str, Callable[[str, str, str], bool]] = {
    "at-most-words": lambda reply, value, _: len(reply.split()) <= int(value),
    "at-least-words": lambda reply, value, _: len(reply.split()) >= int(value),
    "lower-case": lambda reply, *_: reply == reply.lower(),
    "upper-case": lambda reply, *_: reply == reply.upper(),
    "no-commas": lambda reply, *_: "," not in reply,
    "include-word": lambda reply, value, _: has_word(reply, value),
    "avoid-word": lambda reply, value, _: not has_word(reply, value),
    "bullets": lambda reply, value, _: len(_BULLET.findall(reply)) == int(value),
    "json": lambda reply, *_: _is_json_object(reply),
    "begins-with": lambda reply, value, _: _plain(reply).startswith(_plain(value)),
    "ends-with": lambda reply, value, _: _plain(reply).endswith(_plain(value)),
    "quoted": lambda reply, *_: len(reply) > 2 and reply[0] + reply[-1] in _QUOTES,
    "repeat": lambda reply, _, question: _plain(question) in _plain(reply),
}


def _correct_under_constraints(record: Record) -> float | None:
    return record.scores.get("correct") if "instructions_hard" in record.scores else None


def _price(first: Record, second: Record) -> float | None:
    """Correct under constraints minus correct without, of one question."""
    correct = {"instructions_hard" in r.scores: r.scores.get("correct") for r in (first, second)}
    ruled, plain = correct.get(True), correct.get(False)
    return None if ruled is None or plain is None else float(ruled) - float(plain)


METRICS = (
    Metric("instructions_hard", "all constraints followed", "higher", "followed", show="main"),
    Metric("instructions_soft", "share of constraints followed", "higher", "of each", graded=True),
    Metric(
        "constrained_accuracy", "accuracy under constraints", "higher",
        measure=_correct_under_constraints, show="hidden",
    ),
    Metric(
        "constrained_minus_plain", "accuracy, constraints minus plain twin", "higher", "constr. − plain",
        compare=_price, show="main",
    ),
)  # fmt: skip


@scorer("instructions", metrics=METRICS)
def instructions(item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the reply follows the constraints that its prompt states; thinking that never closed follows none."""
    return instruction_scores(item.prompt, reply_of(completion))


def instruction_scores(prompt: str, reply: str) -> dict[str, bool | float]:
    """`instructions_hard` and `instructions_soft` of a reply; nothing where its prompt states no constraints.

    Raises MisuseError where the prompt has a constraint that cannot be checked.
    """
    question, constraints = question_and_constraints(prompt)
    if not constraints:
        return {}
    kept = [follows(reply, constraint, question) for constraint in constraints]
    return {"instructions_hard": all(kept), "instructions_soft": sum(kept) / len(kept)}


def follows(reply: str, constraint: Constraint, question: str = "") -> bool:
    """Whether the reply follows one constraint; `question` is what is to be repeated."""
    reply = reply.strip()
    return bool(re.search(r"\w", reply)) and _CHECKS[constraint.kind](reply, constraint.value, question)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_json_object(reply: str) -> bool:
    fenced = _FENCE.fullmatch(reply)
    try:
        return isinstance(json.loads(fenced[1] if fenced else reply), dict)
    except (ValueError, RecursionError):
        return False
