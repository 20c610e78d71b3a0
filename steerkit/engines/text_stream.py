"""A completion's text while it is written: what is given out is never taken back.

1. Only whole characters: of tokens that hold parts of one, the text comes with the token that ends it.
2. Nothing of a stop text: what may still turn out to be its beginning waits until it is known not to be.
3. As in `Completion.text`: special tokens are left out but for those that are markers, and blanks at both ends too,
   so blanks wait for the text behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steerkit.core.prompts import REPLACEMENT
from steerkit.models import LanguageModel

LONGEST_RUN = 64  # tokens that may wait for the end of one character


class Piece(NamedTuple):
    """Raw text of `tokens` tokens, and whether a reader sees it."""

    raw: str
    is_shown: bool
    tokens: int


class TextStream:
    """The text of one completion, token by token; `tokens` of them have been given out with all their text."""

    def __init__(self, lm: LanguageModel, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._lm = lm
        self._prompt_ids = prompt_ids
        self._stop = stop
        self._read = 0  # tokens that were taken
        self._whole = 0  # the first of them whose text is not whole yet
        self._held: list[Piece] = []
        self._blanks = ""
        self._given = 0  # characters
        self.tokens = 0

    def take(self, ids: Sequence[int]) -> str:
        """Return what can be given out more once the completion's tokens are `ids`."""
        text = ""
        while self._read < len(ids):
            self._read += 1
            if pieces := self._pieces(ids[: self._read]):
                self._held += pieces
                text += self._release()
        return text

    def rest(self, text: str) -> str:
        """Return what of the whole completion's `text` has not been given out."""
        return text[self._given :]

    def _pieces(self, ids: Sequence[int]) -> list[Piece]:
        """The text that the newest token completes; nothing where it is part of a character."""
        if self._lm.renderer.is_special(ids[-1]):
            return self._ended_by_special(ids)
        newest = self._joined(ids)
        if newest.raw.endswith(REPLACEMENT) and newest.tokens < LONGEST_RUN:
            return []
        self._whole = len(ids)
        return [newest]

    def _ended_by_special(self, ids: Sequence[int]) -> list[Piece]:
        """The text that a special token ends, whatever character was begun, and its own."""
        pieces = []
        if self._whole < len(ids) - 1:
            pieces.append(self._joined(ids[:-1]))
            self._whole = len(ids) - 1
        newest = self._joined(ids)
        self._whole = len(ids)
        read = self._lm.thinking.read(self._prompt_ids, ids)
        if read.text.endswith(newest.raw.strip()):
            return [*pieces, newest]
        # A completion's text loses what was begun together with the token that is left out.
        pieces = [piece._replace(raw=piece.raw.rstrip(REPLACEMENT)) for piece in pieces]
        return [*pieces, newest._replace(is_shown=False)]

    def _joined(self, ids: Sequence[int]) -> Piece:
        """The text of all tokens from the first on that is not whole yet."""
        renderer, start = self._lm.renderer, self._whole
        own = renderer.own_text(ids[-1]) if 0 < start == len(ids) - 1 else None
        if own is None:
            before = ids[max(0, start - 1) : start]  # a text's first token may be written without its blank
            lead = renderer.decode_raw(before) if before else ""
            own = renderer.decode_raw(ids[start - len(before) :])[len(lead) :]
        return Piece(own, True, len(ids) - start)

    def _release(self) -> str:
        raw = "".join(piece.raw for piece in self._held)
        safe = len(raw) - _beginning(raw, self._stop)
        shown = ""
        while self._held:
            piece = self._held[0]
            now, later = piece.raw[:safe], piece.raw[safe:]
            shown += now if piece.is_shown else ""
            if later:
                self._held[0] = piece._replace(raw=later)
                break
            safe -= len(now)
            self.tokens += piece.tokens
            del self._held[0]
        return self._between_blanks(shown)

    def _between_blanks(self, shown: str) -> str:
        text = self._blanks + shown if self._given else shown.lstrip()
        kept = text.rstrip()
        self._blanks = text[len(kept) :]
        self._given += len(kept)
        return kept


def _beginning(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop text."""
    longest = (
        n for each in stop for n in range(min(len(each) - 1, len(text)), 0, -1) if text.endswith(each[:n])
    )
    return max(longest, default=0)
