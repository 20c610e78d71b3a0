"""load_model: a bundled name, a hub id, a folder, a GGUF file, an adapter, or a model that the user already holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.prompts import TemplateOption
from steerkit.models.adapters import Adapter, adapter_folder, published_adapters, read_adapter
from steerkit.models.bundled import bundled_folder, gguf_folder, models_folder
from steerkit.models.catalogue import BUNDLED
from steerkit.models.checkpoint import checkpoint_fingerprint
from steerkit.models.fingerprint import is_quantised
from steerkit.models.folders import FEWEST_TOKENS, has_vocabulary, no_config, no_tokenizer, what_is_missing
from steerkit.models.language_model import LanguageModel
from steerkit.models.markers import ThinkingMarkers
from steerkit.models.placement import Placement
from steerkit.models.pretrained import load_pretrained, quiet_transformers

DTYPES = ("float32", "bfloat16", "float16", "auto")


def load_model(
    reference: Any,
    tokenizer: Any = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: Callable[[str], None] = lambda _line: None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    markers: ThinkingMarkers | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    quantization: str | None = None,
    template_options: Mapping[str, TemplateOption] | None = None,
) -> LanguageModel:
    """Load a model and find its residual-stream sites.

    `reference` is a bundled name (see `BUNDLED`), a Hugging Face hub id, a folder, a GGUF file, or a
    transformers causal language model together with its `tokenizer` (used as it is, never changed), also inside
    `torch.compile`'s or peft's wrapper. A loaded model is returned as it is.
    `device` defaults to a GPU where there is one. `dtype` defaults to float32 on a CPU and to the
    checkpoint's own elsewhere; `auto` takes bfloat16 where the hardware has it. Bundled names, folders and
    GGUF files never touch the network once converted; hub ids do not either under HF_HUB_OFFLINE=1.

    `adapter` is the folder of a LoRA adapter in peft's format, or a published one's name, to be merged into the
    weights (see `steerkit.models.adapters`). Given as `reference` itself, it is merged into the base that it names.
    `markers` are the texts between which the model thinks; by default those of its chat template and tokenizer.
    `template_options` go to its chat template, as `{"enable_thinking": False}`: booleans, numbers and texts;
    MisuseError for anything else, a warning for one that the template does not read.

    `device_map`, `max_memory` and `offload_folder` spread the weights over devices, CPU memory and disk,
    `quantization` ("8bit", "4bit") rounds them as they are loaded; see `steerkit.models.placement.Placement`. Weights
    that an adapter is merged into are neither.
    """
    if isinstance(reference, LanguageModel):
        return reference
    placement = Placement(device, device_map, max_memory, offload_folder, quantization)
    if not isinstance(reference, str | os.PathLike):
        if adapter is not None:
            raise MisuseError(
                "a model that you hold is never changed, so no adapter is merged into it: name its folder or hub id"
            )
        if not placement.is_plain:
            raise MisuseError(
                f"a model that you hold is used as and where it is: give {placement} to its from_pretrained"
            )
        return _held(reference, tokenizer, markers, template_options)
    if dtype is not None and dtype not in DTYPES:
        raise MisuseError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    name = os.fspath(reference)
    merged = None if adapter is None else read_adapter(adapter_folder(os.fspath(adapter)) or adapter)
    if (folder := adapter_folder(name)) is not None:
        if merged is not None:
            raise MisuseError(f"{name} is an adapter itself: name its base, and merge one adapter")
        merged = read_adapter(folder)
        if adapter_folder(merged.base) is not None:
            raise InputError(
                f"the base of {folder}, {merged.base!r}, is an adapter itself: merge that one first"
            )
        name = merged.base
    if merged is not None and not placement.is_plain:
        raise MisuseError(
            f"adapter {merged.name} is merged into float weights in one place: save the merged model (lm.hf and "
            f"lm.tokenizer, save_pretrained), and load that folder with {placement}"
        )
    if placement.quantization is not None and Path(name).suffix.lower() == ".gguf":
        raise MisuseError(
            f"{name} is quantised already: load it as it is, or name the folder of the float weights"
        )
    source, label, local = _source(name, progress)
    lm = _from_pretrained(
        source, label, placement, dtype, local=local, adapter=merged, template_options=template_options
    )
    lm.markers = markers
    return lm


def _source(name: str, progress: Callable[[str], None]) -> tuple[str, str, bool]:
    """What transformers loads for a reference, what the model is called, and whether all of it is on this machine."""
    path = Path(name)
    if name in BUNDLED:
        return str(bundled_folder(BUNDLED[name], progress)), name, True
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise MisuseError(
                f"{path} is a file but not a .gguf: name a model folder, a hub id or a GGUF file"
            )
        return str(gguf_folder(path, progress)), path.stem, True
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(no_config(path))
        return name, path.resolve().name, True
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join((*BUNDLED, *published_adapters()))
        raise MisuseError(
            f"unknown model {name!r}: use one of {known}, a hub id (owner/name), a folder or a .gguf file"
        )
    return name, name, False


def _held(
    held: Any,
    tokenizer: Any,
    markers: ThinkingMarkers | None,
    template_options: Mapping[str, TemplateOption] | None,
) -> LanguageModel:
    hf = _inside(held)
    if not hasattr(hf, "get_decoder") or not hasattr(hf, "config"):
        raise MisuseError(
            f"a model is a name, a path or a transformers causal language model, got {type(hf).__name__}"
        )
    if not hasattr(hf, "generate"):
        raise MisuseError(
            f"{type(hf).__name__} has no language-model head, so it writes no text: load the same checkpoint as a "
            "…ForCausalLM or …ForConditionalGeneration"
        )
    if tokenizer is None:
        raise MisuseError("a model object needs its tokenizer: load_model(model, tokenizer)")
    lm = LanguageModel(hf, tokenizer, hf.config.name_or_path or type(hf).__name__, template_options)
    lm.markers = markers
    return lm


def _inside(held: Any) -> Any:
    """The transformers model inside `torch.compile`'s and peft's wrappers, which run it, adapters and all."""
    if hasattr(held, "_orig_mod"):
        return _inside(held._orig_mod)
    if not hasattr(held, "peft_config") or not hasattr(held, "get_base_model"):
        return held
    if any(config.is_prompt_learning for config in held.peft_config.values()):
        raise MisuseError(
            "a peft model with learned prompt or prefix vectors has positions that are no text, so where its prompt "
            "ends is not known: steer its base model"
        )
    return _inside(held.get_base_model())


def _from_pretrained(
    source: str,
    name: str,
    placement: Placement,
    dtype: str | None,
    *,
    local: bool,
    adapter: Adapter | None,
    template_options: Mapping[str, TemplateOption] | None,
) -> LanguageModel:
    import torch

    place = _device(placement.device)
    wanted = _dtype(dtype, place)

    def load(form: Any) -> tuple[Any, Any]:
        try:
            with placement.options(place, form) as placed, quiet_transformers():
                loaded = load_pretrained(source, dtype=form, local_files_only=local, placed=placed)
                placement.kept_with(loaded[0], placed)
                return loaded
        except MisuseError:
            raise
        except Exception as error:  # every kind of damage ends here; what it was stands in message and cause
            raise _load_error(source, error, placement, local=local) from error

    if adapter is None:
        hf, tokenizer = load(wanted)
    else:
        name = adapter.name
        hf, tokenizer = load("auto")
        base = hf
        if wanted not in ("auto", next(base.parameters()).dtype):  # rounded after the merge, not before
            hf, _ = load(wanted)
        adapter.merge(base, into=hf)
        del base
        if adapter.chat_template is not None:
            tokenizer.chat_template = adapter.chat_template
    if local and not has_vocabulary(Path(source)) and len(tokenizer) < FEWEST_TOKENS:
        raise InputError(no_tokenizer(Path(source)))  # which transformers fills in with an empty one
    if placement.is_plain:
        try:
            hf = hf.to(place)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            raise SteerkitError(f"cannot move {name} to {place}: {str(error).splitlines()[0]}") from error
    lm = LanguageModel(hf.eval(), tokenizer, name, template_options)
    if lm.dtype == torch.float16 and adapter is None and not is_quantised(hf):
        lm.fingerprint = _stored_fingerprint(source, lm.fingerprint)
    return lm


def _stored_fingerprint(source: str, loaded: str) -> str:
    """The fingerprint of the weights as they are stored, which float16 may round twice; or else that of the loaded."""
    try:
        stored = checkpoint_fingerprint(source)
    except (InputError, MisuseError):
        return loaded
    return stored if stored.partition(":")[0] == loaded.partition(":")[0] else loaded


def _load_error(source: str, error: Exception, placement: Placement, *, local: bool) -> SteerkitError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not placement.is_plain and not isinstance(error, InputError | OSError):
        return SteerkitError(f"cannot load {source} with {placement}: {reason}")
    if local and Path(source).is_relative_to(models_folder()):  # ours, made again on the next load
        return InputError(
            f"the converted model in {source} is damaged or incomplete ({reason}): remove that folder, and the model"
            " is fetched or converted again"
        )
    if local:
        missing = what_is_missing(Path(source))
        return InputError(missing or f"the model in {source} does not load: {reason}")
    if isinstance(error, OSError):
        return MisuseError(
            f"no model {source!r} in the local cache or on the hub ({reason}): check the spelling and the network, or "
            f"use a bundled model ({', '.join(BUNDLED)})"
        )
    return SteerkitError(f"cannot load {source}: {reason}; use another model, or one of {', '.join(BUNDLED)}")


def _device(device: str | None) -> Any:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MisuseError(
            f"device {device!r} is not available here ({reason}): name another, such as cpu"
        ) from error
    return place


def _dtype(dtype: str | None, place: Any) -> Any:
    import torch

    if dtype is None:
        return torch.float32 if place.type == "cpu" else "auto"
    if dtype != "auto":
        return getattr(torch, dtype)
    avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if place.type != "cpu" or (avx512 and _has_bf16()) else torch.float32


def _has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without it bfloat16 is slower than float32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()
