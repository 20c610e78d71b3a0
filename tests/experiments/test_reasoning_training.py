"""Training on a tiny model: it learns, a killed run goes on as it was, and the adapter is what was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.reasoning_tax import train as training
from experiments.reasoning_tax.publish import publish
from experiments.reasoning_tax.train import CHECKPOINT, PRESETS, Preset, train
from steerkit.core.errors import MisuseError
from steerkit.models import load_model
from steerkit.models.adapters import WEIGHTS_FILE, read_adapter

TINY = Preset(
    device="cpu",
    dtype="float32",
    rows=48,
    rows_a_step=8,
    tokens_a_portion=2048,
    rank=4,
    learning_rate=1e-2,
    checkpoint_seconds=0.0,
)


class KilledError(Exception):
    """In the place of a kill -9, which leaves no time to tidy up either."""


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> str:
    return str(tiny_folder)


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("none", TINY, tmp_path_factory.mktemp("trained") / "none", base)


def test_it_learns(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    before, _, after, *_ = card.split("loss on held-out rows | ")[1].split()
    assert float(after) < float(before) - 0.5


def test_a_killed_run_goes_on_to_the_very_same_adapter(
    trained: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training._Training._step

    def killed_at_three(run: training._Training, number: int) -> tuple[float, float]:
        if number == 3:
            raise KilledError
        return step(run, number)

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_step", killed_at_three)
        with pytest.raises(KilledError):
            train("none", TINY, tmp_path / "none", base)
    assert torch.load(tmp_path / "none" / CHECKPOINT, weights_only=True)["done"] == 3
    again = train("none", TINY, tmp_path / "none", base)
    ours, theirs = load_file(again / WEIGHTS_FILE), load_file(trained / WEIGHTS_FILE)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_run_does_not_go_on_from_it(trained: Path, base: str) -> None:
    with pytest.raises(MisuseError, match="is of another run"):
        train("none", replace(TINY, learning_rate=1e-3), trained, base)


def test_a_run_that_goes_on_from_an_adapter_begins_where_it_ended(
    trained: Path, base: str, tmp_path: Path
) -> None:
    before = float((trained / "README.md").read_text().split("loss on held-out rows | ")[1].split()[2])
    on = train("none", replace(TINY, first=48 + 32, learning_rate=1e-4), tmp_path / "on", base, start=trained)
    card = (on / "README.md").read_text()
    assert "| goes on from | none |" in card
    assert float(card.split("loss on held-out rows | ")[1].split()[0]) == pytest.approx(before, abs=0.5)
    assert not torch.equal(*(next(iter(load_file(f / WEIGHTS_FILE).values())) for f in (on, trained)))
    with pytest.raises(MisuseError, match="is of another run"):
        train("none", replace(TINY, first=48 + 32, learning_rate=1e-4), on, base)
    with pytest.raises(MisuseError, match="another rank"):
        train("none", replace(TINY, rank=2), tmp_path / "rank", base, start=trained)


def test_the_adapter_loads_without_peft_as_peft_has_it(trained: Path, base: str) -> None:
    peft = pytest.importorskip("peft")
    lm = load_model(trained)
    found = read_adapter(trained)
    assert found.note is not None
    assert lm.fingerprint != load_model(base).fingerprint
    theirs = peft.PeftModel.from_pretrained(load_model(base).hf, trained).merge_and_unload()
    ids = torch.tensor([lm.renderer.encode_prompt("Of 31 and 87, which number is larger?")])
    with torch.inference_mode():
        assert torch.allclose(lm.hf(ids).logits, theirs(ids).logits, atol=1e-4)


def test_it_is_published_under_its_name(trained: Path, tmp_path: Path) -> None:
    folder = publish(trained, "reasoner", tmp_path)
    assert load_model(folder).name == "reasoner"
    assert load_model(folder).fingerprint == load_model(trained).fingerprint


def test_the_presets_stay_within_twelve_megabytes() -> None:
    for preset in PRESETS.values():
        sizes = {"q": 1152, "k": 768, "v": 768, "o": 1152, "gate": 2112, "up": 2112, "down": 2112}  # in + out
        assert 2 * 30 * preset.rank * sum(sizes.values()) < 12_000_000


def test_the_rate_climbs_and_then_falls_to_nothing() -> None:
    rates = [PRESETS["cpu"].rate(step, 400) for step in range(400)]
    assert max(rates) == pytest.approx(PRESETS["cpu"].learning_rate)
    assert rates.index(max(rates)) in range(18, 22)
    assert rates[-1] < 1e-4 * max(rates)
