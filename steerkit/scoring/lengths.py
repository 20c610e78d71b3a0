"""How long a completion is, in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Question, Scores, scorer

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import SuiteItem

METRICS = (
    Metric("tokens", "tokens", "lower", unit="tokens", show="main"),
    Metric("thinking_tokens", "thinking tokens", "lower", "think", unit="tokens"),
    Metric("truncated", "truncated", "lower", "cut"),
    Metric("forced", "thinking forced shut", "lower", show="hidden"),
)
QUESTION = Question(
    name="length",
    title="How long to think",
    y="accuracy",
    x="tokens",
    metrics=("accuracy", "tokens", "truncated"),
    objective="tokens",
    bounds={"accuracy_drop": 0.05, "degenerate_rise": 0.1},
    rule="the fewest tokens with accuracy at most 0.05 below and degeneration at most 0.10 above the "
    "unsteered model",
)


@scorer("lengths", metrics=METRICS, questions=[QUESTION], needs="tokens")
def lengths(_item: SuiteItem, completion: Completion) -> Scores:
    """Count the tokens of the completion, without its end-of-sequence token, and of the thinking in it.

    The thinking's closing marker is counted with it, and the thinking ends where the reply begins. `truncated`: the
    token limit cut the completion off, so that both are lower bounds. `forced`: a thinking budget wrote a closing
    marker, behind which a model may have gone on thinking.
    """
    return {
        "tokens": completion.tokens,
        "thinking_tokens": completion.thinking_tokens,
        "truncated": completion.finish == "length",
        "forced": completion.forced,
    }
