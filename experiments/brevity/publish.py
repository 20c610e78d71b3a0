# ruff: noqa: E501  (the card is a Markdown table)
"""Publish the vector that the study's rule picked, and write its card from the run directories.

    python -m experiments.brevity.publish --runs FOLDER

FOLDER is what `run.py` wrote for one model: the reasoner's vector becomes `brief-smollm2-135m-reasoner`, the base's
`brief-smollm2-135m-instruct`. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import steerkit as sk
from experiments.brevity import grid as grids
from experiments.brevity import results
from experiments.brevity.strengths import TOKENS as KL_TOKENS
from experiments.brevity.strengths import Strength, read_strengths
from experiments.brevity.study import TOKENS
from steerkit.core.errors import MisuseError
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

PUBLISHED = Path("vectors")
REASONER = "smollm2-135m-reasoner"
SUPERSEDED = {REASONER: "smollm2-135m-reasoner-2"}
METHODS = {
    "asc": "mean difference at the last token of the built-in pairs `brevity` (Activation-Steered Compression, arXiv 2507.04742)",
    "brevity-mean": "mean difference of the built-in pairs `brevity`, states averaged over the completion",
    "own-words": "mean difference of pairs that the model wrote itself, told to be concise and to be verbose",
    "style-last": "mean difference at the last token of the reasoner's training questions with a short and with the long chain",
    "style-mean": "mean difference of the reasoner's training questions with a short and with the long chain, states averaged over the completion",
    "learned": "trained by contrastive energy under a KL budget, on the reasoner's training questions with a short and with the long chain",
    "own-lines": "trained by contrastive energy under a KL budget: the lines of the reasoner's long chains that carry the solution, against how these chains begin",
    "both": "the sum of two trained by contrastive energy under a KL budget: on the reasoner's questions with a short and with the long chain, and on the lines of the long chain that carry the solution",
}


def main() -> None:
    """Write the vector and its card to `vectors/`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    asked = parser.parse_args()
    print(publish(asked.runs))


def publish(runs: Path, folder: Path = PUBLISHED) -> Path:
    """Write the picked vector with its calibrations, and its card; returns the vector's path.

    Raises MisuseError where the study has not come as far as `report`.
    """
    path = runs / "choice.json"
    if not path.is_file():
        raise MisuseError(f"{runs} holds no choice: run the study first (README.md)")
    choice: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    (chosen,) = sk.open_run(runs / "report").cell(choice["cell"]).interventions
    assert isinstance(chosen, sk.Steering)
    found = chosen.vector
    is_variant = (
        choice["thinks"] and choice["model"] != grids.SECOND
    )  # called after the folder that it lies in
    model = REASONER if is_variant else choice["model"]
    strengths = [s for s in read_strengths(runs / "strengths.json") if s.digest == found.digest]
    name = f"brief-{model}"
    published = found.renamed(name).with_calibration([strength.record for strength in strengths])
    metadata = published.metadata.model_copy(update={"model": model, "positive": "brevity"})
    vector = replace(published, metadata=metadata).recommending(chosen)
    saved = vector.save(folder / f"{name}.safetensors")
    (folder / f"{name}.md").write_text(card(vector, chosen, choice, runs, strengths), encoding="utf-8")
    return saved


def card(
    vector: sk.SteeringVector,
    chosen: sk.Steering,
    choice: dict[str, Any],
    runs: Path,
    strengths: list[Strength],
) -> str:
    """Data, method, layer, strength, every measured number, limits."""
    metadata = vector.metadata
    steering, random = replace(chosen, vector=vector), grids.control(Cell((chosen,)))
    records = _reported(
        runs, {"unsteered": Cell().id, "steered": choice["cell"], "a random direction of its norm": random.id}
    )
    tokens = "thinking_tokens" if choice["thinks"] else "tokens"
    fewer = results.saving(records["unsteered"], records["steered"], tokens)
    row = results.compared(records)["steered"]
    separability = ""
    if metadata.separability is not None:
        (layer,) = steering.layers
        separability = f"| held-out separability at layer {layer} | AUROC {metadata.separability[layer]:.2f}; words alone {metadata.baseline_separability:.2f} |\n"
    doses = [
        f"| {s.record.target_kl:g} | {s.record.layer} | {s.record.scope} | {s.record.strength:+.3f} | {s.record.measured_kl:.3f} |"
        for s in strengths
    ]
    what = "think" if choice["thinks"] else "answer"
    newer = SUPERSEDED.get(metadata.model)
    superseded = (
        f"\n**Superseded** with its model, which `{newer}` takes the place of; both stay loadable.\n"
        if newer
        else ""
    )
    return f"""# {metadata.name}

Makes {metadata.model} {what} in fewer words: {results.share(fewer)} fewer {tokens.replace("_", " ")} on the split `report`. Loads by its name:

```console
$ steerkit generate --model {metadata.model} --steer {metadata.name} "Keiko is 6 years old. Samir is 3 years older. How old is Samir?"
```

Written by `experiments/brevity/publish.py`; do not edit.
{superseded}
| | |
|---|---|
| model | {metadata.model}, fingerprint `{metadata.fingerprint}` (other weights need `--allow-mismatch`) |
| method | {METHODS[chosen.vector.name]}; {metadata.pairs_count} pairs |
| measured here | `{steering}`, which the name alone means: picked on `choose` by the study's rule ({choice["rule"]}), measured once on `report` |
{separability}| licence | Apache-2.0, as the model |

## Measured on the split `report`

Word problems of the brevity suite, levels {", ".join(map(str, choice["levels"]))}; greedy, at most {TOKENS} tokens; change from the unsteered model with its
95% interval.

{results.report_table(records, tokens)}

Every cell, what competes with it, wall-clock, and what becomes of abstention: [experiments/brevity](../experiments/brevity/).

## Calibration

KL(unsteered ‖ steered) in nats per token on {strengths[0].record.prompts} problems of `fit`, at most {KL_TOKENS} tokens each, teacher-forced on the unsteered roll-out.
A negative strength takes the vector away.

| target | layer | scope | strength | measured KL |
|---|---|---|---|---|
{chr(10).join(doses)}

## Limits

- Measured on generated word problems of levels that this model of 135M parameters can solve, and on nothing else.
- {row.levels["truncated"].value:.1%} of the steered completions were cut off at {TOKENS} tokens.
- What brevity does to abstention is in the experiment: read it before trusting a brief answer to a question that has none.
"""


def _reported(runs: Path, cells: dict[str, str]) -> dict[str, list[Record]]:
    """The records on `report` by label, of those cells that have any."""
    records = list(sk.open_run(runs / "report").records(cells.values()))
    by_label = {label: [r for r in records if r.cell == cell] for label, cell in cells.items()}
    return {label: some for label, some in by_label.items() if some}


if __name__ == "__main__":
    main()
