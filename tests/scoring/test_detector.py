"""The detector on real replies: what it reads is the same in any batch, and what it says stands beside the rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steerkit.analysis.run import open_run
from steerkit.scoring.detector import Detector
from tests.command_line import steerkit
from tests.sweeps.synthetic import grid, items, write_run

pytestmark = pytest.mark.models

ABSTAINS = [
    "I'm sorry, but I don't have that information.",
    "The passage does not say how many there were.",
    "Das lässt sich aus dem Text leider nicht sagen.",
    "Je n'ai aucune idée de qui l'a écrit.",
    "这个问题我无法回答，因为没有足够的信息。",
    "К сожалению, я этого не знаю.",
]
ANSWERS = [
    "The capital of France is Paris.",
    "She has 12 apples left, because 15 - 3 = 12.",
    "Die Hauptstadt von Australien ist Canberra.",
    "C'est Victor Hugo qui a écrit Les Misérables.",
    "水在零度结冰。",
    "Война и мир написал Лев Толстой.",
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.bundled()


def test_replies_in_several_languages_are_told_apart(detector: Detector) -> None:
    right = [*detector.abstain(ABSTAINS), *(not said for said in detector.abstain(ANSWERS))]
    assert sum(right) >= 11  # of 12: it is right nine times in ten, see experiments/abstention_scorer


def test_a_reply_reads_the_same_alone_and_in_a_batch(detector: Detector) -> None:
    together = detector.probabilities([*ABSTAINS, *ANSWERS])
    alone = np.concatenate([detector.probabilities([reply]) for reply in (*ABSTAINS, *ANSWERS)])
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_blank_reply_does_not_abstain(detector: Detector) -> None:
    assert detector.probabilities(["", " \n"]).tolist() == [0.0, 0.0]


def test_its_verdicts_stand_beside_those_of_the_rules_in_a_run(tmp_path: Path) -> None:
    write_run(tmp_path, grid(), items(4))
    done = steerkit("report", str(tmp_path), "--detector")
    assert done.code == 0, done.err
    assert "rules and detector find" in done.out + done.err
    assert all("detected_abstention_recall" in row.levels for row in open_run(tmp_path).summary())
