"""Inspect's provider `steerkit/…`: a real task in Inspect gives the completions and the score that our engine gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel
from steerkit.suites.suite import load_suite
from tests.interchange.conftest import consumer_python
from tests.tiny import random_vector

# Runs in Inspect's environment. The provider is found through steerkit's entry point.
RUN = """
import json, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
request = json.loads(open(sys.argv[1]).read())
samples = [Sample(input=prompt, target=target, id=i) for i, (prompt, target) in enumerate(request["items"])]
(log,) = eval(
    Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes()), model=request["model"],
    model_args=request["model_args"], log_dir=sys.argv[2], display="none", **request["options"],
)
done = sorted(log.samples or [], key=lambda sample: (sample.id, sample.epoch))
error = log.error.message if log.error else next((s.error.message for s in done if s.error), None)
print(json.dumps({
    "error": error,
    "accuracy": log.results.scores[0].metrics["accuracy"].value if log.results and log.results.scores else None,
    "completions": [sample.output.completion for sample in done],
    "stops": [sample.output.stop_reason if sample.output.choices else None for sample in done],
    "tokens": [sample.output.usage.output_tokens if sample.output.usage else None for sample in done],
}))
"""


def evaluated(folder: Path, model: str, items: list[tuple[str, str]], args: Any, **options: Any) -> Any:
    """What Inspect reports of the task on `model`."""
    python = consumer_python("inspect_ai")
    request = folder / "request.json"
    request.write_text(json.dumps({"model": model, "items": items, "model_args": args, "options": options}))
    command = [python, "-c", RUN, str(request), str(folder / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.consumers
def test_a_task_in_inspect_scores_as_ours(smollm: LanguageModel, tmp_path: Path) -> None:
    chosen = [item for item in load_suite("abstention").items if item.answers][:16]
    items = [(item.prompt, item.answers[0]) for item in chosen if item.answers]
    vector = random_vector(smollm, size=0.5, name="v")
    path = vector.save(tmp_path / "v.safetensors")
    engine = TransformersEngine(smollm)
    accuracies = []
    for steerings in ((), (vector.at(14, 1.0), vector.at(10, 1.0, scope="all", operation="ablate"))):
        specs = f"{path}@layer=14,strength=1,{path}@layer=10,scope=all,operation=ablate"
        args = {"dtype": "float32", "steer": specs.split(",")}  # as `inspect eval -M steer=…` splits it
        theirs = evaluated(
            tmp_path,
            "steerkit/smollm2-135m-instruct",
            items,
            args if steerings else {"dtype": "float32"},
            max_tokens=24,
        )
        assert theirs["error"] is None
        requests = [
            Request(prompt, steerings, Decoding(max_new_tokens=24), key=index)
            for index, (prompt, _) in enumerate(items)
        ]
        ours = sorted(engine.generate(requests), key=lambda c: int(str(c.request.key)))
        assert theirs["completions"] == [c.text for c in ours]
        assert theirs["tokens"] == [c.tokens for c in ours]
        assert theirs["stops"] == ["stop" if c.finish == "stop" else "max_tokens" for c in ours]
        found = [target.lower() in c.text.lower() for (_, target), c in zip(items, ours, strict=True)]
        assert theirs["accuracy"] == pytest.approx(sum(found) / len(found))
        accuracies.append([c.text for c in ours])
    assert accuracies[0] != accuracies[1]


@pytest.mark.consumers
def test_epochs_are_further_samples_and_the_same_ones_as_ours(
    tiny: LanguageModel, tiny_folder: Path, tmp_path: Path
) -> None:
    theirs = evaluated(
        tmp_path,
        f"steerkit/{tiny_folder}",
        [("Why?", "x")],
        {},
        max_tokens=8,
        temperature=1.0,
        seed=5,
        epochs=3,
    )
    decoding = Decoding(8, temperature=1.0, seed=5)
    ours = TransformersEngine(tiny).generate([Request("Why?", (), decoding, sample=s) for s in range(3)])
    assert sorted(theirs["completions"]) == sorted(c.text for c in ours)
    assert len(set(theirs["completions"])) == 3


@pytest.mark.consumers
def test_a_stop_sequence_ends_a_completion(tiny: LanguageModel, tiny_folder: Path, tmp_path: Path) -> None:
    (plain,) = TransformersEngine(tiny).generate([Request("Why?", (), Decoding(16))])
    stop = plain.text[4:6]
    theirs = evaluated(
        tmp_path, f"steerkit/{tiny_folder}", [("Why?", "x")], {}, max_tokens=16, stop_seqs=[stop]
    )
    assert theirs["completions"] == [plain.text[: plain.text.index(stop)].strip()]
    assert theirs["stops"] == ["stop"]


@pytest.mark.consumers
@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        ({}, {"presence_penalty": 0.5}, "presence_penalty"),
        ({}, {"frequency_penalty": 0.5}, "frequency_penalty"),
        ({}, {"reasoning_tokens": 64}, "reasoning_tokens"),
        ({"steer": "nowhere.safetensors@layer=1"}, {}, "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_done_is_an_error_and_never_ignored(
    tiny_folder: Path, tmp_path: Path, args: Any, options: Any, said: str
) -> None:
    if "steer" in args:  # the model cannot be made, so there is no log to read: Inspect itself fails
        with pytest.raises(AssertionError, match=said):
            evaluated(tmp_path, f"steerkit/{tiny_folder}", [("Why?", "x")], args, **options)
        return
    theirs = evaluated(tmp_path, f"steerkit/{tiny_folder}", [("Why?", "x")], args, **options)
    assert said in theirs["error"]
    assert theirs["accuracy"] is None
