"""transformers' loading, made strict and quiet: every weight must be there, and nothing is printed.

By itself transformers fills weights that a checkpoint lacks with random numbers and only logs a table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from steerkit.core.errors import InputError, MisuseError

UNBOUNDED = 2**31 - 1


def longest_context(config: Any, tokenizer: Any) -> int:
    """Return the most tokens that a model was made to read; 2³¹ − 1 where neither config nor tokenizer says."""
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    declared = next(filter(None, named), tokenizer.model_max_length)
    return min(int(declared), UNBOUNDED)


def load_pretrained(
    source: str, *, dtype: Any, placed: Mapping[str, Any] = MappingProxyType({}), **options: str | bool
) -> tuple[Any, Any]:
    """Model and tokenizer from what `from_pretrained` takes, of which `placed` is for the model alone.

    Where a text decoder stands inside a vision or audio model, it is loaded alone if transformers can, else with the
    whole. Raises whatever transformers does, InputError where a weight is missing, and MisuseError where weights that
    are quantised already are to be quantised.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    loaders = [transformers.AutoModelForCausalLM]
    if "gguf_file" not in options:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if "quantization_config" in placed and getattr(config, "quantization_config", None) is not None:
            raise MisuseError(f"{source} is quantised already: leave quantization out")
        loaders = _loaders(config)
    for load in loaders:
        hf, found = load.from_pretrained(source, **options, **placed, dtype=dtype, output_loading_info=True)
        missing = found["missing_keys"]
        if not missing:
            return hf, tokenizer
    raise InputError(f"it lacks {len(missing)} of its weights, such as {min(missing)}")


def _loaders(config: Any) -> list[Any]:
    """The auto classes that may load a checkpoint: as a language model alone, else as the wrapper that it is in."""
    import transformers

    language_model = transformers.AutoModelForCausalLM
    wrappers = (transformers.AutoModelForImageTextToText, transformers.AutoModelForMultimodalLM)
    found = [auto for auto in (language_model, *wrappers) if type(config) in auto._model_mapping]
    return found or [language_model]  # which says what it takes


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no load reports inside the block; downloads from the hub keep their own bars."""
    import transformers

    log = transformers.utils.logging
    shown, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    offloading = logging.getLogger("accelerate.big_modeling")
    level = offloading.level
    offloading.setLevel(logging.ERROR)
    try:
        yield
    finally:
        offloading.setLevel(level)
        log.set_verbosity(verbosity)
        if shown:
            log.enable_progress_bar()
