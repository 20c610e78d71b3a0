"""The part of a completion that answers: without the thinking before it and the made-up turns after it."""

from __future__ import annotations

import re

from steerkit.models.markers import DEFAULT, ThinkingMarkers

# A base model in the plain form goes on to ask, and answer, questions of its own.
_NEXT_TURN = re.compile(r"\n\s*(?:question|q|user|human)\s*:", re.IGNORECASE)


def final_reply(text: str, markers: ThinkingMarkers = DEFAULT) -> str:
    """Return what stands behind the last closing marker of thinking, up to the first turn that the model makes up."""
    return _NEXT_TURN.split(markers.behind(text), maxsplit=1)[0].strip()
