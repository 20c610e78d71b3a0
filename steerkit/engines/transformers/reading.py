"""What the readers of a batch's rows read, pass by pass: computed where the states are, fetched when rows change.

1. All readers of a batch are read of all its rows: those that are linear in the states of one place come of one product
   `[row, position, width] · [width, reader]`, which costs less than it would to gather each row's own. A row's own are
   picked out when they are fetched.
2. Hooks only compute and keep; nothing waits for the device before `Noted.fetch`, which the batch calls when its rows
   change or one of them is done, once for all passes since.
3. Its hooks go in before those of a row-bound table, and so see a place's states as that place's steerings find them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from steerkit.core.sites import Place
from steerkit.interventions.readers import LinearReader, NamedReader, Reader, Reading
from steerkit.models import LanguageModel
from steerkit.models.sites import one_pass


class ReadingTable:
    """Reads `readers` of the states and logits of the passes that it is told of.

    Raises MisuseError where the model has no such place.
    """

    def __init__(self, lm: LanguageModel, readers: Sequence[Reader]) -> None:
        self._lm = lm
        distinct = list(dict.fromkeys(readers))
        self.of_states = sorted((r for r in distinct if r.place is not None), key=_by_place)
        self.of_logits = [
            reader for reader in distinct if isinstance(reader, NamedReader) and reader.place is None
        ]
        self._places: dict[Place, AtPlace] = {}
        for place in dict.fromkeys(reader.place for reader in self.of_states if reader.place is not None):
            here = [reader for reader in self.of_states if reader.place == place]
            self._places[place] = AtPlace(lm, place, here)
        # As the places' parts are put together: within a place the linear ones come first.
        self.of_states = [reader for part in self._places.values() for reader in part.readers]
        self._found: dict[Place, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.of_states or self.of_logits)

    def one_pass(self) -> AbstractContextManager[None]:
        """Hooks for exactly one forward pass, in which each must be called exactly once."""
        if not self._places:
            return nullcontext()
        return one_pass({self._lm.sites.at(place): partial(self._read, place) for place in self._places})

    def _read(self, place: Place, hidden: Tensor) -> None:
        if not self._lm.is_suspended:
            self._found[place] = self._places[place].read(hidden)

    def states_read(self, owner: Tensor | None = None) -> Tensor:
        """What the newest pass read of states, `[row, position, reader]` float32 in the order of `of_states`.

        `owner` says which row of a place's states each row had, where a pass had fewer rows there than it ended with.
        """
        parts = []
        for place in self._places:
            values = self._found[place]
            if owner is not None and values.shape[0] != owner.shape[0]:
                values = values.index_select(0, owner.to(values.device))
            parts.append(values.to(self._lm.device))
        self._found = {}
        return torch.cat(parts, dim=-1)

    def logits_read(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """What is read of logits `[…, vocabulary]` that chose tokens `[…]`, `[…, reader]` as in `of_logits`."""
        found = [reader.registered.function(logits, chosen).float() for reader in self.of_logits]
        return torch.stack(found, dim=-1)


class AtPlace:
    """The readers of one place, the linear ones stacked; `readers` are in the order in which they are read."""

    def __init__(self, lm: LanguageModel, place: Place, readers: Sequence[Reader]) -> None:
        like = lm.like(*place)
        self._linear = [reader for reader in readers if isinstance(reader, LinearReader)]
        self._others = [reader for reader in readers if isinstance(reader, NamedReader)]
        self.readers: list[Reader] = [*self._linear, *self._others]
        if self._linear:
            weights, biases = zip(*(reader.linear for reader in self._linear), strict=True)
            self._weights = torch.stack(weights, dim=1).to(like.device)
            self._biases = torch.tensor(biases, dtype=torch.float32, device=like.device)

    def read(self, hidden: Tensor) -> Tensor:
        """`[row, position, reader]` float32 of states `[row, position, width]`."""
        parts = []
        if self._linear:
            sums = hidden.float() @ self._weights + self._biases
            finished = [reader.finish(sums[..., i]) for i, reader in enumerate(self._linear)]
            parts.append(torch.stack(finished, dim=-1))
        parts += [reader.registered.function(hidden).float()[..., None] for reader in self._others]
        return torch.cat(parts, dim=-1)


class RowReadings:
    """What was read of one row so far: by reader, of its prompt but for the last token, and pass by pass behind that.

    Of logits a reading is that of the token which they chose, so a prompt's readings begin with its second token. The
    last token of a row that its length or a stop text ends is never run, and has no reading of states.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = tuple(readers)
        self._prompt: Mapping[Reader, np.ndarray] = {}
        self._passes: dict[Reader, list[np.ndarray]] = {reader: [] for reader in readers}

    def take_prompt(self, found: Mapping[Reader, np.ndarray]) -> None:
        """Take what was read of the prompt, `[token]` a reader, in the place of what was."""
        self._prompt = found

    def take_passes(self, reader: Reader, values: np.ndarray) -> None:
        """Take what a reader read in further passes, `[pass]`."""
        self._passes[reader].append(values)

    def of_completion(self, reader: Reader, start: int, stop: int) -> tuple[float, ...]:
        """What was read of the completion's tokens `start` to `stop`, of those of which anything has been fetched."""
        values = list(chain.from_iterable(part.tolist() for part in self._passes[reader]))
        first = int(reader.place is not None)  # the first pass has the states of the prompt's last token
        return tuple(values[first + start : first + stop])

    def of(self, readers: Sequence[Reader], prompt: int, completion: int) -> tuple[Reading, ...]:
        """The readings of so many tokens of the prompt and the completion."""
        return tuple(self._of(reader, prompt, completion) for reader in readers)

    def _of(self, reader: Reader, prompt: int, completion: int) -> Reading:
        values: list[float | None] = [] if reader.place is not None else [None]
        values += self._prompt[reader].tolist() if reader in self._prompt else [None] * (prompt - 1)
        values += chain.from_iterable(part.tolist() for part in self._passes[reader])
        values += [None] * (prompt + completion - len(values))
        return Reading(reader, tuple(values[:prompt]), tuple(values[prompt : prompt + completion]))


class Noted:
    """Passes of one set of rows that are not fetched yet: what was read of states and of logits in each."""

    def __init__(self, rows: Sequence[ReadRow] = ()) -> None:
        self._rows = tuple(rows)
        self._since = [row.passes for row in rows]
        self._of_states: list[Tensor] = []
        self._of_logits: list[Tensor] = []

    def states(self, values: Tensor) -> None:
        """Note a pass's `[row, reader]`."""
        if self._rows:
            self._of_states.append(values)

    def logits(self, values: Tensor) -> None:
        """Note a pass's `[row, reader]`."""
        if self._rows:
            self._of_logits.append(values)

    def fetch(self, table: ReadingTable) -> None:
        """Hand out to each row what was read of it in the passes that it took since the last time.

        Waits for the device where anything was noted.
        """
        columns: dict[Reader, np.ndarray] = {}  # [pass, row]
        for readers, noted in ((table.of_states, self._of_states), (table.of_logits, self._of_logits)):
            if noted:
                values = torch.stack(noted).cpu().numpy()
                columns |= {reader: values[..., i] for i, reader in enumerate(readers)}
        for place, row in enumerate(self._rows):
            taken = row.passes - self._since[place]  # a finished row runs on, but takes no part
            for reader in row.readers if taken else ():
                row.read.take_passes(reader, columns[reader][:taken, place])
            self._since[place] = row.passes
        self._of_states, self._of_logits = [], []


class ReadRow(Protocol):
    """What `Noted` knows of a row."""

    passes: int
    read: RowReadings

    @property
    def readers(self) -> tuple[Reader, ...]:
        """What reads it."""


def _by_place(reader: Reader) -> Place:
    assert reader.place is not None
    return reader.place
