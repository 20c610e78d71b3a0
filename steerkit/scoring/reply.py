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
    """Return the final reply of a completion; empty where all of its tokens went into thinking."""
    unanswered = 0 < completion.tokens == completion.thinking_tokens
    return "" if unanswered else final_reply(completion.text, completion.markers)


def final_reply(text: str, markers: ThinkingMarkers = DEFAULT) -> str:
    """Return what stands behind the last closing marker of thinking, up to the first turn that the model makes up."""
    return _NEXT_TURN.split(markers.behind(text), maxsplit=1)[0].strip()
