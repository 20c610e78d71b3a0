"""What steerkit does on one model, each verb held against an independent slow reference; one cell a claim.

A cell is `ok`; `refused`, in the words of the refusal; `own`, where by hand too the model does not keep what the claim
rests on (its own cache, its own left padding), so there is nothing to be equal to; `wrong` or `crash`. Where nothing
moved under a steering, that is wrong too: it would prove nothing.
"""

from __future__ import annotations

import functools
import itertools
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from steerkit.checks import reference
from steerkit.checks.reference import Edit, Verdict
from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.context import steer
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import ContrastPair, ContrastPairs
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel

Mark = Literal["ok", "refused", "own", "wrong", "crash"]
COLUMNS = ("load", "extract", "steer", "cache", "batch", "packed", "score")

STATES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}  # of a direction, relative to it
LOGITS = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.5}  # two that are as near are tied
NATS = {
    torch.float32: 1e-3,
    torch.float16: 0.1,
    torch.bfloat16: 1.0,
}  # of a token's log-probability, at the worst token
BATCH, NEW_TOKENS = 6, 10
WIDEST_WINDOW = 1024  # tokens; a longer window is not crossed

TEXT = (
    "In the valley the weather turned before noon, and by the evening the clouds that had come in from the west hung "
    "low over the bridge, the mill and the nine houses behind it; nobody could say when the river had been so high."
)


@dataclass(frozen=True)
class Cell:
    """What was found of one claim."""

    mark: Mark
    detail: str = ""
    rows: int = 0
    tied: int = 0

    def __str__(self) -> str:
        tied = f" ({self.tied} of {self.rows} tied)" if self.tied else ""
        return f"{self.mark}{tied}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Report:
    """The cells of one model by column, how the engine packs it and how long all of it took, in seconds."""

    name: str
    cells: Mapping[str, Cell]
    packing: str = ""
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong or crashes; a refusal is no fault."""
        return all(cell.mark not in ("wrong", "crash") for cell in self.cells.values())


def check_model(name: str, load: Callable[[], LanguageModel]) -> Iterator[tuple[str, Cell] | Report]:
    """Check one model; each cell is yielded with its column as it is found, the report at the end."""
    began = time.perf_counter()
    cells: dict[str, Cell] = {}
    holder: list[_Subject] = []

    def loaded() -> Cell:
        holder.append(_Subject(load()))
        return holder[0].load()

    for column in COLUMNS:
        if column != "load" and not holder:
            break
        cells[column] = _guarded(loaded if column == "load" else getattr(holder[0], column))
        yield column, cells[column]
    packing = holder[0].packing if holder else ""
    yield Report(name, cells, packing, time.perf_counter() - began)


def _guarded(check: Callable[[], Cell]) -> Cell:
    try:
        return check()
    except SteerkitError as error:
        return Cell("refused", " ".join(str(error).split()))
    except Exception as error:  # whatever else ends a check is what the table is there to show
        frames = traceback.extract_tb(error.__traceback__)
        where = next((f for f in reversed(frames) if "steerkit" in f.filename), frames[-1])
        said = (str(error).strip() or "no message").splitlines()[0]
        return Cell(
            "crash",
            f"{type(error).__name__}: {said[:200]} (at {where.filename.rsplit('/', 1)[-1]}:{where.lineno})",
        )


class _Subject:
    """One loaded model with the prompts and the steerings that it is tried with; a method a column."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.hf, self.blocks = lm.hf, lm.blocks
        self.stops = lm.stop_ids
        self.dtype = lm.dtype
        self.prompts = _prompts(lm)
        self.ids = [lm.renderer.encode_prompt(prompt) for prompt in self.prompts]
        self.packing = ""

    @functools.cached_property
    def _vectors(self) -> list[SteeringVector]:
        """Two random vectors, at every layer as long as the stream there is on average."""
        lm = self.lm
        norms = reference.states(self.hf, self.blocks, self.ids[-1]).norm(dim=-1)[:, 1:].mean(dim=1)
        metadata = VectorMetadata(
            name="random",
            model=lm.name,
            fingerprint=lm.fingerprint,
            method="random",
            aggregation="last",
            scaling="norm",
        )
        found = []
        for seed in (1, 2):
            noise = torch.randn(lm.n_layers, lm.d_model, generator=torch.Generator().manual_seed(seed))
            direction = noise / noise.norm(dim=-1, keepdim=True) * norms[:, None].cpu()
            found.append(SteeringVector(direction, metadata))
        return found

    @functools.cached_property
    def _cells(self) -> list[tuple[tuple[Steering, ...], tuple[Edit, ...]]]:
        """Compositions as steerkit takes them, each beside the same as edits of the reference."""
        v, w = self._vectors
        early, late = self.lm.n_layers // 3, 2 * self.lm.n_layers // 3
        compositions: list[list[tuple[SteeringVector, int, float, reference.Scope]]] = [
            [],
            [(v, early, 0.8, "completion")],
            [(v, early, -0.6, "completion"), (w, late, 0.6, "completion")],
            [(w, early, 0.7, "all")],
            [(v, early, 0.9, "all")],  # two at one block, whose rows share the blocks below it
            [(v, 0, 1.2, "prompt")],  # the last layers may have no keys and values of their own
        ]
        return [
            (
                tuple(vector.at(layer, size, scope=scope) for vector, layer, size, scope in cell),
                tuple(
                    Edit(layer, size * vector.direction[layer], scope) for vector, layer, size, scope in cell
                ),
            )
            for cell in compositions
        ]

    # The claims.

    def load(self) -> Cell:
        """The blocks' outputs are transformers' own hidden states, all but the last, which those give normed."""
        ids = self.ids[-1]
        given = reference.hidden_states(self.hf, ids)
        found = reference.states(self.hf, self.blocks, ids)
        if given is None or len(given) != len(found) + 1 or given[0].shape != found[0].shape:
            return Cell("ok", "no hidden states to compare")
        # Most give what goes into the first block as well, a few begin behind it.
        apart = min(max(map(_apart, found[:-1], given[first:]), default=0.0) for first in (1, 0))
        if not apart <= STATES.get(self.dtype, 5e-2):
            return Cell("wrong", f"block outputs are not transformers' hidden states: off by {apart:.1e}")
        return Cell("ok")

    def extract(self) -> Cell:
        """The mean difference of pairs, at every layer, is that of texts read one by one."""
        pairs = _pairs(self.prompts)
        vector = extract(self.lm, pairs)
        sides: dict[bool, list[Tensor]] = {True: [], False: []}
        for example in pairs.examples:
            text = example.encoded(self.lm.renderer)
            read = reference.states(self.hf, self.blocks, text.ids)
            sides[example.positive].append(read[:, text.prompt_length :].mean(dim=1))
        expected = torch.stack(sides[True]).mean(dim=0) - torch.stack(sides[False]).mean(dim=0)
        apart = [_apart(a, b) for a, b in zip(vector.direction, expected.cpu(), strict=True)]
        worst = max(range(len(apart)), key=apart.__getitem__)
        if not apart[worst] <= STATES.get(self.dtype, 5e-2):
            return Cell("wrong", f"direction off by {apart[worst]:.1e} of its length at layer {worst}")
        return Cell("ok")

    def steer(self) -> Cell:
        """`sk.steer` around the model's own `generate`, a left-padded batch, writes what a hook by hand does."""
        plain = self._generate()
        rows = tied = 0
        for steerings, edits in self._cells[1:]:
            with steer(self.lm, *steerings):
                found = self._generate()
            expected = self._generate(edits)
            if expected == plain:
                return Cell("wrong", f"{_named(steerings)} moves no row, which proves nothing")
            for ids, one, other in zip(self.ids, found, expected, strict=True):
                rows += 1
                if one == other:
                    continue
                if not self._tied(one, other, ids, edits):
                    return self._unless_batch(f"{_named(steerings)}: {one} instead of {other}", edits)
                tied += 1
        return Cell("ok", rows=rows, tied=tied)

    def cache(self) -> Cell:
        """`sk.steer` around `generate` writes the same with and without a cache."""
        rows = tied = 0
        for (steerings, edits), use_cache in itertools.product(self._cells[1:3], (True, False)):
            for ids in self.ids[1:3]:
                with steer(self.lm, *steerings):
                    [found] = self._generate(prompts=[ids], use_cache=use_cache)
                verdict = self._judge(ids, found, edits)
                rows, tied = rows + 1, tied + bool(verdict.tied)
                if verdict.wrong is not None:
                    with_cache = "with" if use_cache else "without"
                    detail = f"{_named(steerings)} {with_cache} a cache: token {verdict.wrong} of {found}"
                    return self._unless_cache(detail, edits, ids)
        return Cell("ok", rows=rows, tied=tied)

    def batch(self) -> Cell:
        """`sk.steer` around `generate` writes for a left-padded row what it writes for that row alone."""
        rows = tied = 0
        for steerings, edits in self._cells[1:3]:
            with steer(self.lm, *steerings):
                found = self._generate()
            for ids, row in zip(self.ids, found, strict=True):
                verdict = self._judge(ids, row, edits)
                rows, tied = rows + 1, tied + bool(verdict.tied)
                if verdict.wrong is not None:
                    return self._unless_batch(f"{_named(steerings)}: token {verdict.wrong} of {row}", edits)
        return Cell("ok", rows=rows, tied=tied)

    def packed(self) -> Cell:
        """The engine writes for each of many shuffled requests what one at a time without a cache gives."""
        cells = self._cells
        asked: dict[object, tuple[int, int]] = dict(
            enumerate(itertools.product(range(len(self.prompts)), range(len(cells))))
        )
        requests = [
            Request(
                self.prompts[i], cells[j][0], Decoding(max_new_tokens=2 + 5 * (i + 2 * j) % 11), key=number
            )
            for number, (i, j) in asked.items()
        ]
        random.Random(0).shuffle(requests)
        engine = TransformersEngine(self.lm, BATCH)
        self.packing = getattr(engine, "packing", "packed")
        found: list[Completion] = []
        with _short_of_memory(self.lm) as run_out:
            for completion in engine.generate(requests):
                found.append(completion)
                if len(found) == 1:
                    run_out()
        if {c.request.key for c in found} != asked.keys() or len(found) != len(asked):
            return Cell("wrong", f"{len(found)} completions for {len(asked)} requests")
        tied = 0
        for completion in found:
            i, j = asked[completion.request.key]
            steerings, edits = cells[j]
            limit = completion.request.decoding.max_new_tokens
            verdict = self._judge(self.ids[i], completion.token_ids, edits, limit)
            tied += bool(verdict.tied)
            if verdict.wrong is not None:
                row = f"{_named(steerings)}, prompt of {len(self.ids[i])}"
                detail = f"{row}: token {verdict.wrong} of {list(completion.token_ids)}"
                cell = self._unless_cache(detail, edits, self.ids[i])
                return cell if cell.mark == "own" else self._unless_batch(detail, edits)
        if len({c.token_ids for c in found}) < len(found) // 3:
            return Cell("wrong", "the completions hardly differ, which proves nothing")
        return Cell("ok", rows=len(found), tied=tied)

    def score(self) -> Cell:
        """The engine's log-probabilities of given continuations are those of texts scored one by one."""
        asked = [
            (ScoreRequest(prompt, TEXT[7 * i : 9 + 11 * i], steerings), edits)
            for (i, prompt), (steerings, edits) in itertools.product(enumerate(self.prompts), self._cells[:4])
        ]
        scores = TransformersEngine(self.lm, BATCH).score([request for request, _ in asked])
        worst = 0.0
        for (request, edits), score in zip(asked, scores, strict=True):
            text = self.lm.renderer.encode_pair(request.prompt, request.continuation)
            found = reference.logits(self.hf, self.blocks, text.ids, edits, text.prompt_length).log_softmax(
                -1
            )
            taken = torch.tensor(text.ids[text.prompt_length :], device=found.device)
            expected = found[text.prompt_length - 1 : -1].gather(1, taken[:, None])[:, 0]
            apart = (torch.tensor(score.log_probabilities) - expected.cpu()).abs().max()
            worst = max(worst, float(apart)) if apart.isfinite() else float("inf")
        if worst > NATS.get(self.dtype, 1.0):
            return Cell("wrong", f"log-probabilities off by {worst:.1e} nats")
        return Cell("ok")

    # The reference, and whether the model itself keeps what a claim rests on.

    def _generate(
        self,
        edits: Sequence[Edit] = (),
        prompts: Sequence[Sequence[int]] | None = None,
        *,
        use_cache: bool = True,
    ) -> list[list[int]]:
        return reference.generate(
            self.hf,
            self.ids if prompts is None else prompts,
            NEW_TOKENS,
            self.stops,
            pad=self.lm.pad_id,
            use_cache=use_cache,
            blocks=self.blocks,
            edits=edits,
        )

    def _judge(
        self, ids: Sequence[int], tokens: Sequence[int], edits: Sequence[Edit], limit: int = NEW_TOKENS
    ) -> Verdict:
        found = reference.logits(self.hf, self.blocks, [*ids, *tokens], edits, len(ids))
        return reference.judge(found, tokens, len(ids), self.stops, limit, LOGITS.get(self.dtype, 0.5))

    def _tied(
        self, one: Sequence[int], other: Sequence[int], ids: Sequence[int], edits: Sequence[Edit]
    ) -> bool:
        """Whether two rows part where their two tokens have logits that are as good as equal."""
        place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if place is None:
            return False
        row = reference.logits(self.hf, self.blocks, [*ids, *one[:place]], edits, len(ids))[-1]
        return float((row[one[place]] - row[other[place]]).abs()) <= LOGITS.get(self.dtype, 0.5)

    def _unless_batch(self, detail: str, edits: Sequence[Edit]) -> Cell:
        """Wrong, unless hooks by hand show that the model itself does not keep a left-padded row as it is alone."""
        for ids, row in zip(self.ids, self._generate(edits), strict=True):
            if self._judge(ids, row, edits).wrong is not None:
                return Cell("own", "by hand too, a row of a left-padded batch is not what it is alone")
        return Cell("wrong", detail)

    def _unless_cache(self, detail: str, edits: Sequence[Edit], ids: Sequence[int]) -> Cell:
        """Wrong, unless hooks by hand show that the model's own decoding is not what its plain pass says."""
        for use_cache in (True, False):
            [row] = self._generate(edits, [ids], use_cache=use_cache)
            if self._judge(ids, row, edits).wrong is not None:
                way = "with" if use_cache else "without"
                return Cell(
                    "own", f"by hand too, decoding {way} a cache is not what one pass over the text says"
                )
        return Cell("wrong", detail)


@contextmanager
def _short_of_memory(lm: LanguageModel) -> Iterator[Callable[[], None]]:
    """Yield a function after which the model runs out of memory once, in its next pass of several rows."""
    waiting: list[bool] = []

    def before(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        if waiting and ids is not None and len(ids) > 1:
            waiting.clear()
            raise torch.OutOfMemoryError("out of memory, by the check")

    handle = lm.decoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield lambda: waiting.append(True)
    finally:
        handle.remove()


def _prompts(lm: LanguageModel) -> list[str]:
    """Prompts of different lengths, some with a common beginning; one crosses the model's smallest window."""
    prompts = [TEXT[start : start + length] for start, length in ((0, 2), (3, 13), (3, 27), (20, 38), (0, 7))]
    if crossing := _smallest_window(lm):
        text = TEXT
        while len(lm.renderer.encode_prompt(text)) < crossing + NEW_TOKENS:
            text += " " + TEXT
        if len(lm.renderer.encode_prompt(TEXT)) < crossing:
            prompts[3] = text
    return prompts


def _smallest_window(lm: LanguageModel) -> int | None:
    """The smallest window, chunk or the like that the config names, unless it is too wide to be crossed."""
    widest = min(WIDEST_WINDOW, lm.context_length // 2)
    return min((size for size in lm.windows if size <= widest), default=None)


def _pairs(prompts: Sequence[str]) -> ContrastPairs:
    """Six pairs, their prompts and completions of different lengths."""
    chosen = [*prompts, TEXT[30:77]]
    return ContrastPairs(
        "check",
        tuple(
            ContrastPair(
                f"p{i}", prompt, TEXT[5 * i : 5 * i + 9 + 6 * i], TEXT[90 - 4 * i : 120 - 9 * (i % 3)]
            )
            for i, prompt in enumerate(chosen)
        ),
    )


def _apart(found: Tensor, expected: Tensor) -> float:
    """How far two tensors are apart, relative to the second."""
    return float((found - expected).norm() / expected.norm())


def _named(steerings: Sequence[Steering]) -> str:
    return " + ".join(f"layer {s.layers[0]}, {s.scope}" for s in steerings) or "unsteered"
