"""Directions by layer, as many tools keep them: a dict from layer to tensor, or a list of one tensor a layer.

A key is a layer's number, or a name that holds one number (`layer_14`, `model.layers.14`, `blocks.14.hook_resid_post`);
a negative one counts from the last layer. Key N is taken for the output of decoder block N. A list has a direction a
layer, or one more, as hidden states have: then the first is the embeddings', and the last, which has passed the final
norm, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.core.errors import InputError, ModelMismatchError
from steerkit.core.files import read_tensors
from steerkit.interchange.base import importer, read_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models import LanguageModel

SAFETENSORS = ".safetensors"


@importer("by-layer", ".pt", ".pth", ".bin", SAFETENSORS)
def read(path: Path, lm: LanguageModel, layer: int | None) -> Mapping[int, Tensor] | None:
    """Return the directions by layer; None for another kind of file.

    Raises InputError for keys that name no layer and values that are no directions, ModelMismatchError for a list that
    is neither as long as the model has layers nor one longer.
    """
    del layer
    content = read_tensors(path, "vector")[1] if path.suffix.lower() == SAFETENSORS else read_pickled(path)
    content = _inner(content)
    if isinstance(content, Mapping):
        if not any(hasattr(value, "ndim") or _numbers(key) for key, value in content.items()) and content:
            return None
        return {
            _layer(key, lm.n_layers, path): _direction(value, f"{path}: {key!r}")
            for key, value in content.items()
        }
    if not isinstance(content, Sequence):
        return None
    states = list(content)
    if len(states) not in (lm.n_layers, lm.n_layers + 1):
        raise ModelMismatchError(
            f"{path} is a list of {len(states)}, and {lm.name} has {lm.n_layers} layers: name the model that it was "
            "made on, or save a dict from layer to direction"
        )
    if len(states) > lm.n_layers:
        states = states[1:-1]
    return {number: _direction(value, f"{path}: number {number}") for number, value in enumerate(states)}


def _inner(content: Any) -> Any:
    """The one dict or list among other things, as in `{"directions": {…}, "model": …}`; else the content itself."""
    if isinstance(content, Mapping) and not any(hasattr(value, "ndim") for value in content.values()):
        nested = [each for each in content.values() if isinstance(each, Mapping | list) and len(each)]
        if len(nested) == 1:
            return _inner(nested[0])
    return content


def _layer(key: object, layers: int, path: Path) -> int:
    """The layer that a key means."""
    numbers = _numbers(key)
    if len(numbers) != 1:
        raise InputError(f"{path}: the key {key!r} names no layer: save a dict from layer to direction")
    number = int(numbers[0])
    return number + layers if number < 0 else number


def _numbers(key: object) -> list[str]:
    """The numbers that a key holds."""
    if isinstance(key, str):
        return [key] if re.fullmatch(r"-\d+", key) else re.findall(r"\d+", key)
    return [str(key)] if isinstance(key, int) and not isinstance(key, bool) else []


def _direction(value: Any, where: str) -> Tensor:
    """The value as one direction `[d_model]`; axes of length 1 are left out."""
    if not hasattr(value, "ndim") or not hasattr(value, "squeeze"):
        raise InputError(f"{where} holds a {type(value).__name__}: save tensors, a direction each")
    direction: Tensor = value.squeeze() if value.ndim > 1 else value
    if direction.ndim != 1:
        raise InputError(
            f"{where} has the shape {list(value.shape)}; a steering vector has one direction a layer"
        )
    return direction
