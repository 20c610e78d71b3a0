"""The part of a completion that answers: without the thinking before it and the made-up turns after it.

A turn is made up where a line begins one behind an answer: `Question:`, `User:` or `Human:`, and `Q:` where a question
stands behind it. It is not behind a lead-in, which announces the line ("Let me restate the problem.", "For example:"),
nor further on in what a lead-in announced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.models.markers import ThinkingMarkers
from steerkit.models.thinking import Span, spans_of, unwrapped

if TYPE_CHECKING:
    from steerkit.engines.base import Completion

# A base model in the plain form goes on to ask, and answer, questions of its own.
_TURN = re.compile(r"\n\s*(?P<who>question|q|user|human)\s*:(?P<said>[^\n]*)", re.IGNORECASE)
LEAD = 400  # characters in which a lead-in stands
_NOUN = (
    r"(?:problem|question|task|prompt|riddle|puzzle|exercise|dialogue|conversation|exchange|chat|interview|transcript"
    r"|scene|play|script|story|quiz|example|sample|format|template)s?"
)
# One sentence that announces, and holds no number, name or verdict that could be an answer.
_ANNOUNCES = re.compile(
    r"(?:okay|ok|sure|first|now|let me|let us|let's|here is|here are|here it|here's|i will|i'll|i am going|we)\b"
    r"(?!.*\b(?:not|cannot|no|none|unknown|know|unsure|sorry|unable)\b)(?!.*n['’]t\b)"
    r"(?:[ ,;–-]+(?:[a-z'’]+|I)){3,16}[.!]?\s*"
)
_END = r"(?:[ \t]+\w+){0,4}[.!]?\s*\Z"
_LEAD_IN = re.compile(
    r"[:,]\s*\Z"
    r"|\b(?:re-?stat|re-?phras|re-?writ|re-?formulat|re-?read|repeat|summari[sz]|recall|quot)\w*\b[^.!?\n\d=]*[.!]?\s*\Z"
    rf"|\b(?:let me|let us|let's|i will|i'll|i am going to)\b[^.!?\n\d=]*\b{_NOUN}\b{_END}"
    r"|\b(?:here is|here's|here are|this is|below is|consider|given|analy[sz]e|look at|read)\b"
    rf"[^.!?\n\d=]*\b{_NOUN}\b{_END}",
    re.IGNORECASE,
)
_SPOKEN = re.compile(r"\A\s*(?:\*\*)?(?:question|q|user|human)\s*:", re.IGNORECASE)


def reply_of(completion: Completion) -> str:
    """Return the final reply of a completion; empty where all of its tokens went into thinking."""
    if completion.spans:
        return final_reply(completion.text, spans=completion.spans)
    if completion.tokens and completion.tokens == completion.thinking_tokens:
        return ""
    return final_reply(completion.text, completion.markers)


def final_reply(
    text: str, markers: ThinkingMarkers | None = None, *, spans: Sequence[Span] | None = None
) -> str:
    """Return what a text answers: its last stretch of answer, up to the first turn that the model makes up.

    `spans` say what is answer, where that is known of its tokens; else it is found in the text, in which the markers of
    all known families count, and `markers` besides. Empty where a thought never closed.
    """
    stretches = [
        text[s.start : s.stop]
        for s in (spans_of(text, markers) if spans is None else spans)
        if s.kind == "answer"
    ]
    reply = ""
    for stretch in stretches:
        kept = without_made_up_turns(stretch)
        if kept.strip():
            reply = kept.strip()
            if len(kept) < len(stretch):  # what comes behind answers a question of its own
                break
    return unwrapped(reply)


def without_made_up_turns(text: str) -> str:
    """Return the text up to the first turn that the model makes up."""
    announced = ""
    for turn in _TURN.finditer(text):
        before, who = text[: turn.start()], turn["who"].lower()
        if not before.strip() or (who == "q" and "?" not in turn["said"]):
            continue
        if not announced and (
            _LEAD_IN.search(before[-LEAD:]) or _SPOKEN.match(before) or _is_announcement(before)
        ):
            announced = who
            continue
        if announced == who and who in ("user", "human"):
            continue
        return before
    return text


def _is_announcement(text: str) -> bool:
    """Whether a text is one sentence that leads in to what comes behind it."""
    said = text.strip()
    return _ANNOUNCES.fullmatch(said[:1].lower() + said[1:]) is not None
