from __future__ import annotations

import itertools

import pytest

from steerkit.errors import SteerkitError
from steerkit.report.plots import heat_maps, trade_off, write_plots
from steerkit.report.questions import ABSTENTION
from steerkit.sweeps.store import RunDirectory
from steerkit.sweeps.summary import summarise

PNG = b"\x89PNG\r\n\x1a\n"


def rows_of(path):
    return summarise(RunDirectory(path).records(), resamples=100)


@pytest.mark.parametrize(("abstention", "names"), [(True, ["abstention", "length"]), (False, ["length"])])
def test_the_plots_fit_the_suite(make_run, tmp_path, abstention, names):
    paths = write_plots(
        rows_of(make_run(abstention)), tmp_path / "plots", "boats, n = 20 items, split choose"
    )
    assert [path.stem for path in paths] == [
        f"{name}-{kind}" for name in names for kind in ("heatmap", "frontier")
    ]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


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
