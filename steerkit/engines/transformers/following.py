"""Strengths that follow a reader, in a table of rows: readings at a place turned to factors, held from pass to pass.

1. Factors are `[row, position]` float32, one tensor a distinct following, made at the reader's place before that place
   is edited. A following of logits has its reading from the step before: `take_logits` is told of each.
2. What a later position needs of earlier ones, the reading that holds and whether a switch is on, is kept by row, and
   goes with the row into the next table (`carried`).
3. Everything is arithmetic on the device: the last position before each at which something happened is a running
   maximum of positions, so a pass over a whole text gives what one position a pass gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.core.sites import Place
from steerkit.engines.transformers.reading import AtPlace
from steerkit.interventions.following import Following, StrengthRamp, StrengthSwitch
from steerkit.interventions.readers import NamedReader, Reader
from steerkit.models import LanguageModel

THINKING, PER_LAST, PER_END = 2, 9, 3  # how a phase is put together; see table
LINE, STEP = 1, 2


@dataclass
class _Held:
    """What one following keeps of each row, `[row]`: the reading that holds (NaN: none), and whether it is on."""

    reading: Tensor
    on: Tensor

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> _Held:
        return cls(
            torch.full((rows,), float("nan"), device=device),
            torch.zeros(rows, dtype=torch.bool, device=device),
        )


class FollowedStrengths:
    """The factors of `followings` for `rows` rows; see the module's contract.

    Number 0 stands for no following, whose factor is 1; the k-th following has the number k, from 1.
    """

    def __init__(self, lm: LanguageModel, followings: Iterable[Following], rows: int) -> None:
        self.number = {following: k for k, following in enumerate(dict.fromkeys(followings), start=1)}
        self._lm, self._rows = lm, rows
        self._at: dict[Place, tuple[AtPlace, list[Following]]] = {}
        readers = list(dict.fromkeys(f.reader for f in self.number if f.reader.place is not None))
        for place in dict.fromkeys(reader.place for reader in readers if reader.place is not None):
            here = [reader for reader in readers if reader.place == place]
            following = [f for f in self.number if f.reader.place == place]
            self._at[place] = AtPlace(lm, place, here), following
        self._of_logits = [f for f in self.number if f.reader.place is None]
        self._held = {f: _Held.nothing(rows, self._device(f)) for f in self.number}
        self._ended = torch.zeros(rows, dtype=torch.long, device=lm.device)  # what the position before ended
        self._latest: dict[Reader, Tensor] = {}
        self._phases: Tensor | None = None
        self._factors: dict[Following, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.number)

    def begin(self, phases: Tensor) -> None:
        """Take the phases `[row, position]` of the coming pass."""
        self._ended = self._ended_last()
        self._phases = phases
        self._factors = {}
        for following in self._of_logits:
            latest = self._latest.get(following.reader)
            if latest is None:
                latest = torch.full((phases.shape[0],), float("nan"), device=phases.device)
            if phases.shape[1] != 1:
                raise MisuseError(
                    f"{str(following.reader)!r} reads the logits that chose a token, and a whole text is run in one "
                    "pass: a strength can follow it only where the packed engine generates"
                )
            self._factors[following] = self._follow(following, latest[:, None])

    def read(self, place: Place, hidden: Tensor) -> None:
        """Read the states `[row, position, width]` of a place, where any reader does."""
        if place not in self._at:
            return
        readers, followings = self._at[place]
        values = readers.read(hidden)
        for following in followings:
            column = readers.readers.index(following.reader)
            self._factors[following] = self._follow(following, values[..., column])

    def take_logits(self, nats: Tensor, chosen: Tensor) -> None:
        """Take the logits `[row, vocabulary]` that chose the tokens `[row]` of the next pass."""
        for following in self._of_logits:
            assert isinstance(following.reader, NamedReader)
            self._latest[following.reader] = following.reader.registered.function(nats, chosen).float()

    def of(self, numbers: Tensor, newest: int, like: Tensor) -> Tensor:
        """The factor of each position, `[row, position, 1]`, by the number `[row, position]` of what it follows.

        Of the last `newest` positions, in the format and on the device of `like`.
        """
        factor = torch.ones(numbers.shape, dtype=torch.float32, device=like.device)
        for following, values in self._factors.items():
            here = values[:, -newest:].to(like.device)
            factor = torch.where(numbers == self.number[following], here, factor)
        return factor[..., None].to(like.dtype)

    def carry(self, before: FollowedStrengths, rows: Sequence[int | None]) -> None:
        """Go on for each row from where it was in another table: its place there, None for a row that was not."""
        if not self or not any(place is not None for place in rows):
            return
        was = torch.tensor([-1 if place is None else place for place in rows], device=self._lm.device)

        def moved(old: Tensor, new: Tensor) -> Tensor:
            index = was.to(old.device)
            return torch.where(index >= 0, old[index.clamp_min(0)], new)

        for following, held in self._held.items():
            if following in before._held:
                old = before._held[following]
                held.reading, held.on = moved(old.reading, held.reading), moved(old.on, held.on)
        self._ended = moved(before._ended_last(), self._ended)
        for following in self._of_logits:
            if (latest := before._latest.get(following.reader)) is not None:
                nothing = torch.full((len(rows),), float("nan"), device=latest.device)
                self._latest[following.reader] = moved(latest, nothing)

    def _follow(self, following: Following, values: Tensor) -> Tensor:
        """The factors `[row, position]` of readings `[row, position]`, and what is held behind the last."""
        assert self._phases is not None
        phases = self._phases[:, -values.shape[1] :].to(values.device)
        renewed = phases >= THINKING
        if following.renewed != "every":
            ended = self._ended.to(values.device)
            before = torch.cat([ended.expand(values.shape[0])[:, None], _ends(phases)[:, :-1]], dim=1)
            least = STEP if following.renewed == "boundaries" else LINE
            renewed = renewed & ((before >= least) | (phases >= THINKING + PER_LAST))
        held = self._held[following]
        if held.reading.shape[0] != values.shape[0]:
            held = _Held.nothing(values.shape[0], values.device)
        at = _last(renewed)
        reading = torch.where(at >= 0, values.gather(1, at.clamp_min(0)), held.reading[:, None])
        self._held[following] = held
        held.reading = reading[:, -1]
        if isinstance(following, StrengthRamp):
            share = ((reading - following.low) / (following.high - following.low)).clamp(0, 1)
            factor = following.least + (following.most - following.least) * share
            return torch.where(reading.isnan(), 0.0, factor)
        assert isinstance(following, StrengthSwitch)
        rises, falls = reading >= following.on, reading < following.off
        if not following.rises:
            rises, falls = reading <= following.on, reading > following.off
        last_on, last_off = _last(rises), _last(falls)
        on = torch.where((last_on < 0) & (last_off < 0), held.on[:, None], last_on > last_off)
        held.on = on[:, -1]
        return on.float()

    def _ended_last(self) -> Tensor:
        """What each row's newest position ended, `[row]`."""
        return self._ended if self._phases is None else _ends(self._phases)[:, -1]

    def _device(self, following: Following) -> torch.device:
        place = following.reader.place
        return self._lm.device if place is None else self._lm.like(*place).device


def _last(happens: Tensor) -> Tensor:
    """The newest position up to each, `[row, position]`, at which something happens; -1: none."""
    places = torch.arange(happens.shape[1], device=happens.device)
    return torch.where(happens, places, -1).cummax(dim=1).values


def _ends(phases: Tensor) -> Tensor:
    """What each position ends, `[row, position]`: STEP, LINE or 0; the prompt's last token ends both."""
    within = (phases - THINKING).clamp_min(0)
    ends = (within % PER_LAST) // PER_END
    return torch.where(phases >= THINKING + PER_LAST, STEP, ends)
