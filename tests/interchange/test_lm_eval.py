"""lm-eval's `steered` model: the file it reads, what it refuses, and its scores on a task beside ours."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interchange.base import Consumer, export, verify_export
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.suites.suite import load_suite
from tests.interchange.conftest import consumer_python
from tests.tiny import random_vector

CHOICES = ("I don't know.", "The answer is")


def test_a_block_is_named_as_in_the_models_base(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    steerings = [vector.at(2, 1.5, scope="all"), vector.at((2, 3), 0.5, scope="all")]
    path = export(steerings, "lm-eval", tmp_path / "v.pt", tiny)
    entries = torch.load(path, weights_only=True)
    assert list(entries) == ["layers.2", "layers.3"]
    assert entries["layers.2"]["action"] == "add"
    assert torch.allclose(entries["layers.2"]["steering_vector"], 2.0 * vector.direction[2])
    assert torch.allclose(entries["layers.3"]["steering_vector"], 0.5 * vector.direction[3])
    assert entries["layers.2"]["steering_coefficient"] == 1.0


def test_clamp_and_full_ablation_become_its_clamp(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    steerings = [
        vector.at(1, 1.0, scope="all", operation="clamp", target=2.5),
        vector.at(2, 1.0, scope="all", operation="ablate"),
    ]
    entries = torch.load(export(steerings, "lm-eval", tmp_path / "v.pt", tiny), weights_only=True)
    assert [e["action"] for e in entries.values()] == ["clamp", "clamp"]
    assert [e["steering_coefficient"] for e in entries.values()] == pytest.approx([2.5, 0.0])


def test_what_lm_eval_cannot_express_is_refused_by_name(tiny: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(tiny)
    refused = {
        "scope=completion": [vector.at(1)],
        "gate": [vector.at(1, scope="all", gate=PositionGate(vector, 0.0))],
        "operation=rotate": [vector.at(1, 0.5, scope="all", operation="rotate")],
        "strength=0.5": [vector.at(1, 0.5, scope="all", operation="ablate")],
        "layer=1": [vector.at(1, 1.0, scope="all"), vector.at(1, 1.0, scope="all", operation="ablate")],
        "nothing to export": [vector.at(1, 0.0, scope="all")],
    }
    for field, steerings in refused.items():
        with pytest.raises(MisuseError, match=field):
            export(steerings, "lm-eval", tmp_path / "v.pt", tiny)
    with pytest.raises(MisuseError, match=r"NAME\.pt"):
        export([vector.at(1, scope="all")], "lm-eval", tmp_path / "v.bin", tiny)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.consumers
@pytest.mark.parametrize("operation", ["add", "ablate", "clamp"])
def test_lm_eval_computes_what_we_compute(smollm: LanguageModel, tmp_path: Path, operation: Any) -> None:
    python = consumer_python("lm_eval")
    target = 3.0 if operation == "clamp" else None
    steerings = [
        random_vector(smollm, size=0.5).at((10, 14), 1.0, scope="all", operation=operation, target=target)
    ]
    path = export(steerings, "lm-eval", tmp_path / "v.pt", smollm)
    outcome = verify_export(steerings, "lm-eval", path, smollm, Consumer(Path(python)))
    assert outcome.passed, outcome.rows
    assert max(abs(row["ours"] - row["unsteered"]) for row in outcome.rows) > 0.1
    assert not verify_export([], "lm-eval", path, smollm, Consumer(Path(python))).passed


CHOOSE = """
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
# Decoding, filter and metric are those of lm-eval's own gsm8k.
WRITE = """
task: steerkit_problems
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:", "</s>", "<|im_end|>"], do_sample: false, max_gen_toks: {tokens}}}
metric_list: [{{metric: exact_match, ignore_case: true, regexes_to_ignore: [",", "\\\\$", "\\\\.$"]}}]
filter_list:
  - name: flexible-extract
    filter:
      - {{function: regex, group_select: -1, regex_pattern: '{number}'}}
      - {{function: take_first}}
"""
NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
RUN = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
folder, pretrained, steer_path, task = sys.argv[1:5]
arguments = {"pretrained": pretrained, "dtype": "float32"}
steered = {"steer_path": steer_path} if steer_path else {}
done = simple_evaluate(
    model="steered" if steer_path else "hf", model_args=arguments | steered, tasks=[task],
    task_manager=TaskManager(include_path=folder, include_defaults=False), device="cpu", batch_size=4,
    apply_chat_template=True, log_samples=True, bootstrap_iters=0,
)
samples = sorted(done["samples"][task], key=lambda sample: sample["doc_id"])
print(json.dumps({"scores": done["results"][task], "answers": [sample["resps"] for sample in samples]}))
"""


def evaluated(folder: Path, smollm: LanguageModel, steerings: Sequence[Steering], task: str) -> Any:
    """What lm-eval makes of a task that lies in `folder`."""
    file = str(export(steerings, "lm-eval", folder / "v.pt", smollm)) if steerings else ""
    command = [consumer_python("lm_eval"), "-c", RUN, str(folder), smollm.hf.name_or_path, file, task]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def write_task(folder: Path, task: str, rows: Iterable[dict[str, Any]], **more: Any) -> None:
    """The task's file and its items, as lm-eval finds them."""
    (folder / "items.json").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.yaml").write_text(task.format(items=json.dumps(str(folder / "items.json")), **more))


@pytest.fixture(scope="module")
def steering(smollm: LanguageModel) -> Steering:
    return random_vector(smollm, size=0.5).at((10, 14), 1.0, scope="all")


@pytest.mark.consumers
def test_a_task_in_lm_eval_scores_as_ours(smollm: LanguageModel, steering: Steering, tmp_path: Path) -> None:
    items = load_suite("abstention").items[:24]
    rows = ({"prompt": item.prompt, "should_abstain": item.should_abstain} for item in items)
    write_task(tmp_path, CHOOSE, rows, choices=json.dumps(CHOICES))
    engine = TransformersEngine(smollm)
    found = []
    for steerings in ((), (steering,)):
        theirs = evaluated(tmp_path, smollm, steerings, "steerkit_abstention")
        likelihoods = torch.tensor(
            [[float(choice[0][0]) for choice in answer] for answer in theirs["answers"]]
        )
        requests = [ScoreRequest(item.prompt, choice, steerings) for item in items for choice in CHOICES]
        totals = torch.tensor([score.total for score in engine.score(requests)]).reshape(len(items), 2)
        # lm-eval counts the newline that ends the prompt to the continuation, so each row has one more term, the same
        # for both choices: what is left is their difference, which decides.
        margins = likelihoods.diff(dim=1)
        assert torch.allclose(margins, totals.diff(dim=1), atol=1e-3)
        wanted = torch.tensor([0 if item.should_abstain else 1 for item in items])
        ours = float((totals.argmax(dim=1) == wanted).float().mean())
        assert theirs["scores"]["acc,none"] == pytest.approx(ours)
        found.append(margins)
    assert (found[0] - found[1]).abs().max() > 0.1  # the steering does something


@pytest.mark.consumers
def test_a_task_that_generates_in_lm_eval_scores_as_ours(
    smollm: LanguageModel, steering: Steering, tmp_path: Path
) -> None:
    items = [item for item in load_suite("brevity").items if item.answers][:12]
    rows = ({"prompt": item.prompt, "answer": item.answers[0]} for item in items if item.answers)
    write_task(tmp_path, WRITE, rows, tokens=40, number=NUMBER)
    engine = TransformersEngine(smollm)
    texts = []
    for steerings in ((), (steering,)):
        theirs = evaluated(tmp_path, smollm, steerings, "steerkit_problems")
        requests = [Request(item.prompt, steerings, Decoding(40), key=i) for i, item in enumerate(items)]
        done = {completion.request.key: completion.text for completion in engine.generate(requests)}
        ours = [done[i] for i in range(len(items))]
        # Our texts come without white space around them.
        assert [answer[0][0].strip() for answer in theirs["answers"]] == ours
        last = ["".join((re.findall(NUMBER, text) or [("[invalid]", "")])[-1]) for text in ours]
        right = [
            re.sub(r",|\$|\.$", "", number) == item.answers[0]
            for number, item in zip(last, items, strict=True)
            if item.answers
        ]
        assert theirs["scores"]["exact_match,flexible-extract"] == pytest.approx(sum(right) / len(right))
        texts.append(ours)
    assert texts[0] != texts[1]
