"""Publish the vector that pays back, with its gate and card: what `again` picked on SelfAware as it is.

    python -m experiments.reasoning_tax.publish_vector --model smollm2-135m-reasoner-2 --data FOLDER [--out runs]

It reads what the parts `back` and `again` kept, and runs nothing but what they would.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import steerkit as sk
from experiments.reasoning_tax.actuators import vectors_of
from experiments.reasoning_tax.again import choosing, picked
from experiments.reasoning_tax.back import FITTED_ON, Place, probes_of
from experiments.reasoning_tax.gates import reading
from experiments.reasoning_tax.run import HERE, section_file
from experiments.reasoning_tax.setting import PRIMARY, Setting
from steerkit.core.errors import MisuseError
from steerkit.report.card import vector_card

PUBLISHED = Path("vectors")
CONDITION = "as it is"
LIMITS = (
    "It acts on the answer alone, behind the model's own chain: of a chain that never closes nothing is steered.",
    "Its gate was fitted on SelfAware, and reads that: on other kinds of question it opens for the wrong ones "
    "([does_the_gate_transfer](../experiments/does_the_gate_transfer/)).",
    "The vector was trained towards one sentence, which it then says of whatever the gate lets through: ungated it "
    "says it of nearly everything.",
)


def main() -> None:
    """Write the vector and its card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    setting = Setting(None, asked.out / asked.model, asked.data, tuned=asked.model)
    print(publish(setting))


def publish(setting: Setting, folder: Path = PUBLISHED) -> Path:
    """Write the picked vector, which carries its gate and recommends the picked use; returns its path."""
    models = {name: setting.model(name) for name in ("base", setting.tuned)}
    tuned = models[setting.tuned]
    probes = probes_of(setting, models)[setting.tuned]
    choose = setting.items(PRIMARY, "choose")
    before = {
        name: {"choose": choosing(setting, lm, name, PRIMARY, CONDITION)} for name, lm in models.items()
    }
    place = Place(PRIMARY, CONDITION, {"choose": choose}, *before.values())
    found = [reading(tuned, probes[name], choose, choose) for name in FITTED_ON[PRIMARY]]
    way = picked(setting, tuned, place, vectors_of(setting, tuned, models["base"]), found)
    if way is None:
        raise MisuseError("no cell has the base's recall on `choose`: there is nothing to publish")
    (acting,) = (each for each in way.cell.interventions if isinstance(each, sk.Steering))
    assert isinstance(acting.gate, sk.ProbeGate)
    vector = acting.vector.renamed(f"abstain-{setting.tuned}").with_probe(acting.gate.probe)
    use = replace(acting, vector=vector)
    vector = vector.recommending(use)
    saved = vector.save(folder / f"{vector.name}.safetensors")
    card = vector_card(
        vector,
        does=f"Makes {setting.tuned} say that the answer is not known, where a gate on the prompt opens.",
        examples=[
            f'steerkit generate --model {setting.tuned} --steer {vector.name} "What will the world be like in 2300?"'
        ],
        written_by="experiments/reasoning_tax/publish_vector.py",
        facts={
            "measured here": f"`{use}`, which the name alone means",
            "licence": "Apache-2.0, as the model",
        },
        sections={"Measured": section_file(setting, "again").read_text(encoding="utf-8").split("\n\n", 1)[1]},
        limits=LIMITS,
    )
    (folder / f"{vector.name}.md").write_text(card, encoding="utf-8")
    return saved


if __name__ == "__main__":
    main()
