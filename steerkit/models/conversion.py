"""GGUF to plain float safetensors, once.

transformers dequantises a GGUF on load but marks the result as quantised and refuses to save it, so its
weights are copied into a fresh model whose config does not carry that mark.
"""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stderr
from pathlib import Path

from steerkit.core.errors import InputError
from steerkit.models.pretrained import load_pretrained, quiet_transformers


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write `gguf` as a transformers folder: float32 safetensors, config and tokenizer."""
    import torch

    with quiet_transformers(), redirect_stderr(io.StringIO()):  # its dequantising bar has no other switch
        try:
            loaded, tokenizer = load_pretrained(
                str(gguf.parent), dtype=torch.float32, gguf_file=gguf.name, local_files_only=True
            )
        except Exception as error:  # a foreign parser: damage shows as whatever it stumbles over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{gguf} cannot be read as a GGUF model ({reason}): it is damaged, or of an architecture that "
                "transformers cannot convert"
            ) from error
        config = copy.deepcopy(loaded.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict())
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
