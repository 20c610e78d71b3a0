from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from steerkit.analysis.run import Run, open_run
from steerkit.core.errors import SteerkitError
from steerkit.engines.base import GateReading
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.report.curves import actuator_plot, risk_coverage_plot
from steerkit.report.plots import heat_maps, trade_off, write_plots
from steerkit.runs.cells import Cell
from steerkit.scoring.abstention import QUESTION as ABSTENTION
from tests.report.conftest import CELLS
from tests.sweeps.synthetic import vector

PNG = b"\x89PNG\r\n\x1a\n"
OTHER = [Cell((vector("other", seed=2).at(8, strength),)) for strength in (-1.0, 1.0)]


def with_a_gate(cell, made):
    """A gate's reading on the steered records: higher, with noise, for what is unanswerable."""
    if cell.role != "steered":
        return made
    read = 0.6 * made.should_abstain + 0.4 * random.Random(made.item).random()
    return replace(made, gates=(GateReading(0, "g", read, read >= 0.5),))


def plots_of(run: Run, folder, subject="boats"):
    return write_plots(run.summary(), run.questions, folder, subject, run.risk_coverage())


@pytest.mark.parametrize(
    ("abstention", "names"),
    [
        (
            True,
            [
                "abstention-heatmap",
                "abstention-frontier",
                "length-heatmap",
                "length-frontier",
                "risk-coverage",
            ],
        ),
        (False, ["length-heatmap", "length-frontier"]),
    ],
)
def test_the_plots_fit_the_suite(make_run, tmp_path, abstention, names):
    paths = plots_of(open_run(make_run(abstention)), tmp_path / "plots")
    assert [path.stem for path in paths] == names
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_risk_and_coverage_are_drawn_with_the_gate_beside_random_order_and_oracle(make_run):
    run = open_run(make_run(change=with_a_gate))
    found = run.risk_coverage()
    axes = risk_coverage_plot(found, run.summary(), "boats").axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels[:3] == ["random direction", "abstain", "unsteered"]
    assert [label.split(":")[0] for label in labels[3:]] == [
        "refusing by gate (abstain)", "refusing at random", "refusing errors first"
    ]  # fmt: skip
    (curve,) = found.curves
    gate = next(line for line in axes.get_lines() if line.get_label().startswith("refusing by"))
    assert gate.get_ydata()[1:].tolist() == curve.risk.tolist()
    unsteered = next(point for point in found.points if point.role == "unsteered")
    assert (curve.coverage[-1], curve.risk[-1]) == (unsteered.coverage.value, unsteered.risk.value)


def test_each_actuator_has_its_line_in_both_panels(make_run):
    run = open_run(make_run(cells=[*CELLS, *OTHER]))
    figure = actuator_plot(run.summary(), run.questions, "boats")
    assert [axes.get_xlabel().split(" (")[0] for axes in figure.axes] == [
        "over-abstention",
        "mean tokens per completion",
    ]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.get_lines()] == ["abstain", "other"]


def test_a_dollar_in_a_name_or_a_prompt_is_drawn_as_it_stands(make_run):
    named = [vector(name, seed=seed) for seed, name in enumerate(("a$b_{$", r"$\boxed{}$"))]
    edits = (PromptEdit(system=r"Write $\boxed{}$ and a$b_{$."),)
    cells = [Cell(), *(Cell((each.at(layer, 1.0),)) for each in named for layer in (4, 8))]
    cells += [Cell((*edits, named[0].at(4, 1.0))), Cell(edits)]
    run = open_run(make_run(cells=cells, change=with_a_gate))
    drawn = plots_of(run, run.path / "plots", r"a$b_{$ and $\boxed{}$")
    assert {"actuators", "risk-coverage", "abstention-frontier", "abstention-heatmap"} <= {
        p.stem for p in drawn
    }


def test_titles_say_how_many_items_and_which_split(make_run):
    subject = "boats, n = 20 items, split choose"
    rows = open_run(make_run()).summary()
    assert subject in trade_off(rows, ABSTENTION, subject).axes[0].get_title()
    assert subject in heat_maps(rows, ("accuracy",), subject).get_suptitle()


def test_no_label_of_the_frontier_meets_another(make_run):
    figure = trade_off(open_run(make_run()).summary(), ABSTENTION, "boats")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_main_metrics_that_no_question_is_about_have_a_heat_map_of_their_own(make_run, tmp_path):
    run = open_run(make_run())
    assert [path.stem for path in write_plots(run.summary(), [], tmp_path, "boats")] == ["metrics-heatmap"]
    asked = write_plots(run.summary(), run.questions, tmp_path, "boats")
    assert "metrics-heatmap" not in [path.stem for path in asked]


def test_strength_zero_of_a_heat_map_is_the_unsteered_model(make_run):
    rows = open_run(make_run()).summary()
    panel = heat_maps(rows, ("accuracy",), "boats").axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["-1", "0", "1"]
    shown = panel.images[0].get_array()
    assert shown[:, 1].tolist() == [rows[0].levels["accuracy"].value] * 2


def test_an_unsteered_run_has_nothing_to_plot(make_run, tmp_path):
    run = open_run(make_run(abstention=False, cells=[Cell()]))
    assert plots_of(run, tmp_path / "plots") == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="cannot write a plot"):
        plots_of(open_run(make_run()), tmp_path / "file" / "plots")
