"""transformers' loading, made strict and quiet: every weight must be there, and nothing is printed.

By itself transformers fills weights that a checkpoint lacks with random numbers and only logs a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steerkit.core.errors import InputError


def load_pretrained(source: str, *, dtype: Any, **options: str | bool) -> tuple[Any, Any]:
    """Model and tokenizer from what `from_pretrained` takes. Raises whatever transformers does, and InputError
    where a weight is missing.

    Where a text decoder stands inside a vision or audio model, it is loaded alone if transformers can, else with the
    whole.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    for load in _loaders(source, **options):
        hf, found = load.from_pretrained(source, **options, dtype=dtype, output_loading_info=True)
        missing = found["missing_keys"]
        if not missing:
            return hf, tokenizer
    raise InputError(f"it lacks {len(missing)} of its weights, such as {min(missing)}")


def _loaders(source: str, **options: str | bool) -> list[Any]:
    """The auto classes that may load a checkpoint: as a language model alone, else as the wrapper that it is in."""
    import transformers

    language_model = transformers.AutoModelForCausalLM
    if "gguf_file" in options:
        return [language_model]
    kind = type(transformers.AutoConfig.from_pretrained(source, **options))
    wrappers = (transformers.AutoModelForImageTextToText, transformers.AutoModelForMultimodalLM)
    found = [auto for auto in (language_model, *wrappers) if kind in auto._model_mapping]
    return found or [language_model]  # which says what it takes


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no load reports inside the block; downloads from the hub keep their own bars."""
    import transformers

    log = transformers.utils.logging
    shown, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shown:
            log.enable_progress_bar()
