"""The part of a completion that answers: without the thinking before it and the made-up turns after it."""

from __future__ import annotations

import re

# As in steerkit.models: the marker that closes the thinking of the reasoning models in use.
_END_OF_THINKING = re.compile(r".*</think>", re.DOTALL)

# A base model in the plain form goes on to ask, and answer, questions of its own.
_NEXT_TURN = re.compile(r"\n\s*(?:question|q|user|human)\s*:", re.IGNORECASE)


def final_reply(text: str) -> str:
    """The text after the last end-of-thinking marker, up to the first turn that the model makes up."""
    return _NEXT_TURN.split(_END_OF_THINKING.sub("", text), maxsplit=1)[0].strip()
