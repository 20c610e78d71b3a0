"""The row-bound table's arithmetic: operations, composition, gates, phases."""

from __future__ import annotations

import math

import pytest
import torch

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.transformers.layout import phases
from steerkit.engines.transformers.table import (
    ANSWER,
    LAST,
    NOWHERE,
    PROMPT,
    THINKING,
    Program,
    RowTable,
)
from steerkit.interventions.gate import PositionGate
from steerkit.models import LanguageModel
from tests.tiny import byte_tokenizer, random_vector, tiny_hf

LAYER = 2


def applied(lm: LanguageModel, h: torch.Tensor, *per_row: list, phase: int = ANSWER) -> torch.Tensor:
    """`h` `[row, position, d_model]` after block LAYER's hook, one list of steerings per row."""
    table = RowTable(lm, [Program.of(row) for row in per_row])
    table.point(torch.full(h.shape[:2], phase))
    with table.installed():
        hook = next(iter(lm.blocks[LAYER]._forward_hooks.values()), None)
        return h if hook is None else hook(lm.blocks[LAYER], (), h)


@pytest.fixture
def h(tiny: LanguageModel) -> torch.Tensor:
    return torch.randn(3, 5, tiny.d_model, generator=torch.Generator().manual_seed(7))


def test_each_operation_is_its_formula(tiny: LanguageModel, h: torch.Tensor) -> None:
    vector = random_vector(tiny)
    v = vector.direction[LAYER].double()
    unit, s, target = v / v.norm(), 0.7, 2.5
    p = (h.double() @ unit)[..., None]
    expected = {
        "add": h + s * v,
        "ablate": h - s * p * unit,
        "clamp": h + s * (target - p) * unit,
    }
    for operation, wanted in expected.items():
        steering = vector.at(LAYER, s, operation=operation, target=target if operation == "clamp" else None)
        torch.testing.assert_close(applied(tiny, h, [steering]).double(), wanted, rtol=1e-5, atol=1e-5)


def test_rotation_turns_by_the_fraction_of_the_angle_and_keeps_the_norm(
    tiny: LanguageModel, h: torch.Tensor
) -> None:
    vector = random_vector(tiny)
    unit = vector.direction[LAYER] / vector.direction[LAYER].norm()
    before = torch.acos((h @ unit) / h.norm(dim=-1))
    for fraction in (-0.5, 0.25, 1.0):
        turned = applied(tiny, h, [vector.at(LAYER, fraction, operation="rotate")])
        torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1), rtol=1e-5, atol=1e-5)
        after = torch.acos(((turned @ unit) / turned.norm(dim=-1)).clamp(-1, 1))
        torch.testing.assert_close(after, (before * (1 - fraction)).abs(), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("operation", ["add", "ablate", "clamp", "rotate"])
def test_strength_zero_is_the_identity_bit_for_bit(
    tiny: LanguageModel, h: torch.Tensor, operation: str
) -> None:
    target = 1.0 if operation == "clamp" else None
    vector = random_vector(tiny)
    idle, busy = (vector.at(LAYER, s, operation=operation, target=target) for s in (0.0, 1.0))
    assert torch.equal(applied(tiny, h, [idle]), h)
    mixed = applied(tiny, h, [idle], [busy], [])
    assert torch.equal(mixed[0], h[0])
    assert torch.equal(mixed[2], h[2])
    assert not torch.equal(mixed[1], h[1])


def test_steerings_on_one_layer_apply_in_the_listed_order(tiny: LanguageModel, h: torch.Tensor) -> None:
    a, b = random_vector(tiny, 1), random_vector(tiny, 2)
    add, ablate = a.at(LAYER, 2.0), b.at(LAYER, 1.0, operation="ablate")
    unit = b.direction[LAYER] / b.direction[LAYER].norm()
    pushed = h + 2 * a.direction[LAYER]
    torch.testing.assert_close(
        applied(tiny, h, [add, ablate]), pushed - (pushed @ unit)[..., None] * unit, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        applied(tiny, h, [ablate, add]),
        h - (h @ unit)[..., None] * unit + 2 * a.direction[LAYER],
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_row_gets_its_own_steering_only(tiny: LanguageModel, h: torch.Tensor) -> None:
    vector = random_vector(tiny)
    rows = [[vector.at(LAYER, 1.0)], [], [vector.at(LAYER, -2.0), vector.at(LAYER, 0.5, operation="rotate")]]
    together = applied(tiny, h, *rows)
    for i, row in enumerate(rows):
        torch.testing.assert_close(together[i : i + 1], applied(tiny, h[i : i + 1], row))


def test_a_threshold_gate_reads_each_position_before_the_edit(tiny: LanguageModel, h: torch.Tensor) -> None:
    vector, reader = random_vector(tiny, 1), random_vector(tiny, 2)
    unit = reader.direction[LAYER] / reader.direction[LAYER].norm()
    fires = (h @ unit) > 0.1
    assert fires.any()
    assert not fires.all()
    gated = applied(tiny, h, [vector.at(LAYER, 1.0, gate=PositionGate(reader, 0.1))])
    assert torch.equal(gated, torch.where(fires[..., None], h + vector.direction[LAYER], h))


@pytest.mark.parametrize(
    ("scope", "steered"),
    [
        ("completion", {THINKING, ANSWER}),
        ("prompt", {PROMPT}),
        ("all", {PROMPT, THINKING, ANSWER}),
        ("thinking", {THINKING}),
        ("answer", {ANSWER}),
    ],
)
def test_a_scope_steers_its_phases_and_never_padding(
    tiny: LanguageModel, h: torch.Tensor, scope: str, steered: set[int]
) -> None:
    steering = random_vector(tiny).at(LAYER, 1.0, scope=scope)
    for phase in (NOWHERE, PROMPT, THINKING, ANSWER):
        changed = not torch.equal(applied(tiny, h, [steering], phase=phase), h)
        assert changed == (phase in steered)


def test_rows_that_do_not_match_the_batch_are_an_error(tiny: LanguageModel) -> None:
    steering = random_vector(tiny).at(LAYER, 1.0)
    table = RowTable(tiny, [Program.of([steering]), Program.of([])])
    with pytest.raises(SteerkitError, match="given for 2 rows, but the batch has 3"):
        table.point(torch.full((3, 1), ANSWER))


def test_phases_of_a_padded_batch() -> None:
    ids = torch.tensor([[0, 0, 7, 7, 3, 8, 4, 9], [5, 5, 5, 5, 5, 6, 6, 6]])
    kinds = torch.tensor([[ANSWER] * 4 + [THINKING] * 2 + [ANSWER] * 2, [ANSWER] * 8])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    found = phases(ids, mask, torch.tensor([3, 4]), kinds)
    n, p, t, a = NOWHERE, PROMPT, THINKING, ANSWER
    last = a + LAST
    assert found.tolist() == [[n, n, p, last, t, t, a, a], [p, p, p, p, last, a, a, a]]


def test_a_zero_vector_steers_nothing_under_any_operation(tiny: LanguageModel, h: torch.Tensor) -> None:
    nothing = random_vector(tiny, size=0.0)
    for operation, target in (("add", None), ("ablate", None), ("clamp", 3.0), ("rotate", None)):
        assert torch.equal(applied(tiny, h, [nothing.at(LAYER, 1.0, operation=operation, target=target)]), h)
    assert math.isclose(float(nothing.direction.norm()), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rotation_is_defined_for_zero_and_parallel_states_in_every_format(dtype: torch.dtype) -> None:
    lm = LanguageModel(tiny_hf().to(dtype), byte_tokenizer(), "low")
    vector = random_vector(lm)
    v = vector.direction[LAYER]
    states = torch.stack([torch.zeros_like(v), v, -v])[None].to(dtype)
    turned = applied(lm, states, [vector.at(LAYER, 0.5, operation="rotate")])
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1), rtol=2e-2, atol=1e-6)


def test_a_strength_that_the_number_format_cannot_hold_is_refused() -> None:
    lm = LanguageModel(tiny_hf().half(), byte_tokenizer(), "half")
    for operation in ("add", "ablate", "rotate"):
        with pytest.raises(MisuseError, match="too large"):
            RowTable(lm, [Program.of([random_vector(lm).at(LAYER, 1e6, operation=operation)])])
