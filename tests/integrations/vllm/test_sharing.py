"""Which cached blocks are shared: those whose positions, and all before them, are steered alike."""

from __future__ import annotations

from typing import Any

from steerkit.integrations.vllm.payload import Payload
from steerkit.integrations.vllm.sharing import block_key
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.tiny import random_vector

BLOCK = 4


def keys(cell: tuple[Steering, ...], prompt: int, length: int = 16, first: int | None = None) -> list[Any]:
    payload = Payload.of(cell, ((3,), (4,)), first)
    if payload is None:
        return [None] * (length // BLOCK)
    wire = payload.to_wire()
    return [block_key(wire, prompt, end) for end in range(BLOCK, length + 1, BLOCK)]


def test_cells_that_leave_the_prompt_alone_share_it_with_everyone(tiny: LanguageModel) -> None:
    a, b = ((random_vector(tiny, seed).at(1),) for seed in (1, 2))
    assert keys(a, prompt=10)[:2] == keys(b, prompt=10)[:2] == keys((), prompt=10)[:2] == [None, None]


def test_from_the_last_prompt_token_on_nothing_is_shared_between_cells(tiny: LanguageModel) -> None:
    a, b = ((random_vector(tiny, seed).at(1),) for seed in (1, 2))
    for prompt in (9, 12):  # the last prompt token opens, or closes, the third block
        assert len({keys(cell, prompt)[2] for cell in (a, b, ())}) == 3
    assert keys(a, 8)[1] is not None
    assert keys(a, 9)[1] is None


def test_a_conversation_that_goes_on_does_not_meet_its_steered_past(tiny: LanguageModel) -> None:
    """What was steered as completion is prompt in the next turn, and unsteered there."""
    cell = (random_vector(tiny).at(1),)
    assert keys(cell, prompt=6)[1] != keys(cell, prompt=14)[1]
    assert keys(cell, prompt=6)[2] != keys(cell, prompt=7)[2]


def test_steered_prompts_are_shared_only_by_those_that_steer_them_alike(tiny: LanguageModel) -> None:
    v = random_vector(tiny)
    everywhere, prompt_only, plain = (v.at(1, scope="all"),), (v.at(1, scope="prompt"),), (v.at(1),)
    assert keys(everywhere, 10)[0] is not None
    assert keys(everywhere, 10)[0] != keys(plain, 10)[0]
    both = (v.at(1, scope="prompt"), v.at(2))
    assert keys(both, 10)[:2] == keys(prompt_only, 10)[:2] != keys(plain, 10)[:2]
    assert keys(both, 10)[2] != keys(prompt_only, 10)[2]


def test_a_scored_text_shares_by_where_its_completion_begins(tiny: LanguageModel) -> None:
    cell = (random_vector(tiny).at(1),)
    assert keys(cell, prompt=16, first=6) == keys(cell, prompt=6)
