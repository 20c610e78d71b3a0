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
    where a weight is missing."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    load = transformers.AutoModelForCausalLM.from_pretrained
    hf, found = load(source, **options, dtype=dtype, output_loading_info=True)
    if missing := found["missing_keys"]:
        raise InputError(f"it lacks {len(missing)} of its weights, such as {min(missing)}")
    return hf, tokenizer


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
