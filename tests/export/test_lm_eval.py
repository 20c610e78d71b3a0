"""lm-eval's `steered` model: the file it reads, what it refuses, and its scores on a task beside ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.engines.base import ScoreRequest
from steerkit.engines.transformers import TransformersEngine
from steerkit.errors import MisuseError
from steerkit.export.lm_eval import export_lm_eval
from steerkit.export.verification import verify_lm_eval
from steerkit.models import LanguageModel
from steerkit.steering import Gate
from steerkit.suites.suite import load_suite
from tests.export.conftest import consumer_python
from tests.tiny import random_vector

CHOICES = ("I don't know.", "The answer is")


def test_a_block_is_named_as_in_the_models_base(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    path = export_lm_eval(tiny, [vector.at(2, 1.5, "all"), vector.at((2, 3), 0.5, "all")], tmp_path / "v.pt")
    entries = torch.load(path, weights_only=True)
    assert list(entries) == ["layers.2", "layers.3"]
    assert entries["layers.2"]["action"] == "add"
    assert torch.allclose(entries["layers.2"]["steering_vector"], 2.0 * vector.direction[2])
    assert torch.allclose(entries["layers.3"]["steering_vector"], 0.5 * vector.direction[3])
    assert entries["layers.2"]["steering_coefficient"] == 1.0


def test_clamp_and_full_ablation_become_its_clamp(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    steerings = [vector.at(1, 1.0, "all", "clamp", target=2.5), vector.at(2, 1.0, "all", "ablate")]
    entries = torch.load(export_lm_eval(tiny, steerings, tmp_path / "v.pt"), weights_only=True)
    assert [(e["action"], e["steering_coefficient"]) for e in entries.values()] == [
        ("clamp", 2.5),
        ("clamp", 0.0),
    ]


def test_what_lm_eval_cannot_express_is_refused_by_name(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    refused = {
        "scope=completion": [vector.at(1)],
        "gate": [vector.at(1, scope="all", gate=Gate(vector, 0.0))],
        "operation=rotate": [vector.at(1, 0.5, "all", "rotate")],
        "strength=0.5": [vector.at(1, 0.5, "all", "ablate")],
        "layer=1": [vector.at(1, 1.0, "all"), vector.at(1, 1.0, "all", "ablate")],
        "strength=0": [vector.at(1, 0.0, "all")],
    }
    for field, steerings in refused.items():
        with pytest.raises(MisuseError, match=field):
            export_lm_eval(tiny, steerings, tmp_path / "v.pt")
    with pytest.raises(MisuseError, match=r"NAME\.pt"):
        export_lm_eval(tiny, [vector.at(1, scope="all")], tmp_path / "v.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.consumers
@pytest.mark.parametrize("operation", ["add", "ablate", "clamp"])
def test_lm_eval_computes_what_we_compute(smollm: LanguageModel, tmp_path: Path, operation: Any) -> None:
    python = consumer_python("lm_eval")
    target = 3.0 if operation == "clamp" else None
    steerings = [random_vector(smollm, size=0.5).at((10, 14), 1.0, "all", operation, target)]
    path = export_lm_eval(smollm, steerings, tmp_path / "v.pt")
    outcome = verify_lm_eval(smollm, steerings, path, python)
    assert outcome.passed, outcome.rows
    assert max(abs(row["ours"] - row["unsteered"]) for row in outcome.rows) > 0.1
    assert not verify_lm_eval(smollm, [], path, python).passed


TASK = """
task: steerkit_abstention
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: {choices}
doc_to_target: "{{{{0 if should_abstain else 1}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
RUN = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
folder, pretrained, steer_path = sys.argv[1:4]
arguments = {"pretrained": pretrained, "dtype": "float32"}
steered = {"steer_path": steer_path} if steer_path else {}
done = simple_evaluate(
    model="steered" if steer_path else "hf", model_args=arguments | steered, tasks=["steerkit_abstention"],
    task_manager=TaskManager(include_path=folder, include_defaults=False), device="cpu", batch_size=4,
    apply_chat_template=True, log_samples=True, bootstrap_iters=0,
)
samples = sorted(done["samples"]["steerkit_abstention"], key=lambda sample: sample["doc_id"])
likelihoods = [[choice[0] for choice in sample["filtered_resps"]] for sample in samples]
print(json.dumps({"acc": done["results"]["steerkit_abstention"]["acc,none"], "likelihoods": likelihoods}))
"""


@pytest.mark.consumers
def test_a_task_in_lm_eval_scores_as_ours(smollm: LanguageModel, tmp_path: Path) -> None:
    python = consumer_python("lm_eval")
    items = load_suite("abstention").items[:24]
    rows = [{"prompt": item.prompt, "should_abstain": item.should_abstain} for item in items]
    (tmp_path / "items.json").write_text("\n".join(map(json.dumps, rows)))
    task = TASK.format(items=json.dumps(str(tmp_path / "items.json")), choices=json.dumps(CHOICES))
    (tmp_path / "task.yaml").write_text(task)
    engine = TransformersEngine(smollm)
    steering = random_vector(smollm, size=0.5).at((10, 14), 1.0, "all")
    found = []
    for steerings in ((), (steering,)):
        file = str(export_lm_eval(smollm, steerings, tmp_path / "v.pt")) if steerings else ""
        command = [python, "-c", RUN, str(tmp_path), smollm.hf.name_or_path, file]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        theirs = json.loads(done.stdout.splitlines()[-1])

        requests = [ScoreRequest(item.prompt, choice, steerings) for item in items for choice in CHOICES]
        totals = torch.tensor([score.total for score in engine.score(requests)]).reshape(len(items), 2)
        # lm-eval counts the newline that ends the prompt to the continuation, so each row has one more term, the same
        # for both choices: what is left is their difference, which decides.
        margins = torch.tensor(theirs["likelihoods"]).diff(dim=1)
        assert torch.allclose(margins, totals.diff(dim=1), atol=1e-3)
        wanted = torch.tensor([0 if item.should_abstain else 1 for item in items])
        ours = float((totals.argmax(dim=1) == wanted).float().mean())
        assert theirs["acc"] == pytest.approx(ours)
        found.append(margins)
    assert (found[0] - found[1]).abs().max() > 0.1  # the steering does something
