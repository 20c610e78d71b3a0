"""Thinking markers: the texts that open and close a model's thinking. No other module writes one down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MarkerIds = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """The texts between which a model thinks. A chat template may write the opening one into the prompt."""

    opening: str = "<think>"
    closing: str = "</think>"

    def behind(self, text: str) -> str:
        """Return what stands behind the last closing marker of `text`; all of it where there is none."""
        return text.rpartition(self.closing)[2]

    def encode(self, tokenizer: Any) -> MarkerIds:
        """Return the token ids of both markers, nothing added.

        A marker that the tokenizer can only call unknown has none: it occurs nowhere.
        """
        opening, closing = (_ids(tokenizer, marker) for marker in (self.opening, self.closing))
        return opening, closing


DEFAULT = ThinkingMarkers()


def _ids(tokenizer: Any, marker: str) -> tuple[int, ...]:
    ids = tuple(tokenizer.encode(marker, add_special_tokens=False))
    unknown = getattr(tokenizer, "unk_token_id", None)
    return () if unknown is not None and unknown in ids else ids
