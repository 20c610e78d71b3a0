"""The abstention study on a tiny model: it runs, resumes, and publishes what it picked; and its folder stays small."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import steerkit as sk
from experiments.abstention_tradeoff import publish, run
from steerkit.interventions.store import recommended_use
from tests.conftest import save_model
from tests.tiny import tiny_model

HERE = Path(run.__file__).parent


def test_the_study_is_a_configuration() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in HERE.glob("*.py")) < 300


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The study on a tiny model, writing into a folder; runs a part of it and returns the page that it wrote."""
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096  # texts are bytes to it
    model = str(save_model(lm, tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vectors").mkdir()
    small = {
        "HERE": tmp_path, "MODEL": model, "LAYERS": {model: (1, 2)}, "DECODING": sk.Decoding(4), "STRENGTHS": (1.0,),
        "SEEDS": {"response": 2}, "PUBLIC_ITEMS": 6, "BUDGETS": (0.1, 0.5), "PUBLISHED": "abstain-tiny",
        # A random model may never abstain: every rule is met by something.
        "RULES": dict.fromkeys(("strict", "bounded"), "recall"),
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(run, name, value)
    fitted = run.fitted
    monkeypatch.setattr(run, "fitted", lambda *given: fitted(*given[:3], refit=True))
    monkeypatch.setattr(publish, "CALIBRATED_LAYERS", (1,))
    monkeypatch.setattr(publish, "TARGETS", (0.01,))
    monkeypatch.setattr(
        sk, "learn", lambda lm, pairs, _layers, *, kl_budget: sk.extract(lm, pairs) * (1 - kl_budget)
    )

    def part(module: object, page: str, *arguments: object) -> str:
        argv = ["part", "--threads", 1, "--dtype", "float32", *arguments]
        monkeypatch.setattr("sys.argv", [str(argument) for argument in argv])
        module.main()  # type: ignore[attr-defined]
        return (tmp_path / page).read_text(encoding="utf-8")

    return part


def test_the_whole_study_runs_and_resumes(
    study: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    out, data = tmp_path / "runs", tmp_path / "data"
    monkeypatch.setattr(
        run, "compared", lambda *given, compared=run.compared: compared(*given[:5], 8, *given[6:])
    )
    first = study(run, "results.md", "--data", data, "--out", out)
    assert "| strict | response, gated by should-abstain |" in first
    assert "random directions of its norm: 2 |" in first
    assert "perfect actuator, gate from" in first
    assert "| premise | " in first
    assert "## umwp" in first
    assert study(run, "results.md", "--data", data, "--out", out) == first
    card = study(publish, "vectors/abstain-tiny.md", "--data", data, "--out", out)
    assert "## Measured on selfaware" in card
    vector = sk.load_vector(tmp_path / "vectors" / "abstain-tiny.safetensors")
    assert vector.metadata.calibration is not None
    (recommended,) = recommended_use(vector)
    assert recommended.gate == vector.gated()
    assert re.search(rf"layer={recommended.layers[0]},strength=", card)
