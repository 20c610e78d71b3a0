"""Persistent tables and slot maps against the row-bound table of the other engines: the same edits, token by token."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from torch import Tensor, nn

from steerkit.core.errors import SteerkitError
from steerkit.engines.transformers.layout import completion_kinds, phases
from steerkit.engines.transformers.table import Program, RowTable
from steerkit.integrations.vllm.execution import _hook, find_blocks
from steerkit.integrations.vllm.payload import Payload, is_wire
from steerkit.integrations.vllm.rows import Rows
from steerkit.integrations.vllm.tables import Tables
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.tiny import random_vector

Cells = list[tuple[Steering, ...]]
DEPTH = 3


def tables_for(tiny: LanguageModel, cells: int = 32) -> Tables:
    return Tables(range(tiny.n_layers), tiny.d_model, 256, cells, DEPTH, torch.empty(0))


def markers(tiny: LanguageModel) -> tuple[list[int], list[int]]:
    opening, closing = map(tiny.renderer.encode, (tiny.markers.opening, tiny.markers.closing))
    return opening, closing


def rows_of(tiny: LanguageModel, tables: Tables) -> Rows:
    return Rows(tables, lambda: tiny.tokenizer)


def payload_of(tiny: LanguageModel, cell: tuple[Steering, ...], first: int | None = None) -> Payload | None:
    payload = Payload.of(cell, tiny.markers, first)
    if payload is None:
        return None
    wire = payload.to_wire()
    assert is_wire(wire)
    return Payload.from_wire(wire)


def edited(tables: Tables, states: Tensor) -> Tensor:
    """The streams `[layer, token, d_model]` after each layer's edit, split as vLLM splits hidden and residual."""
    out = []
    with tables.current():
        for layer, state in enumerate(states):
            hidden = torch.sin(state)
            residual = state - hidden
            torch.ops.steerkit.edit(hidden, residual, layer)
            out.append(hidden + residual)
    return torch.stack(out)


def expected(
    tiny: LanguageModel, cell: tuple[Steering, ...], ids: list[int], first: int, states: Tensor
) -> Tensor:
    """What the row-bound table makes of one row's states `[layer, position, d_model]`."""
    table = RowTable(tiny, [Program.of(cell)])
    text = torch.tensor([ids])
    where = text, torch.ones_like(text), torch.tensor([first])
    table.point(phases(*where, completion_kinds(tiny, *where)))
    out = states.clone()
    for index, (layer, _) in enumerate(table.places):
        out[layer] = table._edit(index, states[layer][None])[0]
    return out


def random_texts(tiny: LanguageModel, draw: random.Random, count: int) -> list[tuple[list[int], int]]:
    """Token ids and prompt lengths, markers strewn in."""
    opening, closing = markers(tiny)
    texts = []
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < draw.randint(6, 24):
            ids += draw.choice([opening, closing, *[(draw.randint(5, 200),)] * 4])
        texts.append((ids, draw.randint(1, len(ids) - 1)))
    return texts


@pytest.mark.parametrize("seed", range(6))
def test_any_schedule_gives_each_token_what_the_row_bound_table_gives(
    tiny: LanguageModel, cells: Cells, seed: int
) -> None:
    """Chunked prefill, continuous batching and preemption in random order; sampled tokens known to the device only."""
    draw = random.Random(seed)
    tables = tables_for(tiny)
    rows = rows_of(tiny, tables)
    texts = random_texts(tiny, draw, 12)
    programs = [draw.choice(cells) for _ in texts]
    states = [
        torch.randn(tiny.n_layers, len(ids), tiny.d_model, generator=torch.Generator().manual_seed(i))
        for i, (ids, _) in enumerate(texts)
    ]
    done = [torch.zeros_like(state) for state in states]
    reached = dict.fromkeys(range(len(texts)), -1)  # -1: not begun
    while unfinished := [i for i in reached if reached[i] < len(texts[i][0])]:
        batch = draw.sample(unfinished, min(len(unfinished), draw.randint(1, 5)))
        counts = []
        for i in batch:
            ids, prompt = texts[i]
            if reached[i] >= 0 and draw.random() < 0.1:  # preempted: everything known is computed again
                known = ids[: max(prompt, reached[i] + 1)]
                if (payload := rows.payload(str(i))) is not None:
                    rows.admit(str(i), payload, prompt, known)
                reached[i] = draw.randint(0, min(reached[i], prompt - 1))  # a cached prefix stays
                counts.append(draw.randint(1, len(known) - reached[i]))
                continue
            if reached[i] < 0:
                reached[i] = 0
                if (payload := payload_of(tiny, programs[i])) is not None:
                    rows.admit(str(i), payload, prompt, ids[:prompt])
            left = prompt - reached[i]
            counts.append(draw.randint(1, left) if left > 0 else 1)
        parts = [slice(reached[i], reached[i] + n) for i, n in zip(batch, counts, strict=True)]
        tokens = torch.tensor([t for i, part in zip(batch, parts, strict=True) for t in texts[i][0][part]])
        rows.place([str(i) for i in batch], [part.start for part in parts], counts, tokens)
        together = torch.cat([states[i][:, part] for i, part in zip(batch, parts, strict=True)], dim=1)
        padded = torch.nn.functional.pad(together, (0, 0, 0, draw.randint(0, 3)), value=1.0)
        result = edited(tables, padded)
        torch.testing.assert_close(result[:, sum(counts) :], padded[:, sum(counts) :])  # padding does nothing
        for i, part, piece in zip(
            batch,
            parts,
            result.split_with_sizes([*counts, padded.shape[1] - sum(counts)], dim=1),
            strict=False,
        ):
            done[i][:, part] = piece
            reached[i] = part.stop
            if reached[i] == len(texts[i][0]):
                rows.forget(str(i))
    for (ids, prompt), cell, state, got in zip(texts, programs, states, done, strict=True):
        torch.testing.assert_close(got, expected(tiny, cell, ids, prompt - 1, state), atol=2e-5, rtol=1e-5)
    assert tables._depth_of == {0: {}}
    assert all(not table.cells.any() for table in tables.layers.values())


def test_a_scored_text_is_a_completion_from_where_the_request_says(tiny: LanguageModel) -> None:
    tables = tables_for(tiny)
    rows = rows_of(tiny, tables)
    cell = (random_vector(tiny).at(2),)
    payload = payload_of(tiny, cell, first=4)
    assert payload is not None
    ids = list(range(10, 20))
    rows.admit("r", payload, len(ids), ids)
    rows.place(["r"], [0], [len(ids)], torch.tensor(ids))
    states = torch.randn(tiny.n_layers, len(ids), tiny.d_model)
    torch.testing.assert_close(
        edited(tables, states), expected(tiny, cell, ids, 3, states), atol=1e-5, rtol=1e-5
    )


def test_unsteered_tokens_keep_their_very_numbers(tiny: LanguageModel, cells: Cells) -> None:
    tables = tables_for(tiny)
    rows = rows_of(tiny, tables)
    for number, cell in enumerate(cells[1:]):
        payload = payload_of(tiny, cell)
        assert payload is not None
        rows.admit(str(number), payload, 3, [5, 6, 7])
    names = [*map(str, range(len(cells) - 1)), "plain"]
    rows.place(names, [0] * len(names), [3] * len(names), torch.tensor([5, 6, 7] * len(names)))
    for capturing in (False, True):
        hidden, residual = torch.randn(2, 3 * len(names), tiny.d_model).unbind(0)
        before = hidden.clone()
        with tables.current():
            for layer in range(tiny.n_layers):
                if capturing:  # what a captured graph runs: every stage, whatever is in use
                    table = tables.layers[layer]
                    table.stage, tables._live = table.whole, {layer: DEPTH}
                torch.ops.steerkit.edit(hidden, residual, layer)
        assert torch.equal(hidden[-3:], before[-3:])
        assert not torch.equal(hidden[:-3], before[:-3])


def test_what_a_graph_captures_does_the_same_as_what_runs_eagerly(tiny: LanguageModel, cells: Cells) -> None:
    eager, captured = tables_for(tiny), tables_for(tiny)
    states = torch.randn(tiny.n_layers, 4 * len(cells), tiny.d_model)
    for tables in (eager, captured):
        rows = rows_of(tiny, tables)
        for number, cell in enumerate(cells):
            if (payload := payload_of(tiny, cell)) is not None:
                rows.admit(str(number), payload, 2, [5, 6, 7, 8])
        names = list(map(str, range(len(cells))))
        rows.place(names, [0] * len(names), [4] * len(names), torch.tensor([5, 6, 7, 8] * len(names)))
    for layer, table in captured.layers.items():
        table.stage = table.whole
        captured._live[layer] = DEPTH
    torch.testing.assert_close(edited(captured, states), edited(eager, states), atol=1e-5, rtol=1e-5)


def test_slots_are_shared_freed_and_never_overbooked(tiny: LanguageModel) -> None:
    tables = tables_for(tiny, cells=2)
    vector = random_vector(tiny)
    one, two, three = (payload_of(tiny, (vector.at(1, s),)) for s in (1.0, 2.0, 3.0))
    assert one is not None
    assert two is not None
    assert three is not None
    allocated = [tables.allocate(one), tables.allocate(one), tables.allocate(two)]
    assert allocated[0].slots == allocated[1].slots != allocated[2].slots
    with pytest.raises(SteerkitError, match="no cell is free"):
        tables.allocate(three)
    tables.release(allocated[0])
    with pytest.raises(SteerkitError, match="no cell is free"):
        tables.allocate(three)
    tables.release(allocated[1])
    tables.release(allocated[2])
    again = tables.allocate(three)
    tables.fill(torch.full((5,), again.slots[2]), [again.slots[2]])
    states = torch.randn(tiny.n_layers, 5, tiny.d_model)
    torch.testing.assert_close(
        edited(tables, states)[1], states[1] + 3 * vector.direction[1], atol=1e-5, rtol=1e-5
    )


class Block(nn.Module):
    """A block as vLLM writes them: hidden state and residual apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Linear(width, width)

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        residual = hidden + residual
        return self.mlp(residual).tanh(), residual


class Stack(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, hidden: Tensor) -> Tensor:
        residual = torch.zeros_like(hidden)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        return hidden + residual


def test_hooks_work_inside_a_compiled_graph_whose_tables_change(tiny: LanguageModel) -> None:
    torch.manual_seed(0)
    model = Stack(tiny.d_model, tiny.n_layers)
    for layer, block in find_blocks(model, tiny.n_layers).items():
        block.register_forward_hook(functools.partial(_hook, layer))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    tables = tables_for(tiny)
    states = torch.randn(6, tiny.d_model)
    seen = []
    with torch.inference_mode(), tables.current():
        plain = compiled(states)
        torch.testing.assert_close(plain, model(states))
        for strength in (1.0, -2.0):
            payload = payload_of(tiny, (random_vector(tiny).at([1, 3], strength),))
            assert payload is not None
            allocation = tables.allocate(payload)
            tables.fill(torch.tensor([0, allocation.slots[2]] * 3), [0, allocation.slots[2]])
            seen.append(compiled(states))
            torch.testing.assert_close(seen[-1], model(states))
            tables.release(allocation)
        tables.clear()
        assert torch.equal(compiled(states), plain)
    for got in seen:
        assert torch.equal(got[::2], plain[::2])
        assert not torch.isclose(got[1::2], plain[1::2]).all(-1).any()


def test_blocks_that_cannot_be_told_for_sure_are_refused() -> None:
    twins = nn.ModuleDict({"encoder": Stack(4, 3), "decoder": Stack(4, 3)})
    with pytest.raises(SteerkitError, match="2 stacks of 3 blocks"):
        find_blocks(twins, 3)
    with pytest.raises(SteerkitError, match="0 stacks of 5 blocks"):
        find_blocks(Stack(4, 3), 5)
