from __future__ import annotations

import pytest

from steerkit.core.errors import MisuseError
from steerkit.sweeps.grid import Cell, build_grid, vector_digests
from tests.sweeps.synthetic import vector


def test_the_grid_leads_with_the_unsteered_cell_and_pairs_each_cell_with_a_random_control():
    cells = build_grid([vector()], layers=[2, 4], strengths=[-1, 0, 2], scopes=["completion", "all"])
    assert cells[0].role == "unsteered"
    assert [cell.role for cell in cells].count("unsteered") == 1
    steered = {(c.fields()["vector"], *_place(c)) for c in cells if c.role == "steered"}
    controlled = {(c.controls, *_place(c)) for c in cells if c.role == "random"}
    assert len(steered) == 2 * 2 * 2
    assert steered == controlled


def test_a_control_has_the_norm_of_the_vector_that_it_controls():
    for cell in build_grid([vector()], [3], [1.0]):
        for steering in cell.steerings:
            assert steering.vector.direction[3].norm() == pytest.approx(vector().direction[3].norm().item())


def test_controls_can_be_kept_to_some_strengths():
    cells = build_grid([vector()], [2], [-1, 1, 2], control_strengths=[2])
    assert [cell.fields()["strength"] for cell in cells if cell.role == "random"] == [2.0]
    with pytest.raises(MisuseError, match=r"\[3\]"):
        build_grid([vector()], [2], [1], control_strengths=[3])


def test_strength_zero_is_the_unsteered_cell_whatever_surrounds_it():
    zero = Cell((vector().at(3, 0.0), vector("other", seed=2).at(1, -0.0, scope="all")))
    assert zero.id == Cell().id
    assert zero.fields() == Cell().fields()
    assert Cell((vector().at(3, 0.0),), controls="abstain").fields() == Cell().fields()


def test_an_id_is_the_digest_of_what_the_cell_does():
    cell = Cell((vector().at(3, 1.0),))
    assert cell.id == Cell((vector().at(3, 1.0),)).id
    others = [
        vector().at(3, 1.5),
        vector().at(4, 1.0),
        vector().at(3, 1.0, scope="all"),
        vector().at(3, 1.0, operation="ablate"),
        vector(seed=2).at(3, 1.0),
    ]
    assert len({cell.id, *(Cell((other,)).id for other in others)}) == 6


def test_the_order_of_a_composition_is_part_of_the_cell():
    a, b = vector().at(3), vector("b", seed=2).at(3)
    assert Cell((a, b)).id != Cell((b, a)).id


def test_fields_are_null_where_a_composition_makes_them_meaningless():
    fields = Cell((vector().at(3), vector("b", seed=2).at(5))).fields()
    emptied = ("vector", "layer", "strength", "scope", "operation", "half_life", "positions")
    assert [fields[name] for name in emptied] == [None] * len(emptied)
    assert " ; " in fields["steering"]
    several_layers = Cell((vector().at([3, 5], 2.0),)).fields()
    assert (several_layers["vector"], several_layers["layer"], several_layers["strength"]) == (
        "abstain",
        None,
        2.0,
    )


def test_fields_say_when_a_steering_acts():
    fading = Cell((vector().at(3, half_life=64, positions="boundaries"),)).fields()
    assert (fading["half_life"], fading["positions"]) == (64.0, "boundaries")
    plain = Cell((vector().at(3),)).fields()
    assert (plain["half_life"], plain["positions"]) == (None, "every")


def test_repeated_axis_values_make_no_repeated_cells():
    cells = build_grid([vector()], [2, 2], [1, 1.0, 0])
    assert len(cells) == len({cell.id for cell in cells}) == 3


def test_an_empty_axis_and_equal_names_are_refused():
    with pytest.raises(MisuseError, match="layers"):
        build_grid([vector()], [], [1])
    with pytest.raises(MisuseError, match="different names"):
        build_grid([vector(seed=1), vector(seed=2)], [1], [1])


def test_vector_digests_name_every_direction_that_is_applied():
    assert set(vector_digests(build_grid([vector()], [2], [1]))) == {"abstain", "random(abstain)"}


def _place(cell: Cell) -> tuple[object, ...]:
    fields = cell.fields()
    return fields["layer"], fields["strength"], fields["scope"]
