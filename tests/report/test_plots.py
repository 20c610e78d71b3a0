from __future__ import annotations

import itertools
import random

import pytest

from steerkit.analysis.risk_coverage import SCORE, risk_coverage
from steerkit.analysis.summary import summarise
from steerkit.core.errors import SteerkitError
from steerkit.report.curves import actuator_plot, risk_coverage_plot
from steerkit.report.plots import heat_maps, trade_off, write_plots
from steerkit.runs.directory import RunDirectory
from steerkit.scoring.abstention import QUESTION as ABSTENTION

PNG = b"\x89PNG\r\n\x1a\n"


def with_a_gate(record):
    """A gate's probability on the steered records: higher, with noise, for what is unanswerable."""
    if record["role"] == "steered":
        noise = random.Random(record["item"]).random()
        record["scores"][SCORE] = 0.6 * record["should_abstain"] + 0.4 * noise


def rows_of(path):
    return summarise(RunDirectory(path).records(), resamples=100)


@pytest.mark.parametrize(
    ("abstention", "names"),
    [
        (
            True,
            ["abstention-heatmap", "abstention-frontier", "length-heatmap", "length-frontier", "actuators"],
        ),
        (False, ["length-heatmap", "length-frontier"]),
    ],
)
def test_the_plots_fit_the_suite(make_run, tmp_path, abstention, names):
    paths = write_plots(
        rows_of(make_run(abstention)), tmp_path / "plots", "boats, n = 20 items, split choose"
    )
    assert [path.stem for path in paths] == names
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_risk_and_coverage_are_drawn_with_the_gate_beside_random_order_and_oracle(make_run):
    run = make_run(change=with_a_gate)
    found = risk_coverage(RunDirectory(run).records(), resamples=50)
    axes = risk_coverage_plot(found, rows_of(run), "boats").axes[0]
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
    def of_two(record):
        if record["layer"] == 8:
            record["vector"] = record["vector"].replace("abstain", "other")
            record["controls"] = record["controls"] and "other"

    figure = actuator_plot(rows_of(make_run(change=of_two)), "boats")
    assert [axes.get_xlabel().split(" (")[0] for axes in figure.axes] == [
        "over-abstention",
        "abstention recall",
    ]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.get_lines()] == ["abstain", "other"]


def test_titles_say_how_many_items_and_which_split(make_run):
    subject = "boats, n = 20 items, split choose"
    rows = rows_of(make_run())
    assert subject in trade_off(rows, ABSTENTION, subject).axes[0].get_title()
    assert subject in heat_maps(rows, ("accuracy",), subject).get_suptitle()


def test_no_label_of_the_frontier_meets_another(make_run):
    figure = trade_off(rows_of(make_run()), ABSTENTION, "boats")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_strength_zero_of_a_heat_map_is_the_unsteered_model(make_run):
    rows = rows_of(make_run())
    panel = heat_maps(rows, ("accuracy",), "boats").axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["-1", "0", "1"]
    shown = panel.images[0].get_array()
    assert shown[:, 1].tolist() == [rows[0].levels["accuracy"].value] * 2


def test_an_unsteered_run_has_nothing_to_plot(make_run, tmp_path):
    assert write_plots(rows_of(make_run(places=[(None, None, 0.0)])), tmp_path / "plots", "boats") == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="cannot write a plot"):
        write_plots(rows_of(make_run()), tmp_path / "file" / "plots", "boats")
