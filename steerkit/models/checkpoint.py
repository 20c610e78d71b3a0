"""The fingerprint of a checkpoint, read from its own files.

The parameters' names come from the transformers class built without storage, and of each weight only a few values are
read, as they are stored: rounding on load has no part in it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError
from steerkit.models.fingerprint import fingerprint


def checkpoint_fingerprint(model: str) -> str:
    """Return the fingerprint of a checkpoint (a folder, or a hub id in the local cache) without loading its weights.

    Raises InputError where the files are not a plain safetensors checkpoint of a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = local_folder(model)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        skeleton.tie_weights()
        weights = list(_weights(folder, [name for name, _ in skeleton.named_parameters()]))
    except Exception as error:  # every kind of damage ends here; what it was stands in message and cause
        raise InputError(
            f"the weights in {model} are not a plain safetensors checkpoint ({error}), so it cannot be known which "
            "vectors belong to them; STEERKIT_ALLOW_MISMATCH=1 accepts vectors by architecture and size"
        ) from error
    text = config.get_text_config()
    stand_in: Any = type(type(skeleton).__name__, (), {"named_parameters": lambda _self: weights})()
    return fingerprint(stand_in, text.num_hidden_layers, text.hidden_size)


def local_folder(model: str) -> Path:
    """Return a model's folder: itself, or a hub id's in the local cache. Raises MisuseError where there is none."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise MisuseError(
            f"no model {model!r}: name a folder, or a hub id whose files are in the local cache"
        ) from error


def _weights(folder: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Each named weight, mapped from its file and not read."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    else:
        file_of = dict.fromkeys(names, "model.safetensors")
    opened: Callable[[str], Any] = functools.cache(lambda file: safe_open(folder / file, framework="pt"))
    for name in names:
        yield name, opened(file_of[name]).get_tensor(name)
