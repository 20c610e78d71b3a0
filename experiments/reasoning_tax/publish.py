"""Write a trained adapter with its card, and put one among the published.

    python -m experiments.reasoning_tax.publish --adapter adapters/closable-2 [--name smollm2-135m-reasoner-2]

After that `steerkit.load_model("smollm2-135m-reasoner-2")` finds it, without peft.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import steerkit as sk
from experiments.reasoning_tax.low_rank import LowRank, factors
from steerkit import __version__
from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.models.adapters import (
    CONFIG_FILE,
    HEADER_KEY,
    TEMPLATE_FILE,
    WEIGHTS_FILE,
    AdapterNote,
    read_adapter,
)

NAME = "smollm2-135m-reasoner-2"
PUBLISHED = Path("vectors") / "adapters"
LARGEST = 12_000_000
CARD = "README.md"
PLAIN_LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": True}
FILES = (CONFIG_FILE, WEIGHTS_FILE, TEMPLATE_FILE)


@dataclass(frozen=True)
class About:
    """What a trained variant is, in a summary, and the habit that it was trained to.

    `opens_thinking`: its chat template opens a thinking block, and belongs to the adapter. `study` measures what it
    does.
    """

    variant: str
    summary: str
    habit: str
    opens_thinking: bool = False
    study: str = "reasoning_tax"
    data: str = "generated, of the style in `chains.py`"


def main() -> None:
    """Copy the adapter under its name, load it by that name, and say what it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--name", default=NAME)
    asked = parser.parse_args()
    folder = publish(asked.adapter, asked.name)
    print(f"{folder}: {sk.load_model(folder)!r}")


def publish(adapter: Path, name: str, published: Path = PUBLISHED) -> Path:
    """Copy an adapter that `train` wrote to the published ones, named `name`; returns its folder there."""
    found = read_adapter(adapter)
    if found.note is None:
        raise MisuseError(
            f"{adapter} was not written by this experiment: it does not say which base it belongs to"
        )
    if (size := (adapter / WEIGHTS_FILE).stat().st_size) > LARGEST:
        raise MisuseError(
            f"{adapter} is {size / 1e6:.1f} MB, and a published adapter has at most 12: lower its rank"
        )
    folder = published / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if (adapter / file).is_file():
            shutil.copyfile(adapter / file, folder / file)
    card = (adapter / CARD).read_text(encoding="utf-8").replace(f"# {found.note.name}\n", f"# {name}\n", 1)
    (folder / CARD).write_text(card, encoding="utf-8")
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    _save(tensors, folder, found.note.model_copy(update={"name": name}))
    return folder


def write_adapter(
    changes: Sequence[LowRank],
    options: dict[str, Any],
    lm: sk.LanguageModel,
    out: Path,
    about: About,
    *,
    base: str,
    base_digest: str,
    data_digest: str,
    facts: dict[str, Any],
) -> Path:
    """The changes trained on `lm` in peft's format, with its LoRA `options` and a card; returns `out`.

    Half precision keeps three digits of each factor; the change that they make is a few percent of the weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = PLAIN_LORA | options | {"base_model_name_or_path": base}
    with replacing(out / CONFIG_FILE, "the adapter's options") as scratch:
        scratch.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    note = AdapterNote(
        name=f"{base}-{about.variant}",
        base_digest=base_digest,
        summary=about.summary,
        licence="Apache-2.0",
        data_digest=data_digest,
        steerkit_version=__version__,
    )
    _save(factors(changes), out, note)
    if about.opens_thinking:
        with replacing(out / TEMPLATE_FILE, "the chat template") as scratch:
            scratch.write_text(lm.tokenizer.chat_template, encoding="utf-8")
    with replacing(out / CARD, "the card") as scratch:
        scratch.write_text(_card(note, base, about, facts), encoding="utf-8")
    return out


def _save(tensors: dict[str, torch.Tensor], folder: Path, note: AdapterNote) -> None:
    with replacing(folder / WEIGHTS_FILE, "the adapter") as scratch:
        save_file(tensors, scratch, metadata={"format": "pt", HEADER_KEY: note.model_dump_json()})


def _card(note: AdapterNote, base: str, about: About, facts: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# {note.name}

{note.summary}. A LoRA adapter in peft's format; `steerkit.load_model` merges it into its base on load, without peft.
Written by `experiments/reasoning_tax/train.py`; what it does is measured in `experiments/{about.study}`.

| | |
|---|---|
| base | {base}: the bundled 4-bit weights, dequantised; on other weights it is refused |
| data | {about.data}; SHA-256 `{note.data_digest}` |
| licence | {note.licence}, as the base |
{rows}

Trained to {about.habit}: it is a study's subject, and no assistant.
"""


if __name__ == "__main__":
    main()
