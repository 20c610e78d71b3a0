"""The abstention study: its areas against independent sums, its cells, and the whole of it on a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steerkit as sk
from experiments.abstention_tradeoff import cells, equal_kl, longer, publish, run
from experiments.abstention_tradeoff.cells import controls, matched_strength
from experiments.abstention_tradeoff.frontiers import Behaviour, aurc, frontier_area, frontiers, recall_at
from experiments.abstention_tradeoff.tables import shown
from steerkit.analysis.risk_coverage import risk_coverage_curve
from steerkit.core.bootstrap import resampling_weights
from steerkit.engines.base import Completion, GateReading, Request
from steerkit.interventions.probe import ProbeMetadata
from steerkit.interventions.store import recommended_use
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.sweeps.runner import make_record
from tests.conftest import save_model
from tests.tiny import random_vector, tiny_model

rates = st.integers(0, 20).map(lambda n: n / 20)
points = st.lists(st.tuples(rates, rates), min_size=1, max_size=8)


def test_the_area_is_half_for_chance_and_one_for_perfection() -> None:
    assert frontier_area([(0.3, 0.3), (0.7, 0.7)]) == pytest.approx(0.5)
    assert frontier_area([(1.0, 0.0)]) == pytest.approx(1.0)
    assert frontier_area([(0.5, 0.0)]) == pytest.approx(0.75)  # a triangle is left above it
    assert recall_at([(0.5, 0.0)], 0.0) == pytest.approx(0.5)
    assert recall_at([(0.4, 0.2)], 0.1) == pytest.approx(0.2)


@given(points, st.tuples(rates, rates))
def test_another_cell_never_makes_an_actuator_worse(
    own: list[tuple[float, float]], new: tuple[float, float]
) -> None:
    assert frontier_area([*own, new]) >= frontier_area(own) - 1e-9
    assert recall_at([*own, new], 0.15) >= recall_at(own, 0.15) - 1e-9


@given(points, st.integers(1, 20), rates)
def test_aurc_is_the_mean_of_risk_over_what_mixtures_reach(
    own: list[tuple[float, float]], most: int, risk: float
) -> None:
    """Against a plain mean over many coverages, each with the best mixture of two cells."""
    places = [(0.0, 0.0), (most / 20, most / 20 * risk), *((c, c * r) for c, r in own)]

    def least(coverage: float) -> float:
        mixtures = [
            e + (f - e) * (coverage - c) / (d - c)
            for c, e in places
            for d, f in places
            if c <= coverage <= d and c < d
        ]
        return min(mixtures)

    coverages = (np.arange(40) + 0.5) / 40 * most / 20
    expected = np.mean([least(c) / c for c in coverages])
    assert aurc(places[1:], most / 20) == pytest.approx(expected, abs=0.01)


def test_refusing_at_random_keeps_the_risk() -> None:
    assert aurc([(0.8, 0.4)], 0.8) == pytest.approx(0.5)
    assert aurc([(0.8, 0.4), (0.4, 0.2)], 0.8) == pytest.approx(0.5)
    assert aurc([(0.8, 0.4), (0.4, 0.0)], 0.8) < 0.2


ITEMS = [
    SuiteItem(f"made-{n:03d}", f"Question {n}?", n % 2 == 0, None if n % 2 == 0 else ("right",))
    for n in range(40)
]


def record(item: SuiteItem, cell: Cell, text: str, read: float | None = None) -> Record:
    gates = () if read is None else (GateReading(0, "gate", read, read >= 0.5),)
    completion = Completion(Request(item.prompt), text, (1, 2), "stop", 5, gates=gates)
    return make_record(cell, item, 0, completion, score_completion(item, completion))


@pytest.fixture(scope="module")
def probe(tiny: LanguageModel) -> sk.Probe:
    metadata = ProbeMetadata(name="gate", model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    return sk.Probe(torch.ones(tiny.n_layers, tiny.d_model), torch.zeros(tiny.n_layers), metadata)


def test_the_probes_area_with_a_perfect_actuator_is_that_of_its_roc_hull(
    tiny: LanguageModel, probe: sk.Probe
) -> None:
    """And without the hull its AURC is the library's, up to the mean over a curve against that over a polygon."""
    from scipy.spatial import ConvexHull
    from sklearn.metrics import roc_curve

    vector = random_vector(tiny, 1, name="v")
    cell = Cell((vector.at(1, gate=sk.ProbeGate(probe, 1, 0.5)),))
    order = np.random.default_rng(0).permutation(len(ITEMS))
    reads = {
        item.id: (n + 8 * bool(item.should_abstain) + 1) / 60 for item, n in zip(ITEMS, order, strict=True)
    }
    plain = [record(item, Cell(), "right" if n % 3 else "wrong") for n, item in enumerate(ITEMS)]
    gated = [record(item, cell, "I don't know.", reads[item.id]) for item in ITEMS]
    text = frontiers([*plain, *gated], [cell])
    line = next(line for line in text.splitlines() if line.startswith("| the probe"))
    area = float(line.split("|")[3].split("[")[0])
    should = [bool(item.should_abstain) for item in ITEMS]
    false, true, _ = roc_curve(should, [reads[item.id] for item in ITEMS])
    corners = [*zip(false, true, strict=True), (1.0, 0.0)]
    assert area == pytest.approx(ConvexHull(corners).volume, abs=6e-4)
    wrong = np.array([not row.scores["correct"] for row in plain])
    scores = np.array([reads[item.id] for item in ITEMS])
    curve = risk_coverage_curve(scores, wrong, np.arange(40), resampling_weights(40, 10))
    assert f"AURC {curve.area.value:.3f} [" in text
    assert float(line.split("|")[6].split("[")[0]) <= curve.area.value + 0.02


def test_an_abstention_is_no_error_and_an_answer_to_what_has_none_is(tiny: LanguageModel) -> None:
    cell = Cell((random_vector(tiny, 1).at(1),))
    plain = {item.id: record(item, Cell(), "right") for item in ITEMS}
    refused = {item.id: record(item, cell, "I don't know.") for item in ITEMS}
    found = Behaviour.of({"plain": plain, "refused": refused}).rates(np.ones((1, 40)))
    assert found.recall.tolist() == [[0, 1]]
    assert found.over.tolist() == [[0, 1]]
    assert found.coverage.tolist() == [[1, 0]]
    assert found.errors.tolist() == [[0.5, 0]]


def test_a_matched_direction_has_the_others_dose(tiny: LanguageModel) -> None:
    norms = torch.tensor([1.0, 2.0, 3.0, 4.0])
    to = replace(random_vector(tiny, 1), activation_norm=norms)
    short = replace(random_vector(tiny, 2) * 0.05, activation_norm=norms * 1.1)
    strength = matched_strength(short, to, 2, 0.75)
    assert short.relative_dose(2, strength) == pytest.approx(to.relative_dose(2, 0.75), rel=1e-3)


def test_controls_are_one_a_seed_under_the_same_gate(tiny: LanguageModel, probe: sk.Probe) -> None:
    vector, gate = random_vector(tiny, 1, name="v"), sk.ProbeGate(probe, 1, 0.5)
    cell = Cell((vector.at(1, 0.5, gate=gate),))
    found = controls([Cell(), cell], range(3))
    assert len({control.id for control in found}) == 3
    for control in found:
        assert control.role == "random"
        assert control.interventions[0].gate is gate
        assert control.interventions[0].vector.direction.norm(dim=1).tolist() == pytest.approx(
            vector.direction.norm(dim=1).tolist()
        )


def test_a_table_shows_a_spec_shortly() -> None:
    spec = "v@layer=14,strength=1.25,scope=completion,gate=p,gate_layer=19,threshold=0.6468599206918023"
    assert shown(spec) == "v@layer=14,strength=1.25,gate=p,gate_layer=19,threshold=0.647"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The study on a tiny model, writing into a folder; runs a part of it and returns the page that it wrote."""
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096  # texts are bytes to it
    model = str(save_model(lm, tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vectors").mkdir()
    for module in (run, equal_kl, longer, publish):
        for name, value in {"HERE": tmp_path, "MODEL": model, "LAYERS": {model: (1, 2)}, "TOKENS": 4}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(cells, "STRENGTHS", (0.5, 1.0))
    for module in (cells, run):
        monkeypatch.setattr(module, "CONTROLLED", (1.0,))
    for module in (run, publish):
        monkeypatch.setattr(module, "SEEDS", range(2))
    for module in (longer, publish):
        monkeypatch.setattr(module, "LONGER", 6)
    monkeypatch.setattr(publish, "CALIBRATED_LAYERS", (1,))
    for module in (equal_kl, publish):
        monkeypatch.setattr(module, "TARGETS", (0.01,))
    for module in (run, longer):
        monkeypatch.setattr(module, "PUBLIC_ITEMS", 6)
    monkeypatch.setattr(
        sk, "learn", lambda lm, pairs, _layers, *, kl_budget: sk.extract(lm, pairs) * (1 - kl_budget)
    )
    # A random model may never abstain: every rule is met by something.
    for module in (cells, run, publish):
        rules = dict.fromkeys(("strict", "bounded", "open"), "recall")
        monkeypatch.setattr(module, "RULES", rules)

    def part(module: object, page: str, *arguments: object) -> str:
        argv = ["part", "--threads", 1, *arguments]
        monkeypatch.setattr("sys.argv", [str(argument) for argument in argv])
        module.main()  # type: ignore[attr-defined]
        return (tmp_path / page).read_text(encoding="utf-8")

    return part


def test_the_whole_study_runs_and_resumes(study: Callable[..., str], tmp_path: Path) -> None:
    selfaware, umwp = (tmp_path / "data" / file for file in run.PUBLIC.values())
    rows = [
        {
            "question_id": n,
            "question": f"Who is {n}?",
            "answerable": n % 2 == 0,
            "answer": ["x"] if n % 2 == 0 else None,
        }
        for n in range(60)
    ]
    selfaware.parent.mkdir(parents=True)
    selfaware.write_text(json.dumps({"example": rows}), encoding="utf-8")
    problems = [{"id": n, "question": f"What is {n}?", "answerable": n % 2 == 0} for n in range(60)]
    umwp.parent.mkdir(parents=True)
    umwp.write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    out = tmp_path / "runs"
    common, data = ("--dtype", "float32"), ("--data", tmp_path / "data")
    whole = (*common, *data, "--limit", 8, "--out", out)
    first = study(run, "results.md", *whole)
    assert "| strict | response, gated |" in first
    assert "random directions of its norm: 2 |" in first
    assert "projected-content, gated" in first
    assert re.search(r"\| 1 \| 0\.\d+ \| question \|", first)
    assert "## umwp" in first
    assert study(run, "results.md", *whole) == first
    assert "Learned minus mean difference" in study(
        equal_kl, "results-equal-kl.md", *common, "--limit", 8, "--runs", out
    )
    page = study(longer, "results-longer.md", *common, *data, "--runs", out)
    assert "| `unsteered` | 4 | " in page
    assert "| `unsteered` | 6 | " in page
    card = study(publish, f"vectors/{publish.NAME}.md", "--runs", out)
    assert "**gate, probability" in card
    assert "| selfaware | 6 | 6 | chosen | " in card
    vector = sk.load_vector(tmp_path / "vectors" / f"{publish.NAME}.safetensors")
    assert vector.metadata.calibration is not None
    (chosen,) = re.findall(r"gate from probability (0\.\d+) on", card)
    assert f"{vector.gated().threshold:.3f}" == chosen
    (recommended,) = recommended_use(vector)
    assert recommended.gate == vector.gated()
