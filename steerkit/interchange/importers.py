"""Vectors of other tools as steerkit vectors: repeng, llama.cpp, `.svec`, CAA, persona vectors, TransformerLens.

What a foreign file calls a layer, and where that layer goes:

    GGUF `direction.N`            the output of block N, where llama.cpp and repeng add it        layer N
    `.svec` directions[N]         hidden_states[N + 1]                                            layer N
    CAA `vec_layer_N….pt`         the output of block N                                           layer N
    persona vectors, row N        hidden_states[N], row 0 being the embeddings                    layer N - 1
    TransformerLens caches        `blocks.N.hook_resid_post` (or hook_out, or N + 1's resid_pre)  layer N

Hugging Face's last hidden state has passed the final norm. A persona vector's last row comes from it, so it is
left out; repeng's and `.svec`'s last layer does too, but they steer there all the same, and so it is kept.
Files made by llama.cpp's own `cvector-generator` were fitted one block below the layer at which llama.cpp adds
them; what is imported is what llama.cpp does with them.

No such file says which weights it was made on: the caller names the model, and its sizes must fit. A layer that
a file lacks is zero. Pickled files are read with `weights_only`, so they hold tensors or are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.registry import ESTIMATORS
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel

CAA_NAME = re.compile(r"vec_layer_(\d+)(?:_|$)")
CACHE_NAMES = (
    (re.compile(r"blocks\.(\d+)\.hook_(?:resid_post|out)"), 0),
    (re.compile(r"blocks\.(\d+)\.hook_resid_pre"), -1),
)
FORMATS = "a repeng or llama.cpp .gguf, an .svec, or a .pt of CAA or persona vectors"
Directions = dict[int, Tensor]


def import_vector(
    path: str | os.PathLike[str], lm: LanguageModel, name: str | None = None, *, layer: int | None = None
) -> SteeringVector:
    """The vector in a foreign file, for `lm`; the format is told by suffix and contents.

    A folder is taken for CAA's: one `vec_layer_N….pt` a layer. `layer` says where a single direction `[d_model]`
    belongs if its file's name does not.
    Raises MisuseError for a missing file or an unknown format, InputError for a damaged one, ModelMismatchError
    where sizes differ from the model's.
    """
    path = Path(path)
    if not path.exists():
        raise MisuseError(f"no file {path}: name {FORMATS}")
    source, directions = _read(path, layer, lm)
    if not directions:
        raise InputError(f"{path} holds no direction")
    return _vector(directions, lm, name or path.stem, source, str(path))


def import_caches(
    positive: str | os.PathLike[str] | Mapping[str, Tensor],
    negative: str | os.PathLike[str] | Mapping[str, Tensor],
    lm: LanguageModel,
    name: str = "caches",
    *,
    position: int | Sequence[int] = -1,
    method: str = "mean-difference",
) -> SteeringVector:
    """A direction from two TransformerLens caches, of the positive and of the negative texts.

    A cache is an `ActivationCache`, its `cache_dict`, or a `.pt` file of that: hook name to `[text, position,
    d_model]` (or `[position, d_model]` of a single text). `position` is where each text is read: one number for
    all, which with padded texts must be -1 and the padding on the left, or one a text. `method` as in `extract`.
    """
    if method not in ESTIMATORS:
        raise MisuseError(f"unknown method {method!r}: it is one of {', '.join(ESTIMATORS)}")
    states = [_cache_states(cache, lm, position) for cache in (positive, negative)]
    shared = states[0].keys() & states[1].keys()
    if not shared:
        raise InputError("the two caches have no residual stream in common: cache blocks.N.hook_resid_post")
    directions = {}
    for layer in sorted(shared):
        up, down = (side[layer] for side in states)
        if method == "pca" and len(up) != len(down):
            raise MisuseError(f"pca takes pairs, but the caches hold {len(up)} and {len(down)} texts")
        directions[layer] = ESTIMATORS[method].direction(up, down)
    vector = _vector(directions, lm, name, method, "the caches")
    metadata = vector.metadata.model_copy(update={"scaling": "gap", "aggregation": "last"})
    return SteeringVector(vector.direction, metadata)


def _vector(directions: Directions, lm: LanguageModel, name: str, source: str, where: str) -> SteeringVector:
    """The directions, zero where there is none, with what is known of them."""
    direction = torch.zeros(lm.n_layers, lm.d_model)
    for layer, values in directions.items():
        if values.shape != (lm.d_model,):
            raise ModelMismatchError(
                f"{where}: layer {layer} has shape {list(values.shape)}, but {lm.name} has width {lm.d_model}: name "
                "the model that the vector was made on"
            )
        if not 0 <= layer < lm.n_layers:
            raise ModelMismatchError(
                f"{where}: there is a direction for layer {layer}, but {lm.name} has layers 0 to {lm.n_layers - 1}: "
                "name the model that the vector was made on"
            )
        direction[layer] = values.float().cpu()
    if not direction.any():
        raise InputError(f"{where}: every direction is zero")
    metadata = VectorMetadata(
        name=name,
        model=lm.name,
        fingerprint=lm.fingerprint,
        method=source,
        aggregation="unknown",
        scaling="trained",
        steerkit_version=version("steerkit"),
    )
    return SteeringVector(direction, metadata)


def _read(path: Path, layer: int | None, lm: LanguageModel) -> tuple[str, Directions]:
    """What made the file, and its directions by our layers."""
    if path.is_dir():
        files = [(int(match[1]), file) for file in path.glob("*.pt") if (match := CAA_NAME.match(file.stem))]
        if len(files) != len({number for number, _ in files}):
            raise MisuseError(f"{path} has several files for one layer: leave those of one model in it")
        return "caa", {number: _one_direction(file) for number, file in files}
    if path.suffix == ".gguf":
        return "gguf", _read_gguf(path)
    if path.suffix == ".svec":
        return "svec", _read_svec(path)
    if path.suffix in (".pt", ".pth"):
        return _read_pt(path, layer, lm)
    raise MisuseError(f"{path} is of no known format: name {FORMATS}")


def _read_gguf(path: Path) -> Directions:
    import gguf

    try:
        tensors = {
            tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in gguf.GGUFReader(path).tensors
        }
    except Exception as error:  # a foreign parser: damage shows as whatever it stumbles over
        raise InputError(
            f"{path} cannot be read as GGUF ({error}): it is damaged, or no GGUF file"
        ) from error
    try:
        directions = {
            int(name.removeprefix("direction.")): tensor
            for name, tensor in tensors.items()
            if name.startswith("direction.")
        }
    except ValueError as error:
        raise InputError(f"{path}: {error} in the name of a direction") from error
    if not directions:
        raise InputError(f"{path} has no direction.N: it is no control vector (a model, perhaps)")
    return {layer: tensor for layer, tensor in directions.items() if tensor.any()}


def _read_svec(path: Path) -> Directions:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        directions = {int(key): torch.tensor(values) for key, values in content["directions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no readable .svec file ({type(error).__name__}: {error})") from error
    for layer, values in directions.items():
        if values.ndim == 2 and len(values) > 1:  # per position, per head, or the two axes of a plane
            raise InputError(
                f"{path}: layer {layer} holds {len(values)} directions; a steering vector has one a layer"
            )
    return {layer: values.flatten() for layer, values in directions.items()}


def _read_pt(path: Path, layer: int | None, lm: LanguageModel) -> tuple[str, Directions]:
    content = _load(path)
    if isinstance(content, Tensor) and content.ndim == 1:
        match = CAA_NAME.match(path.stem)
        if layer is None and match is None:
            raise MisuseError(
                f"{path} is one direction, and its name does not say for which layer: pass --layer"
            )
        return "caa", {layer if layer is not None else int(match[1]): content}  # type: ignore[index]
    if isinstance(content, Tensor) and content.ndim == 2:
        if len(content) != lm.n_layers + 1:
            raise ModelMismatchError(
                f"{path} has {len(content)} rows; a persona vector for {lm.name} has {lm.n_layers + 1}, the "
                "embeddings' first: name the model that it was made on"
            )
        return "persona", dict(enumerate(content[1:-1]))
    if isinstance(content, Mapping) and _cached_layers(content):
        raise MisuseError(
            f"{path} is a TransformerLens cache, which is one side: give both, with --negative FILE.pt"
        )
    raise MisuseError(f"{path} is of no known format: name {FORMATS}")


def _one_direction(path: Path) -> Tensor:
    content = _load(path)
    if not isinstance(content, Tensor) or content.ndim != 1:
        raise InputError(f"{path} is not one direction")
    return content


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in as many ways as there are kinds of damage
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} cannot be read safely ({reason}): save it again as plain tensors, a dict or list at most"
        ) from error


def _cached_layers(cache: Mapping[str, Any]) -> dict[int, str]:
    """Hook names of the residual stream by our layers; a block's own output goes before the next one's input."""
    found: dict[int, str] = {}
    for pattern, shift in CACHE_NAMES:
        for name in cache.keys():  # noqa: SIM118  (an ActivationCache iterates over something else)
            if (
                isinstance(name, str)
                and (match := pattern.fullmatch(name))
                and (layer := int(match[1]) + shift) >= 0
            ):
                found.setdefault(layer, name)
    return found


def _cache_states(
    source: str | os.PathLike[str] | Mapping[str, Tensor], lm: LanguageModel, position: int | Sequence[int]
) -> dict[int, Tensor]:
    """States `[text, d_model]` by layer, read at `position`."""
    cache = _opened_cache(source)
    states = {}
    for layer, name in _cached_layers(cache).items():
        values = cache[name]
        values = values[None] if values.ndim == 2 else values
        if values.ndim != 3 or values.shape[2] != lm.d_model:
            raise ModelMismatchError(
                f"{name} has shape {list(values.shape)}, but {lm.name} has width {lm.d_model}: name the model that "
                "was cached"
            )
        try:
            states[layer] = values[torch.arange(len(values)), torch.as_tensor(position)].float().cpu()
        except IndexError as error:
            raise MisuseError(
                f"{name} holds {len(values)} texts of {values.shape[1]} positions: {error}"
            ) from error
    return states


def _opened_cache(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(source, str | os.PathLike):
        return source
    if not Path(source).is_file():
        raise MisuseError(f"no file {source}: name a .pt with a TransformerLens cache")
    cache = _load(Path(source))
    if not isinstance(cache, Mapping):
        raise InputError(f"{source} is no TransformerLens cache: that is a dict by hook name")
    return cache
