from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerkit.core.errors import MisuseError
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.presets import presets
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.steering import Steering
from steerkit.runs.cells import Cell
from steerkit.sweeps.axes import AXES, parse_axis
from steerkit.sweeps.grid import Grid
from tests.sweeps.synthetic import vector

POLITE = PromptEdit(instruction="Be polite.", name="polite")
SHORT = PromptEdit(instruction="Be short.", name="short")


def probe(name: str = "p") -> Probe:
    metadata = ProbeMetadata(name=name, model="synthetic", fingerprint="synthetic:0", layer=3)
    return Probe(torch.ones(12, 4), torch.zeros(12), metadata)


def steerings(grid: Grid, role: str = "steered") -> list[Steering]:
    return [
        each
        for cell in grid.cells()
        if cell.role == role
        for each in cell.interventions
        if isinstance(each, Steering)
    ]


def without_direction(cell: Cell) -> list[object]:
    """What a cell does apart from the direction of its vector."""
    forms = [each.to_json() for each in cell.interventions]
    return [form | {"vector": None} if form["kind"] == "steering" else form for form in forms]


def test_the_grid_leads_with_the_unsteered_cell_and_pairs_each_cell_with_a_random_control():
    cells = Grid(vector(), [2, 4], [-1, 0, 2], {"scope": ["completion", "all"]}).cells()
    assert cells[0].role == "unsteered"
    assert [cell.role for cell in cells].count("unsteered") == 1
    steered = [without_direction(cell) for cell in cells if cell.role == "steered"]
    controlled = [without_direction(cell) for cell in cells if cell.role == "random"]
    assert len(steered) == 2 * 2 * 2
    assert steered == controlled
    assert {cell.controls for cell in cells if cell.role == "random"} == {"abstain"}


def test_every_field_of_a_steering_is_an_axis_and_all_are_crossed():
    axes = {
        "scope": ["completion", "answer"],
        "half_life": [None, 64],
        "positions": ["every", "lines"],
        "gate": [None, ProbeGate(probe())],
        "edit": [None, POLITE],
    }
    grid = Grid([vector(), vector("other", seed=2)], [2, 4], [1, 2], axes)
    made = {(*map(str, cell.interventions),) for cell in grid.cells() if cell.role == "steered"}
    assert len(made) == 2 * 2 * 2 * 2**5
    assert len(grid.cells()) == 2 * len(made) + 2  # a control for each, the unsteered cell, the edit alone


def test_no_field_of_a_steering_is_left_out_of_the_axes():
    assert set(AXES) == {
        "layer", "strength", "operation", "scope", "target", "half_life", "positions", "follows", "gate", "edit"
    }  # fmt: skip


def test_a_control_copies_gate_and_edits_and_changes_the_direction_alone():
    gate = ProbeGate(probe())
    grid = Grid(vector(), 3, 1.5, {"gate": gate, "edit": [(POLITE, SHORT)], "half_life": 8})
    steered, control = (next(c for c in grid.cells() if c.role == role) for role in ("steered", "random"))
    assert without_direction(steered) == without_direction(control)
    assert control.interventions[-1].gate == gate
    assert steered.interventions[:2] == control.interventions[:2] == (POLITE, SHORT)
    of_steered, of_control = steered.interventions[-1], control.interventions[-1]
    assert of_control == replace(of_steered, vector=of_steered.vector.random_control(0))
    assert of_control.vector.direction[3].norm() == pytest.approx(vector().direction[3].norm().item())


def test_an_edit_of_the_axis_stands_alone_too():
    cells = Grid(vector(), 3, 1, {"edit": [None, POLITE, (POLITE, SHORT)]}).cells()
    alone = [cell.interventions for cell in cells if cell.role == "edited"]
    assert alone == [(POLITE,), (POLITE, SHORT)]


def test_edits_alone_and_cells_beside_need_no_vector():
    assert [cell.role for cell in Grid(axes={"edit": [None, POLITE]}).cells()] == ["unsteered", "edited"]
    beside = Grid(cells_beside=["concise-system", vector().at(3), [POLITE, vector().at(3, 2.0)]])
    assert [cell.role for cell in beside.cells()] == ["unsteered", "edited", "steered", "steered"]


def test_a_text_means_what_the_command_line_means_by_it():
    listed = Grid(
        vector(),
        [4, 8],
        [-1.0, 0.5],
        {"half_life": [None, 64], "edit": [None, presets()["concise-system"]]},
    )
    written = Grid(vector(), "4:8:4", "-1,0.5", {"half_life": "none,64", "edit": "none,concise-system"})
    assert [cell.id for cell in listed.cells()] == [cell.id for cell in written.cells()]


def test_one_value_is_as_good_as_a_list_of_one():
    single = Grid(vector(), 3, 2, {"scope": "all", "operation": "ablate"})
    assert [cell.id for cell in single.cells()] == [
        cell.id for cell in Grid([vector()], [3], [2], {"scope": ["all"], "operation": ["ablate"]}).cells()
    ]


def test_a_vector_is_given_itself_or_by_its_file(tmp_path: Path):
    path = vector().save(tmp_path / "abstain.safetensors")
    grids = [Grid(given, 3, 1) for given in (vector(), path, str(path), [path], [vector()])]
    assert len({tuple(cell.id for cell in grid.cells()) for grid in grids}) == 1


def test_layers_in_a_tuple_are_steered_together():
    assert [s.layers for s in steerings(Grid(vector(), [(2, 4), 6], 1))] == [(2, 4), (6,)]
    assert [s.layers for s in steerings(Grid(vector(), "2+4,6", 1))] == [(2, 4), (6,)]


def test_without_layers_a_vectors_recommended_use_is_taken_and_the_axes_change_it():
    plain = vector()
    advised = plain.recommending(POLITE, plain.at(5, 1.5, half_life=64, scope="answer"))
    (steering,) = steerings(Grid(advised))
    assert (steering.layers, steering.strength, steering.half_life, steering.scope) == (
        (5,),
        1.5,
        64,
        "answer",
    )
    steered = next(cell for cell in Grid(advised).cells() if cell.role == "steered")
    assert steered.interventions[0] == POLITE
    crossed = steerings(Grid(advised, strengths=[1, 3], axes={"half_life": [None, 64]}))
    assert [(s.strength, s.half_life, s.layers) for s in crossed] == [
        (1, None, (5,)), (1, 64, (5,)), (3, None, (5,)), (3, 64, (5,))
    ]  # fmt: skip
    control = next(cell for cell in Grid(advised).cells() if cell.role == "random")
    assert control.interventions[0] == POLITE
    with pytest.raises(MisuseError, match="no recommended use: give layers"):
        Grid([advised, vector("other", seed=2)])


def test_controls_can_be_kept_to_some_strengths():
    assert [
        s.strength for s in steerings(Grid(vector(), 2, [-1, 1, 2], control_strengths=[2]), "random")
    ] == [2]
    assert not steerings(Grid(vector(), 2, [1, 2], control_strengths=()), "random")
    with pytest.raises(MisuseError, match=r"\[3\.0\]"):
        Grid(vector(), 2, 1, control_strengths="3")


def test_the_seed_draws_other_controls():
    assert len({steerings(Grid(vector(), 2, 1, seed=seed), "random")[0] for seed in range(3)}) == 3


def test_repeated_values_make_no_repeated_cells():
    cells = Grid(vector(), [2, 2], [1, 1.0, 0]).cells()
    assert len(cells) == len({cell.id for cell in cells}) == 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layers": []}, "axis layer has no values"),
        ({"axes": {"scope": ()}}, "axis scope has no values"),
        ({"axes": {"mood": ["good"]}}, "'mood' is no axis of a grid; there are layer, strength"),
        ({"axes": {"layers": [1]}}, "layer is given twice"),
        ({"layers": "3,99"}, "layer 99 is out of range"),
        ({"axes": {"scope": ["completion", "moon"]}}, "scope is one of completion"),
        ({"axes": {"operation": ["add", "swap"]}}, "swap"),
        ({"axes": {"half_life": "soon"}}, "half_life is a positive number of tokens, got 'soon'"),
        ({"axes": {"edit": "nonsense-edit"}}, "nonsense-edit"),
        ({"axes": {"gate": "nowhere.safetensors"}}, "nowhere.safetensors"),
        ({"vectors": ()}, "layer and strength say how a vector is applied"),
        ({"vectors": (), "layers": None, "strengths": None}, "needs a vector, an edit, or a cell beside it"),
    ],
)
def test_what_cannot_be_is_said_when_the_grid_is_made(asked, said):
    with pytest.raises(MisuseError, match=said):
        Grid(**{"vectors": vector(), "layers": [3], "strengths": [1]} | asked)


def test_a_combination_that_cannot_be_is_an_error_alone_and_left_out_with_a_warning_beside_others():
    with pytest.raises(MisuseError, match="half_life is about the completion"):
        Grid(vector(), 3, 1, {"scope": "prompt", "half_life": 64})
    with pytest.warns(UserWarning, match=r"2 combinations are left out of the grid: .*scope 'prompt'"):
        grid = Grid(vector(), 3, [1, 2], {"scope": ["completion", "prompt"], "half_life": [None, 64]})
    assert {(s.scope, s.half_life) for s in steerings(grid)} == {
        ("completion", None), ("completion", 64), ("prompt", None)
    }  # fmt: skip
    with pytest.warns(UserWarning, match="left out"):
        grid = Grid(vector(), 3, 1, {"operation": ["add", "clamp"], "target": [None, 5]})
    assert [(s.operation, s.target) for s in steerings(grid)] == [("add", None), ("clamp", 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Grid(vector(), 3, 1, {"scope": ["completion", "answer"], "half_life": [None, 64]})


def test_a_comma_begins_a_value_unless_it_goes_on_with_a_spec():
    assert parse_axis("edit", "none,concise-system,tip@alpha=3,beta=600") == (
        None, "concise-system", "tip@alpha=3,beta=600"
    )  # fmt: skip
    text = 'prompt@system="One, two=three",begin="a,b",dont-know-system'
    assert parse_axis("edit", text) == ('prompt@system="One, two=three",begin="a,b"', "dont-know-system")
    assert parse_axis("gate", "none, p.safetensors@threshold=0.5,gate_layer=2") == (
        None, "p.safetensors@threshold=0.5,gate_layer=2"
    )  # fmt: skip
    assert parse_axis("half_life", "none,8,16:32:16") == (None, 8.0, 16.0, 32.0)
    assert parse_axis("scope", "completion,all") == ("completion", "all")


def test_a_gate_is_written_as_a_probes_file_with_its_threshold(tmp_path: Path):
    path = probe().save(tmp_path / "p.safetensors")
    grid = Grid(vector(), 3, 1, {"gate": f"none,{path}@threshold=0.75"}, control_strengths=())
    plain, gated = steerings(grid)
    assert plain.gate is None
    assert gated == replace(plain, gate=ProbeGate(probe(), threshold=0.75))


def test_a_grid_says_its_size_in_a_line():
    assert repr(Grid(vector(), [2, 4], 1, {"edit": [None, POLITE]})) == (
        "Grid(1 vector × 2 layer × 1 strength × 2 edit: 10 cells)"
    )
