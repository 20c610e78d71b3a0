"""A rule on logits: `--steer no-digits`, `--steer no-digits@nats=2`, `NoDigits(nats=2)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import steerkit as sk
from steerkit.interventions.logit_rules import Edits

if TYPE_CHECKING:
    from steerkit import LanguageModel


@sk.logit_rule("no-digits")
@dataclass(frozen=True, eq=False, repr=False)
class NoDigits(sk.LogitRule):
    """Take `nats` off every token that holds a digit."""

    nats: float = 100.0

    def bind(self, lm: LanguageModel) -> Penalty:
        """Return the rule in the tokens of `lm`."""
        vocabulary = range(len(lm.tokenizer))
        return Penalty(
            tuple(t for t in vocabulary if any(map(str.isdigit, lm.tokenizer.decode([t])))), self.nats
        )


@dataclass(frozen=True)
class Penalty:
    """The same edits at every step: the state is always 0."""

    tokens: tuple[int, ...]
    nats: float

    def start(self, _prompt: Sequence[int]) -> int:
        """Return the state before the first token."""
        return 0

    def after(self, state: int, _token: int) -> int:
        """Return the state after one more token."""
        return state

    def edits(self, _state: int) -> Edits:
        """Return the nats to add by token."""
        return Edits(dict.fromkeys(self.tokens, -self.nats))
