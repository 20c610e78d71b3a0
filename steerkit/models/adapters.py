"""LoRA adapters: a low-rank change of a base model's weights, merged into them on load.

An adapter is a folder as peft writes it, `adapter_config.json` and `adapter_model.safetensors`, perhaps with a
`chat_template.jinja` that takes the place of the base's. Each adapted projection's W becomes W + scale · B A
(Hu et al. 2021, arXiv 2106.09685); after that the model is a plain one, and nothing of the adapter runs.

1. The sum is taken in double precision on the CPU and rounded once, to the format that is asked for: the merged
   weights, and with them the fingerprint, are the same on every machine.
2. What is no plain low-rank change of linear projections (DoRA, trained biases or embeddings, an initialisation
   that changed the base too) is refused: leaving it out would give another model under the same name.
3. An adapter that steerkit's own training wrote says in its header which base weights it belongs to, and is
   merged into no others.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.files import fault_of, read_tensors, read_text
from steerkit.models.fingerprint import weights_digest

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TEMPLATE_FILE = "chat_template.jinja"
HEADER_KEY = "steerkit"
FORMAT_VERSION = 1

# Options of peft that a merged model does not depend on; any other that is set and not read below is refused.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_class", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "megatron_config",
    "megatron_core", "parent_library", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
}  # fmt: skip
# Initialisations that leave the base's weights alone; the others (PiSSA, OLoRA, LoftQ, …) change them too.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")

N = TypeVar("N", int, float)

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# peft reads patterns as regular expressions, of which a foreign one could be made to take for ever.
_PLAIN_NAME = re.compile(r"\^?[\w.]+")
_MERGE_WITH_PEFT = "merge it with peft, and load the merged model"


class AdapterNote(BaseModel):
    """What steerkit's training says of an adapter, in the header of its tensors.

    `base_digest` is that of the base's weights before the merge, `data_digest` that of what it was trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    name: str = Field(min_length=1)
    base_digest: str
    summary: str = ""
    licence: str = ""
    data_digest: str = ""
    steerkit_version: str = ""


class _LoraConfig(BaseModel):
    """The options in `adapter_config.json` that are read; the rest stays in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: str
    base_model_name_or_path: str | None = None
    r: int = Field(gt=0)
    lora_alpha: FiniteFloat
    bias: str = "none"
    use_rslora: bool = False
    fan_in_fan_out: bool = False  # says how the base stores its weights, which its modules tell better
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None

    def rank(self, module: str) -> int:
        """The rank of a module's change."""
        return _of_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """What B A is multiplied by: alpha / r, or alpha / √r where it is rank-stabilised (arXiv 2312.03732)."""
        alpha, rank = _of_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, its options read and found to be such as can be merged."""

    folder: Path
    config: _LoraConfig
    note: AdapterNote | None
    chat_template: str | None

    @property
    def name(self) -> str:
        """The adapter's own name, or its folder's."""
        return self.note.name if self.note else self.folder.resolve().name

    @property
    def base(self) -> str:
        """The reference of the model that it was trained on. Raises InputError where it does not say."""
        if not self.config.base_model_name_or_path:
            raise InputError(
                f"{self.folder / CONFIG_FILE} names no base model: load_model(BASE, adapter={str(self.folder)!r})"
            )
        return self.config.base_model_name_or_path

    def merge(self, base: nn.Module, into: nn.Module) -> None:
        """Write `base`'s adapted weights plus their changes to `into`, the same model in any number format.

        Both are on the CPU, and may be one object. Nothing is written before everything is checked. Raises
        InputError where the adapter does not fit, ModelMismatchError where it was trained on other weights.
        """
        if self.note is not None and self.note.base_digest != weights_digest(base):
            raise ModelMismatchError(
                f"adapter {self.name!r} was trained on the weights of {self.config.base_model_name_or_path}, not on "
                "these: load it by itself, which loads its own base"
            )
        changes = self._changes(base)
        with torch.no_grad():
            for change in changes:
                weight = base.get_parameter(change.parameter).double()
                into.get_parameter(change.parameter).copy_(weight + change.matrix())

    def _changes(self, base: nn.Module) -> list[_Change]:
        """What is added to which weight, checked against the base and the options."""
        factors: dict[str, dict[str, Tensor]] = {}
        for key, tensor in read_tensors(self.folder / WEIGHTS_FILE, "adapter")[1].items():
            found = _FACTOR.fullmatch(key)
            if found is None:
                raise InputError(
                    f"{self.folder}: {key!r} is no factor of a linear projection: {_MERGE_WITH_PEFT}"
                )
            factors.setdefault(found["module"], {})[found["side"]] = tensor
        if not factors:
            raise InputError(f"{self.folder / WEIGHTS_FILE} changes nothing: it holds no tensor")
        uses = Counter(id(p) for _, p in base.named_parameters(remove_duplicate=False))
        changes = []
        for module, sides in factors.items():
            if sides.keys() != {"A", "B"}:
                raise InputError(f"{self.folder}: {module!r} has only one of its two factors: save it again")
            change = self._change(base, module, sides["A"], sides["B"])
            if uses[id(base.get_parameter(change.parameter))] > 1:
                raise InputError(
                    f"{self.folder} changes {module!r}, whose weight another module shares: {_MERGE_WITH_PEFT}"
                )
            changes.append(change)
        return changes

    def _change(self, base: nn.Module, module: str, down: Tensor, up: Tensor) -> _Change:
        try:
            found = base.get_submodule(module)
        except AttributeError:
            raise InputError(
                f"{self.folder} changes {module!r}, which {type(base).__name__} does not have: it belongs to another "
                "model"
            ) from None
        weight = getattr(found, "weight", None)
        stored_by_input = hasattr(found, "nf")  # GPT-2's Conv1D keeps its weight [in, out]
        if not (isinstance(found, nn.Linear) or stored_by_input) or not isinstance(weight, Tensor):
            raise InputError(f"{self.folder} changes {module!r}, which is no linear projection")
        if not weight.is_floating_point():
            raise InputError(
                f"{self.folder} changes {module!r}, which is quantised: load the base unquantised"
            )
        rank = self.config.rank(module)
        out_features, in_features = reversed(weight.shape) if stored_by_input else weight.shape
        if list(down.shape) != [rank, in_features] or list(up.shape) != [out_features, rank]:
            raise InputError(
                f"{self.folder}: the factors of {module!r} are {list(down.shape)} and {list(up.shape)}, expected "
                f"{[rank, in_features]} and {[out_features, rank]}: it belongs to another model, or its options to "
                "another adapter"
            )
        if not (down.isfinite().all() and up.isfinite().all()):
            raise InputError(f"{self.folder}: the change of {module!r} holds NaN or Inf: train it again")
        return _Change(f"{module}.weight", down, up, self.config.scale(module), stored_by_input)


@dataclass(frozen=True)
class _Change:
    """scale · B A for one weight, A `[r, in]` and B `[out, r]`; transposed where the weight is `[in, out]`."""

    parameter: str
    down: Tensor
    up: Tensor
    scale: float
    transposed: bool

    def matrix(self) -> Tensor:
        """The change in double precision, in the weight's own shape."""
        product = self.scale * (self.up.double() @ self.down.double())
        return product.T if self.transposed else product


def read_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """The adapter in a folder, its tensors left for later.

    Raises MisuseError where there is none, InputError where its files are damaged, or where it is of a kind that
    cannot be merged.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise MisuseError(f"{folder} has no {CONFIG_FILE}: it is not a LoRA adapter in peft's format")
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(
            f"{folder} has no {WEIGHTS_FILE}: save the adapter as safetensors (peft's save_pretrained does)"
        )
    try:
        config = _LoraConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
        note = read_tensors(folder / WEIGHTS_FILE, "adapter")[0].get(HEADER_KEY)
        written = None if note is None else AdapterNote.model_validate_json(note)
    except ValidationError as error:
        raise InputError(f"{folder}: the adapter's options are {fault_of(error, 'the whole')}") from error
    _check_kind(folder, config)
    if written is not None and written.format_version > FORMAT_VERSION:
        raise InputError(
            f"{folder} has adapter format {written.format_version}; this steerkit reads up to {FORMAT_VERSION}"
        )
    template = folder / TEMPLATE_FILE
    return Adapter(folder, config, written, read_text(template) if template.is_file() else None)


def published_adapters() -> dict[str, Path]:
    """Adapters that travel with the package, by name; in a checkout, those of the folder `vectors/adapters`."""
    folder = Path(str(resources.files("steerkit"))) / "published" / "adapters"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG_FILE}"))}


def adapter_folder(reference: str) -> Path | None:
    """The adapter that a model reference names: a published one, or a folder that holds one and no model."""
    if reference in (known := published_adapters()):
        return known[reference]
    folder = Path(reference)
    return folder if (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file() else None


def _check_kind(folder: Path, config: _LoraConfig) -> None:
    """Raise InputError unless the adapter is a plain low-rank change."""
    if config.peft_type != "LORA":
        raise InputError(f"{folder} is a {config.peft_type} adapter, not LoRA: {_MERGE_WITH_PEFT}")
    if config.init_lora_weights not in PLAIN_STARTS:
        raise InputError(
            f"{folder} was begun by {config.init_lora_weights!r}, which changes the base's weights too: convert it "
            "with peft's path_initial_model_for_weight_conversion"
        )
    others = sorted(name for name, value in (config.model_extra or {}).items() if value)
    if config.bias != "none":
        others.insert(0, "bias")
    if stray := [name for name in others if name not in WITHOUT_EFFECT]:
        raise InputError(f"{folder} uses peft's option {stray[0]!r}: {_MERGE_WITH_PEFT}")
    for pattern in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
        if not _PLAIN_NAME.fullmatch(pattern):
            raise InputError(
                f"{folder} has a pattern that is no module's name, {pattern!r}: {_MERGE_WITH_PEFT}"
            )
    if min((config.rank_pattern or {}).values(), default=1) < 1:
        raise InputError(f"{folder} has a rank below 1 in its rank_pattern: save it again")


def _of_pattern(patterns: Mapping[str, N] | None, module: str, default: N) -> N:
    """The value of the first pattern that names the module or the end of its path, as peft matches them."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(pattern if pattern.startswith("^") else rf"(?:.*\.)?(?:{pattern})", module):
            return value
    return default
