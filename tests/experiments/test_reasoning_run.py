"""The whole reasoning study on a tiny model: it runs, resumes, and says at each stage what is not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import steerkit as sk
from experiments.reasoning_tax import actuators, learned, run
from experiments.reasoning_tax.again import others
from experiments.reasoning_tax.setting import SUITES, Setting, conditions, plain_cell
from steerkit.core.errors import MisuseError
from tests.conftest import save_model
from tests.models.test_adapters import random_factors, write
from tests.tiny import tiny_model

PARTS = list(run.PARTS)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Two tiny adapters on a tiny base, and a few questions in SelfAware's form."""
    folder = tmp_path_factory.mktemp("study")
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096  # texts are bytes to it
    base = save_model(lm, folder / "base")
    for name in ("long", "none"):
        write(folder / "adapters" / name, base, random_factors(lm.hf))
    rows = [
        {
            "question_id": n,
            "question": f"What is {n}?",
            "answerable": not n % 2,
            "answer": None if n % 2 else [str(n)],
        }
        for n in range(160)
    ]
    (folder / "selfaware").mkdir()
    (folder / "selfaware" / "SelfAware.json").write_text(json.dumps({"example": rows}))
    umwp = [
        {
            "id": n,
            "question": f"Is {n} more?",
            "answerable": n % 2 == 0,
            "answer": [float(n)],
            "relevant_ids": [n - 1],
        }
        for n in range(80)
    ]
    (folder / "umwp").mkdir()
    (folder / "umwp" / "StandardDataset.jsonl").write_text("\n".join(map(json.dumps, umwp)))
    return Setting(
        folder / "adapters", folder / "runs", folder, "float32", limit=12, base=str(base), tokens=4
    )


def test_the_study_says_what_it_has_measured_so_far_and_resumes(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actuators, "ANSWER_LAYERS", (1,))
    monkeypatch.setattr(actuators, "COMPLETION_LAYERS", (2,))
    monkeypatch.setattr(learned, "LAYERS", (1,))
    monkeypatch.setattr(learned, "STEPS", 2)
    # a random model closes no block by itself
    monkeypatch.setattr(learned, "_written", lambda _, pairs, *__: ["So.\n</think>\nIt is 3."] * len(pairs))
    page = setting.out / "results.md"
    run.measure(setting, ["before"], page)
    early = page.read_text()
    assert "Not trained, hence not measured: short, long-idk." in early
    assert early.count("Not measured yet.") == 4
    for suite in ("selfaware (primary), told", "umwp, as it is", "abstention, told", "brevity, as it is"):
        assert f"### {suite}" in early
    assert "brevity, told" not in early
    assert "| none | 12 |" in early
    run.measure(setting, PARTS, page)
    whole = page.read_text()
    assert "Not measured yet." not in whole
    assert whole.startswith(early.partition("## Paid back")[0].rstrip())
    for family in (
        "best steering",
        "own on the completion, gate of selfaware",
        "forced reply, gate of abstention",
    ):
        assert f"target: {family}" in whole  # as a line of the table, or among those that meet no bounds
    assert "| any price: base on the answer, ungated |" in whole
    assert "Thinking helps on" in whole
    assert "## Paid back, asked again" in whole
    again = whole.split("## Paid back, asked again")[1].split("\n## ")[0]
    assert again.count("| picked |") + again.count("No cell has the base's recall") == 3
    run.measure(setting, PARTS, page)
    assert page.read_text() == whole


def test_what_is_asked_again_are_other_items(setting: Setting) -> None:
    asked = {item.id for item in setting.items("selfaware", "report")}
    fresh = {item.id for item in others(setting, "selfaware")}
    assert len(fresh) == len(asked) == 12
    assert asked.isdisjoint(fresh)
    assert fresh <= {item.id for item in sk.load_suite(setting.reference("selfaware")).split("report")}


def test_every_model_is_asked_the_same_items_in_both_conditions(setting: Setting) -> None:
    asked = {}
    for name in ("base", "long", "none"):
        for suite in SUITES:
            records = list(sk.open_run(setting.plain_folder(name, suite, "report")).records())
            cells = {plain_cell(condition).id for condition in conditions(suite)}
            items = {cell: {r.item for r in records if r.cell == cell} for cell in cells}
            assert len({frozenset(some) for some in items.values()}) == 1
            asked.setdefault(suite, set()).add(frozenset(next(iter(items.values()))))
    assert all(len(choices) == 1 for choices in asked.values())


def test_without_the_long_variant_there_is_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no adapter 'long'"):
        run.measure(Setting(tmp_path, tmp_path), PARTS, tmp_path / "results.md")


def test_without_data_the_built_in_suites_are_asked(tmp_path: Path) -> None:
    assert Setting(tmp_path, tmp_path).suites == ["abstention", "brevity"]
    assert Setting(tmp_path, tmp_path, tmp_path).suites == list(SUITES)
