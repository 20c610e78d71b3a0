"""The part of a completion that answers: without the thinking before it and the made-up turns after it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from steerkit.models.markers import DEFAULT, ThinkingMarkers

if TYPE_CHECKING:
    from steerkit.engines.base import Completion

# A base model in the plain form goes on to ask, and answer, questions of its own.
_NEXT_TURN = re.compile(r"\n\s*(?:question|q|user|human)\s*:", re.IGNORECASE)


def reply_of(completion: Completion) -> str:
    """Return the final reply of a completion; empty where all of its tokens went into thinking.

    Of a text without tokens, that is where it opens thinking and never closes it.
    """
    text, markers = completion.text, completion.markers
    if completion.tokens:
        unanswered = completion.tokens == completion.thinking_tokens
    else:
        unanswered = markers.opening in text and markers.closing not in text
    return "" if unanswered else final_reply(text, markers)


def final_reply(text: str, markers: ThinkingMarkers = DEFAULT) -> str:
    """Return what stands behind the last closing marker of thinking, up to the first turn that the model makes up."""
    return _NEXT_TURN.split(markers.behind(text), maxsplit=1)[0].strip()
