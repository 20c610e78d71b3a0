"""The running batch: rows that decode together, each bound to its own steering, joining and leaving freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.engines.base import Completion, Finish, Request
from steerkit.engines.cache import KeysAndValues, aligned_cache, keys_and_values
from steerkit.engines.sampling import next_tokens
from steerkit.engines.table import ANSWER, THINKING, Program, RowTable, thinking_positions
from steerkit.models import LanguageModel


@dataclass(eq=False)
class Row:
    """One request under way. `generated` grows until `finish` says why it ended."""

    request: Request
    prompt_ids: tuple[int, ...]
    program: Program
    uniforms: np.ndarray | None
    generated: list[int] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def prefix_key(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Rows with equal keys have equal keys and values up to the last prompt token."""
        return self.prompt_ids, self.program.prompt_key

    @property
    def cached(self) -> int:
        """How many of the row's tokens have been through the model: all but the newest."""
        return len(self.prompt_ids) - 1 + len(self.generated)

    @property
    def newest(self) -> int:
        """The token that the next step reads."""
        return self.generated[-1] if self.generated else self.prompt_ids[-1]

    def take(self, token: int, stop_ids: Sequence[int]) -> None:
        """Append a sampled token, or end the row."""
        if token in stop_ids:
            self.finish = "stop"
            return
        self.generated.append(token)
        if len(self.generated) == self.request.decoding.max_new_tokens:
            self.finish = "length"

    def completion(self, lm: LanguageModel) -> Completion:
        """The finished row as the engine's answer."""
        assert self.finish is not None
        return Completion(
            request=self.request,
            text=lm.renderer.decode(self.generated),
            token_ids=tuple(self.generated),
            finish=self.finish,
            prompt_tokens=len(self.prompt_ids),
            thinking_tokens=_thinking_tokens(self, lm),
        )


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prompt without its last token: row `index` of a prefilled batch, right-aligned."""

    source: KeysAndValues
    index: int


class RunningBatch:
    """Rows decoding in step. `step` advances every row by one token; `repack` lets rows leave and join."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self.rows: list[Row] = []
        self._cache: Cache

    @property
    def live(self) -> list[Row]:
        """Rows that are not finished."""
        return [row for row in self.rows if row.finish is None]

    def clear(self) -> None:
        """Forget all rows and let go of their keys and values."""
        self.rows = []
        self._cache = Cache(layers=[])

    def repack(self, joining: Sequence[tuple[Row, Prefix]]) -> None:
        """Drop finished rows, let new ones in, and trim positions that no row needs any more."""
        lm, device = self._lm, self._lm.device
        kept = [i for i, row in enumerate(self.rows) if row.finish is None]
        parts: list[tuple[KeysAndValues, Tensor]] = []
        rows: list[Row] = []
        if kept:
            parts.append((keys_and_values(self._cache), torch.tensor(kept, device=device)))
            rows += [self.rows[i] for i in kept]
        sources: dict[int, list[tuple[Row, Prefix]]] = {}
        for row, prefix in joining:
            sources.setdefault(id(prefix.source), []).append((row, prefix))
        for group in sources.values():
            parts.append((group[0][1].source, torch.tensor([p.index for _, p in group], device=device)))
            rows += [row for row, _ in group]
        if not rows:
            self.rows = []
            return
        lengths = [row.cached for row in rows]
        width = max(lengths)
        self._cache = aligned_cache(parts, width)
        self.rows = rows  # only now: had memory run out above, the batch would stand as it was
        self._mask = (
            torch.arange(width, device=device)[None] >= width - torch.tensor(lengths, device=device)[:, None]
        )
        self._positions = torch.tensor(lengths, device=device)[:, None]
        self._newest = torch.tensor([[row.newest] for row in rows], device=device)
        self._table = RowTable(lm, [row.program for row in rows])
        if self._table.tells_thinking_apart:
            texts = [[*row.prompt_ids, *row.generated] for row in rows]
            padded = [[lm.pad_id] * (width + 1 - len(text)) + text for text in texts]
            self._history = torch.tensor(padded, device=device)
        else:
            self._table.point(torch.full((len(rows), 1), ANSWER, device=device))
        self._draw_from(rows)

    def step(self) -> None:
        """One token for every row, finished ones included until the next repack drops them."""
        lm = self._lm
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        if self._table.tells_thinking_apart:
            inside = thinking_positions(self._history, *lm.thinking_markers)[:, -1:]
            self._table.point(torch.where(inside, THINKING, ANSWER))
        with self._table.one_pass():
            logits = lm.hf(
                input_ids=self._newest,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        chosen = next_tokens(logits, self._temperature, self._top_p, self._current_uniforms())
        self._newest = chosen[:, None]
        self._positions = self._positions + 1
        if self._table.tells_thinking_apart:
            self._history = torch.cat([self._history, self._newest], dim=1)
        stop_ids = lm.stop_ids
        for row, token in zip(self.rows, chosen.tolist(), strict=True):  # the step's one wait for the device
            if row.finish is None:
                row.take(token, stop_ids)

    def _draw_from(self, rows: Sequence[Row]) -> None:
        """Put the sampled rows' temperatures, nuclei and random numbers on the device, once per repack."""
        self._temperature = self._top_p = self._uniforms = None
        if all(row.uniforms is None for row in rows):
            return
        device = self._lm.device
        longest = max(row.request.decoding.max_new_tokens for row in rows)
        self._temperature = torch.tensor([row.request.decoding.temperature for row in rows], device=device)
        self._top_p = torch.tensor([row.request.decoding.top_p for row in rows], device=device)
        table = np.zeros((len(rows), longest + 1), dtype=np.float32)
        for i, row in enumerate(rows):
            if row.uniforms is not None:
                table[i, : len(row.uniforms)] = row.uniforms
        self._uniforms = torch.from_numpy(table).to(device)
        self._drawn = torch.tensor([[len(row.generated)] for row in rows], device=device)

    def _current_uniforms(self) -> Tensor | None:
        if self._uniforms is None:
            return None
        current = self._uniforms.gather(1, self._drawn).squeeze(1)
        self._drawn = (self._drawn + 1).clamp_max(self._uniforms.shape[1] - 1)
        return current


def _thinking_tokens(row: Row, lm: LanguageModel) -> int:
    """How many generated tokens came out of thinking positions; the closing marker's own are among them."""
    text = torch.tensor([[*row.prompt_ids, *row.generated]])
    inside = thinking_positions(text, *(marker.cpu() for marker in lm.thinking_markers))
    return int(inside[0, len(row.prompt_ids) - 1 : -1].sum())
