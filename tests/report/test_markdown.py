from __future__ import annotations

from dataclasses import replace

import torch

import steerkit as sk
from steerkit.interventions.probe import ProbeMetadata, ProbeThreshold
from steerkit.interventions.vector import CalibrationRecord
from steerkit.models import LanguageModel
from steerkit.report.card import vector_card
from steerkit.report.markdown import across, change, level, markdown_table
from tests.sweeps.rows import row
from tests.tiny import random_vector


def test_numbers_of_a_row_stand_with_their_intervals() -> None:
    steered = row("v", abstention_recall=0.44, tokens=26.36, changes={"abstention_recall": 0.4})
    assert level(steered, "abstention_recall") == "0.44 [0.44, 0.44]"
    assert change(steered, "abstention_recall") == "0.44 (+0.40 [+0.40, +0.40])"
    assert change(steered, "tokens") == "26.4 [26.4, 26.4]"
    assert level(steered, "accuracy") == "–"
    assert across([steered, row("w", abstention_recall=0.5)], "abstention_recall") == "0.47 (0.44 to 0.50)"
    assert across([steered], "abstention_recall") == "0.44"
    assert across([steered], "accuracy") == "–"


def test_a_bar_in_a_table_divides_nothing() -> None:
    assert markdown_table(["a"], [["x|y"]]).splitlines()[-1] == r"| x\|y |"


def test_a_card_says_what_the_file_says(tiny: LanguageModel) -> None:
    threshold = ProbeThreshold(
        budget=0.1, threshold=0.6, layer=1, choose_false_positive_rate=0.1, choose_true_positive_rate=0.4
    )
    metadata = ProbeMetadata(
        name="p",
        model=tiny.name,
        fingerprint=tiny.fingerprint,
        layer=1,
        thresholds=(threshold,),
        data_count=162,
    )
    probe = sk.Probe(torch.ones(tiny.n_layers, tiny.d_model), torch.zeros(tiny.n_layers), metadata)
    record = CalibrationRecord(
        layer=1,
        strength=0.5,
        target_kl=0.1,
        measured_kl=0.11,
        interval=None,
        rollout_kl=None,
        statistic="mean",
        prompts=16,
        tokens=160,
        prompts_digest="ab",
    )
    vector = replace(random_vector(tiny, 1, name="v"), activation_norm=torch.ones(tiny.n_layers))
    vector = vector.with_probe(probe).with_calibration([record])
    card = vector_card(
        vector,
        does="Does this.",
        examples=["steerkit generate --steer v"],
        written_by="publish.py",
        facts={"licence": "ours"},
        sections={"Measured": "so much"},
        limits=["One model."],
    )
    assert card.startswith(
        "# v\n\nDoes this. Loads by its name:\n\n```console\n$ steerkit generate --steer v\n"
    )
    assert "| licence | ours |" in card
    assert "logistic probe of 162 questions" in card
    assert "budget 0.1: from 0.600 on, 0.40 / 0.10" in card
    assert "## Measured\n\nso much" in card
    assert "on 16 prompts of `fit`" in card
    assert card.endswith("## Limits\n\n- One model.\n")
