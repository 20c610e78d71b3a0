"""GGUF to plain float safetensors, once.

transformers dequantises a GGUF on load but marks the result as quantised and refuses to save it, so its
weights are copied into a fresh model whose config does not carry that mark.
"""

from __future__ import annotations

import copy
from pathlib import Path

from steerkit.errors import InputError


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write `gguf` as a transformers folder: float32 safetensors, config and tokenizer."""
    import torch
    import transformers

    source = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        config = copy.deepcopy(loaded.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict())
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, RuntimeError, EOFError, IndexError) as error:
        raise InputError(
            f"{gguf} cannot be read as a GGUF model ({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
            "it is damaged, or of an architecture that transformers cannot convert"
        ) from error
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
