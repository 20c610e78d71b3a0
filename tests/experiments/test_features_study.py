"""The study of features: what its tables say of a rank, whom chance draws, and its steering on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import steerkit as sk
from experiments.features import run
from steerkit.features.rank import Reasoning, Separating
from tests.features import planted
from tests.tiny import tiny_model


def ranked(*areas: tuple[float, float], active: float = 1.0) -> list[Separating]:
    """Features with these AUROCs, on the half that ranked and on the other."""
    return [
        Separating(i, auroc, held_out, 2.0, 1.0, active, 0.0) for i, (auroc, held_out) in enumerate(areas)
    ]


def test_what_a_rank_keeps_is_counted_on_the_side_that_it_was_ranked_for() -> None:
    assert run.kept_up(ranked((0.9, 0.7), (0.1, 0.4))) == pytest.approx((0.7 + 0.6) / 2)
    assert run.kept_up(ranked(*[(0.9, 0.5)] * 20)) == 0.5


def test_chance_draws_among_active_features_that_were_not_chosen() -> None:
    found = [*ranked(*([(0.6, 0.6)] * 9)), Separating(9, 0.5, 0.5, 0.0, 0.0, 0.0, 0.1)]
    drawn = run.chance_features(found, {0, 1})
    assert len(set(drawn)) == run.RANDOM
    assert set(drawn) <= set(range(2, 9))
    assert run.chance_features(found, {0, 1}) == drawn


def test_the_tables_show_the_first_features() -> None:
    lines = run.ranked(ranked(*[(0.9, 0.8)] * 30)).splitlines()
    assert len(lines) == run.SHOWN + 2
    assert lines[2] == "| 0 | 0.900 | 0.800 | 2.00 | 1.00 | 1.00 | 0.00 |"
    (line,) = run.reasoned([Reasoning(4, 0.25, 2.0, 1.0, 0.5)]).splitlines()[2:]
    assert line == "| 4 | 0.2500 | 2.00 | 1.00 | 0.50 |"


def test_each_direction_is_steered_by_at_the_strength_of_an_equal_kl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_model()
    sae = sk.load_autoencoder(planted.write(tmp_path / "sae", planted.tensors()))
    monkeypatch.setattr(run, "TOKENS", 4)
    study = run.Study(lm, sae, tmp_path, tmp_path / "runs", limit=4)
    vectors = {"one": run.feature(study, 1), "the other way": -run.feature(study, 1)}
    table = run.steered(study, vectors, "abstention", 4, "made", 0.3)
    known = json.loads((tmp_path / "runs" / "strengths-made.json").read_text())
    assert known.keys() == vectors.keys()
    assert table.count("\n") == 4  # two lines of heading, the unsteered model and both
    prompts = [item.prompt for item in study.items("abstention", "fit", run.KL_PROMPTS)]
    for label, vector in vectors.items():
        met = sk.calibrate(
            lm, vector.at(planted.LAYER), kl=0.3, prompts=prompts, tokens=64, largest=run.LARGEST
        )
        assert met.at(planted.LAYER).strength == pytest.approx(known[label], rel=1e-6)
    assert run.steered(study, vectors, "abstention", 4, "made", 0.3) == table
