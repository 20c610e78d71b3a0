"""What a model folder lacks: said where it does not load, with what to do, which is never to delete it."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEXES = tuple(f"{name}.index.json" for name in WEIGHTS)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# What a tokenizer's words come from, in the formats that transformers reads.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken")
OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.gguf", "*.h5")
POINTER = b"version https://git-lfs"
FEWEST_TOKENS = 100  # a tokenizer without a vocabulary of its own, one of bytes, has more


def no_config(folder: Path) -> str:
    """Return what a folder without a config.json is, and what to name instead."""
    below = sorted(path.parent.name for path in folder.glob("*/config.json"))
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if not any(folder.iterdir()):
        return f"{folder} has no config.json, for it is empty: name a folder that a model was saved to"
    if below:
        return f"{folder} has no config.json, but its folder {below[-1]} has: name that, {folder / below[-1]}"
    if ggufs:
        return f"{folder} has no config.json, but holds a GGUF: name the file, {folder / ggufs[0]}"
    return f"{folder} has no config.json: it is not a transformers model folder, or it was not saved whole"


def what_is_missing(folder: Path) -> str | None:
    """Return what a folder lacks of a model, or what in it is damaged, and the remedy; None where all seems there."""
    found = (_pointer(folder), _config(folder), _weights(folder), _damaged(folder), _tokenizer(folder))
    return next(filter(None, found), None)


def has_vocabulary(folder: Path) -> bool:
    """Return whether any file of a tokenizer's words is there."""
    return any(any(folder.glob(name)) for name in VOCABULARIES)


def no_tokenizer(folder: Path) -> str:
    """Return the line for a folder without a tokenizer."""
    lacking = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    return (
        f"{folder} has no tokenizer files ({', '.join(lacking)}): copy those of the model that it was made from into "
        "it, or save its tokenizer there with save_pretrained"
    )


def _pointer(folder: Path) -> str | None:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    return f"{path} is a pointer of Git LFS in place of the file: run git lfs pull in its repository"
    return None


def _config(folder: Path) -> str | None:
    if (fault := _json_fault(folder / "config.json")) is not None:
        return fault
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not config.get("model_type"):
        return f"{folder / 'config.json'} names no model_type, as that of a causal language model does"
    return None


def _weights(folder: Path) -> str | None:
    indexes = [folder / name for name in INDEXES if (folder / name).is_file()]
    for index in indexes:
        if (fault := _json_fault(index)) is not None:
            return fault
        content = json.loads(index.read_text(encoding="utf-8"))
        named = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(named, dict):
            return f"{index} has no weight_map, which says where each weight is: fetch it again"
        if lacking := sorted({file for file in named.values() if not (folder / str(file)).is_file()}):
            return f"{folder} lacks {len(lacking)} of its weight files, {', '.join(lacking[:3])}: fetch them again"
    if indexes or any((folder / name).is_file() for name in WEIGHTS):
        return None
    if shards := sorted(path.name for path in folder.glob("*-of-*.safetensors")):
        return f"{folder} has the weights {shards[0]}, …, but no {INDEXES[0]} that says what is in them: fetch that too"
    others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
    there = f"; {others[0]} is none of them" if others else ""
    return f"{folder} has no weights ({' or '.join(WEIGHTS)}){there}: save or fetch the whole model"


def _damaged(folder: Path) -> str | None:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{path} is damaged or cut short ({' '.join(str(error).split())}): fetch or save that file again"
    return None


def _tokenizer(folder: Path) -> str | None:
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and (fault := _json_fault(folder / name)) is not None:
            return fault
    return None if has_vocabulary(folder) else no_tokenizer(folder)


def _json_fault(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"{path} is damaged ({' '.join(str(error).split())}): fetch or save that file again"
    return None
