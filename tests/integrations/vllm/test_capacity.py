"""Cells are counted while requests live: no more than fit, and never less than are in use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.integrations.vllm.capacity import SWEEP_AT, Capacity, CellsExhaustedError


def wire(program: str, *cells: tuple[int, str]) -> dict:
    return {"key": program, "cells": [{"layer": layer, "key": key} for layer, key in cells]}


def test_ten_thousand_cells_fail_alone_and_room_comes_back() -> None:
    alive: set[str] = set()
    capacity = Capacity(8, alive.__contains__)
    refused = 0
    for number in range(10_000):
        name = f"r{number}"
        try:
            capacity.admit(name, wire(name, (3, name)))
            alive.add(name)
        except CellsExhaustedError:
            refused += 1
    assert (len(alive), refused) == (8, 9_992)
    capacity.admit("again", wire("r0", (3, "r0")))  # what is in the tables already takes no room
    alive.clear()
    capacity.admit("new", wire("new", (3, "new")))


def test_a_layer_is_full_though_the_programs_are_few() -> None:
    capacity = Capacity(2, lambda _name: True)
    capacity.admit("a", wire("a", (1, "x"), (1, "y")))
    with pytest.raises(CellsExhaustedError):
        capacity.admit("b", wire("b", (1, "z")))
    capacity.admit("c", wire("c", (2, "z")))
    capacity.forget("a")
    capacity.admit("b", wire("b", (1, "z")))


def test_ended_requests_are_forgotten_though_there_is_room() -> None:
    alive = ""
    capacity = Capacity(8, lambda name: name == alive)
    for number in range(50_000):
        alive = f"r{number}"
        capacity.admit(alive, wire("always the same", (3, "cell")))
    assert len(capacity._requests) <= 2 * SWEEP_AT


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.booleans())))
def test_never_more_distinct_programs_than_fit(steps: list[tuple[int, int, bool]]) -> None:
    alive: dict[str, str] = {}
    capacity = Capacity(3, alive.__contains__)
    for request, program, ends in steps:
        name = f"r{request}"
        if ends:
            alive.pop(name, None)
            continue
        others = {p for n, p in alive.items() if n != name}
        try:
            capacity.admit(name, wire(f"p{program}", (0, f"c{program}")))
            alive[name] = f"p{program}"
        except CellsExhaustedError:
            assert len(others | {alive.get(name)}) >= 3
        assert len(set(alive.values())) <= 3


def reads(*readers: tuple[int | None, str]) -> dict:
    return {"readers": [{"layer": layer, "key": key} for layer, key in readers]}


def test_readers_have_room_of_their_own_and_those_of_logits_take_none() -> None:
    alive = {"a", "b"}
    capacity = Capacity(1, alive.__contains__, 2)
    capacity.admit("a", wire("a", (1, "x")), reads((1, "v"), (1, "w"), (None, "entropy")))
    capacity.admit("b", None, reads((1, "v"), (2, "v"), *((None, str(i)) for i in range(9))))
    with pytest.raises(
        CellsExhaustedError, match=r"room for 2 readers on a layer: .* larger STEERKIT_READERS"
    ):
        capacity.admit("c", None, reads((1, "u")))
    alive.remove("a")
    capacity.admit("c", None, reads((1, "u")))
    with pytest.raises(CellsExhaustedError, match="room for 0 readers"):
        Capacity(1, alive.__contains__).admit("a", None, reads((1, "v")))
