"""All scores of one completion, as the flat object that a record keeps."""

from __future__ import annotations

from steerkit.engines.base import Completion
from steerkit.scoring.abstention import abstains
from steerkit.scoring.answers import is_correct
from steerkit.scoring.degeneration import is_degenerate, repetition
from steerkit.scoring.lengths import lengths
from steerkit.scoring.reply import final_reply
from steerkit.suites.items import SuiteItem

Score = bool | int | float | None


def score_completion(item: SuiteItem, completion: Completion) -> dict[str, Score]:
    """Every score that needs no model: what was answered, how long it took, and whether it fell apart.

    abstained         the final reply abstains (`steerkit.scoring.abstention`)
    correct           it gives an accepted answer and does not abstain; None where the item has no answers
    tokens_thinking, tokens_answer, tokens_total, truncated      see `steerkit.scoring.lengths`
    forced            a thinking budget closed the thinking, so that tokens_thinking is what it was cut to
    repetition, degenerate                                       see `steerkit.scoring.degeneration`

    Thinking that never closed leaves no reply: neither an abstention nor correct.
    """
    size = lengths(completion)
    reply = final_reply(completion.text) if size.answer or not size.thinking else ""
    abstained = abstains(reply)
    correct = None
    if item.answers is not None:
        correct = not abstained and is_correct(reply, item.answers, item.kind)
    return {
        "abstained": abstained,
        "correct": correct,
        "tokens_thinking": size.thinking,
        "tokens_answer": size.answer,
        "tokens_total": size.total,
        "truncated": size.truncated,
        "forced": completion.forced,
        "repetition": repetition(completion.token_ids),
        "degenerate": is_degenerate(completion),
    }
