"""Which shortcuts a model takes: each is tried on the model itself, beside the plain way, before it is relied on.

1. The plain way runs every text whole, by itself, without a cache. Five texts of random tokens are run so, and then
   with a shortcut; the logits must agree. Where a model's own cached steps differ a little from its whole pass,
   decoding is held against the steps.
2. What a token may see can end at a window or a chunk. A trial crosses each size of that kind that the config names and
   the texts at hand reach: short texts cost a short trial.
3. What differs is left off. A row then costs more, and says the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.engines.forward import (
    Rows,
    expanded_after,
    last_states,
    left_padded,
    logits,
    prefill,
    ran_out,
    right_padded,
)
from steerkit.engines.row_states import RowStates, UnknownStateError, empty_cache
from steerkit.models import LanguageModel

# How far rounding may take the same text in two batches apart, relative to the norm.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2}
LOOSEST = 5e-2
# Of a quantised model: in 8 bits up to 0.13 were seen, and 0.24 with ten tokens of the past missing.
WIDEST = 0.15
OWN_STEPS = 2e-2  # how far a model's cached steps may be from its whole pass before they are no reference
SHORT = 24  # tokens that the first trial reaches
DISTINCT = 16  # tokens that random texts are drawn from, so that there are repetitions
BEHIND = 5  # tokens behind the longest head


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What holds for texts of up to the length that was tried.

    `states` takes caches apart by rows, so that rows decode together from what each keeps; None where that does not
    hold, and `reason` says why. `pads`: prompts of unequal length may be run in one pass, aligned at their ends.
    `aligns`: texts of unequal length may be run in one pass, aligned at their starts. `continues`: several tokens at
    once may be run behind a prompt.
    """

    states: RowStates | None
    reason: str = ""
    pads: bool = False
    aligns: bool = True
    continues: bool = False


_TRIED: weakref.WeakKeyDictionary[LanguageModel, tuple[int, Shortcuts]] = weakref.WeakKeyDictionary()
_NEIGHBOURS: weakref.WeakKeyDictionary[LanguageModel, float] = weakref.WeakKeyDictionary()
_EXPANDS: weakref.WeakKeyDictionary[LanguageModel, dict[int, bool]] = weakref.WeakKeyDictionary()
_ALIGNED: weakref.WeakKeyDictionary[LanguageModel, tuple[int, bool]] = weakref.WeakKeyDictionary()


def shortcuts(lm: LanguageModel, longest: int) -> Shortcuts:
    """Return the shortcuts that `lm` takes for texts of up to `longest` tokens; each is tried once, unsteered."""
    reached, found = _TRIED.get(lm, (0, None))
    for level in levels(lm, longest):
        if level > reached:
            with torch.inference_mode(), lm.unsteered():
                found = _first(lm) if found is None else found
                found = replace(_narrowed(lm, found, level), aligns=aligns(lm, level + 1))
            _TRIED[lm] = level, found
    assert found is not None
    return found


def aligns(lm: LanguageModel, longest: int) -> bool:
    """Return whether texts of up to `longest` tokens may be run in one pass, aligned at their starts."""
    reached, found = _ALIGNED.get(lm, (0, True))
    for level in levels(lm, longest):
        if found and level > reached:
            with lm.unsteered():
                found = holds(partial(_aligns, lm, level))
            _ALIGNED[lm] = level, found
    return found


def expands(lm: LanguageModel, states: RowStates, layer: int) -> bool:
    """Return whether the blocks up to `layer` may run a row a prompt, and those above it a row a steering.

    Tried once a block: what the model keeps of two prompts, of which one goes on as two rows, must be what it keeps of
    them in the plain way. A block above may read what one below has kept, and then it is not.
    """
    known = _EXPANDS.setdefault(lm, {})
    if layer not in known:
        with torch.inference_mode(), lm.unsteered():
            known[layer] = holds(partial(_expands, lm, states, layer))
    return known[layer]


def _expands(lm: LanguageModel, states: RowStates, layer: int) -> bool:
    ids = random_ids(lm, SHORT).tolist()
    padded = left_padded([ids, ids[: SHORT // 2]], lm)
    owner = torch.tensor([0, 1, 1], device=lm.device)
    with expanded_after(lm.blocks, layer, owner):
        parted = states.joined_below(prefill(lm, padded), layer + 1, owner)
    plain = states.packed([(prefill(lm, padded), owner)], padded.ids.shape[1], in_place=False)
    return all(
        agree(lm, held.of(one), held.of(other))
        for state, one, other in zip(states.layers, parted.layers, plain.layers, strict=True)
        for held in state.held
    )


def levels(lm: LanguageModel, longest: int) -> list[int]:
    """Return the numbers of tokens that trials cross for texts of up to `longest`."""
    return [SHORT, *(size for size in lm.windows if SHORT < size < longest)]


def agree(lm: LanguageModel, found: Tensor, expected: Tensor) -> bool:
    """Return whether two readings of the same texts are equal up to rounding."""
    return apart(found, expected) <= tolerance(lm)


def tolerance(lm: LanguageModel) -> float:
    """Return how far rounding may take the same text in two batches apart, relative to the norm.

    Quantised products may round in fewer bits than the stream has, and a row together with its neighbours: three times
    what neighbours do to a row, all of one length and in one pass, is allowed there, up to WIDEST.
    """
    if not lm.quantised_from:
        return TOLERANCE.get(lm.dtype, LOOSEST)
    if lm not in _NEIGHBOURS:
        ids = random_ids(lm, 4 * SHORT).view(4, -1)
        with torch.inference_mode(), lm.unsteered():
            together = logits(lm, Rows(ids, torch.ones_like(ids).bool()))
            alone = [logits(lm, Rows(row[None], torch.ones_like(row[None]).bool()))[0] for row in ids]
        _NEIGHBOURS[lm] = max(
            apart(*pair)
            for one, other in zip(together, alone, strict=True)
            for pair in zip(one, other, strict=True)
        )
    return min(max(LOOSEST, 3 * _NEIGHBOURS[lm]), WIDEST)


def apart(found: Tensor, expected: Tensor) -> float:
    """Return how far two readings are apart, relative to the norm of the second."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def holds(trial: Callable[[], bool]) -> bool:
    """Return what a trial says; False where the model cannot run it at all.

    Whatever a stranger's forward stumbles over is an answer; only want of memory is not.
    """
    try:
        return trial()
    except Exception as error:
        if isinstance(error, RuntimeError) and ran_out(error):
            raise
        return False


def _aligns(lm: LanguageModel, level: int) -> bool:
    ids = random_ids(lm, level + level // 2).tolist()
    # Both cross the level, so that padding may take part in what a token picks to see.
    texts = [ids, ids[: level + level // 4]]
    together = last_states(lm, texts, [lm.n_layers - 1])
    alone = [last_states(lm, [text], [lm.n_layers - 1]) for text in texts]
    return all(
        agree(lm, together[lm.n_layers - 1][i], one[lm.n_layers - 1][0]) for i, one in enumerate(alone)
    )


def _first(lm: LanguageModel) -> Shortcuts:
    def filled(rows: int, positions: int) -> Cache:
        return prefill(
            lm, Rows(ids := random_ids(lm, rows * positions).view(rows, -1), torch.ones_like(ids).bool())
        )

    try:
        states = RowStates(filled)
    except UnknownStateError as error:
        return Shortcuts(None, str(error))
    except Exception as error:  # as in `holds`
        if isinstance(error, RuntimeError) and ran_out(error):
            raise
        return Shortcuts(None, f"it takes no cache of transformers ({type(error).__name__})")
    return Shortcuts(states, pads=True, continues=states.only_keys_and_values)


def _narrowed(lm: LanguageModel, found: Shortcuts, level: int) -> Shortcuts:
    """`found` less what does not hold of texts that cross `level` tokens."""
    if found.states is None:
        return found
    trial = _Trial(lm, found.states, level)
    pads = found.pads and holds(lambda: trial.decodes(pads=True))
    if found.pads and not pads and holds(trial.follows_own_steps):
        pads = holds(lambda: trial.decodes(pads=True))
    if not pads and not holds(lambda: trial.decodes(pads=False)):
        return Shortcuts(
            None, f"rows that are taken apart do not go on as they should (texts of {level} tokens)"
        )
    return replace(
        found,
        pads=pads,
        continues=found.continues and pads and holds(trial.continues),
    )


class _Trial:
    """Five texts, each a head and what stands behind it, and their logits in the plain way.

    One head crosses the level within the tokens behind it, two of unequal length have crossed it, one is short, one is
    empty.
    """

    def __init__(self, lm: LanguageModel, states: RowStates, level: int) -> None:
        self._lm, self._states = lm, states
        self._heads = (level + level // 2, 3, level - 1, 0, level + level // 4)
        ids = random_ids(lm, sum(self._heads) + BEHIND * len(self._heads)).tolist()
        self._texts = [[ids.pop() for _ in range(head + BEHIND)] for head in self._heads]
        self._plain = [logits(lm, right_padded([text], lm))[0] for text in self._texts]

    def follows_own_steps(self) -> bool:
        """Hold what comes against the model's own cached steps, a text at a time; False where these lead elsewhere.

        A recurrent state may be computed otherwise step by step than over a whole text (sums in another order, a time
        step clamped), and then the steps are what the model's own `generate` writes.
        """
        stepped = [plain.clone() for plain in self._plain]
        for text, head, plain in zip(self._texts, self._heads, stepped, strict=True):
            cache = empty_cache(self._lm)
            if head:
                cache = prefill(self._lm, right_padded([text[:head]], self._lm))
            for place in range(head, len(text)):
                real = torch.ones(1, place + 1, dtype=torch.bool, device=self._lm.device)
                step = Rows(self._at([[text[place]]]), self._states.mask(real, 1), self._at([[place]]))
                own = logits(self._lm, step, 1, cache)[0, 0]
                if apart(own, plain[place]) > OWN_STEPS:
                    return False
                plain[place] = own
        self._plain = stepped
        return True

    def decodes(self, *, pads: bool) -> bool:
        """Whether rows give the plain logits that are gathered, refilled and gathered again between their steps.

        With `pads` all heads but one are run in one pass, else each by itself; an empty one then is not tried.
        """
        first = [0, 1, 3, 4] if pads else [0, 1, 4]
        late = [4, 2] if pads else [2]
        (refill,) = self._prefilled([late])
        place_of = {text: (0, i) if pads else (i, 0) for i, text in enumerate(first)}  # pass, and row in it
        sources = self._prefilled([first] if pads else [[text] for text in first])
        rows = [(text, 0) for text in reversed(first)]
        parts = [(sources[place_of[text][0]], self._at([place_of[text][1]])) for text, _ in rows]
        width = self._heads[0]
        cache = self._states.packed(parts, width)
        agreed = [self._step(cache, rows, width)]
        rows = [(text, steps + 1) for text, steps in rows]
        self._states.put(cache, self._at([rows.index((1, 1))]), refill, self._at([late.index(2)]))
        rows[rows.index((1, 1))] = (2, 0)
        for behind in (1, 2):
            agreed.append(self._step(cache, rows, width + behind))
            rows = [(text, steps + 1) for text, steps in rows]
        kept, again = (cache, self._at([rows.index((0, 3))])), sources[place_of[1][0]]
        cache = self._states.packed([kept, (again, self._at([place_of[1][1]]))], width + 3)
        return all([*agreed, self._step(cache, [(0, 3), (1, 0)], width + 3)])

    def continues(self) -> bool:
        """Whether all tokens behind three heads, run at once, give the plain logits."""
        (source,) = self._prefilled([[0, 1, 4]])
        cache = self._states.packed([(source, self._at([0, 1, 2]))], self._heads[0], in_place=False)
        return self._step(cache, [(0, 0), (1, 0), (4, 0)], self._heads[0], BEHIND)

    def _prefilled(self, passes: Sequence[Sequence[int]]) -> list[Cache]:
        heads = [[self._texts[text][: self._heads[text]] for text in some] for some in passes]
        return [prefilled(self._lm, self._states, some) for some in heads]

    def _step(self, cache: Cache, rows: Sequence[tuple[int, int]], width: int, tokens: int = 1) -> bool:
        """Run the next tokens of rows, given as text and number of tokens behind its head; whether all is as plain.

        The cache holds `width` positions, of which a row's own stand at the right end.
        """
        spans = [(text, self._heads[text] + steps) for text, steps in rows]
        past = self._at([start for _, start in spans])[:, None]
        ids = [self._texts[text][start : start + tokens] for text, start in spans]
        mask = torch.arange(width + tokens, device=past.device) >= width - past
        places = past + torch.arange(tokens, device=past.device)
        found = logits(self._lm, Rows(self._at(ids), self._states.mask(mask, tokens), places), tokens, cache)
        plain = [self._plain[text][start : start + tokens] for text, start in spans]
        return all(agree(self._lm, one, other) for one, other in zip(found, plain, strict=True))

    def _at(self, values: object) -> Tensor:
        return torch.tensor(values, device=self._lm.device)


def prefilled(lm: LanguageModel, states: RowStates, heads: Sequence[Sequence[int]]) -> Cache:
    """Run heads, aligned at their ends, and return what the model keeps of them; of an empty one that is nothing."""
    cache = prefill(lm, left_padded(heads, lm))
    if empty := [i for i, head in enumerate(heads) if not head]:
        states.forget(cache, torch.tensor(empty, device=lm.device))
    return cache


def random_ids(lm: LanguageModel, count: int) -> Tensor:
    """Return `count` token ids without special ones, the same at every call; few distinct ones, as in a text."""
    special = set(lm.tokenizer.all_special_ids)
    ordinary = torch.tensor([i for i in range(lm.n_tokens) if i not in special] or [0])
    chance = torch.Generator().manual_seed(0)
    few = ordinary[torch.randperm(len(ordinary), generator=chance)[:DISTINCT]]
    return few[torch.randint(len(few), (count,), generator=chance)].to(lm.device)
