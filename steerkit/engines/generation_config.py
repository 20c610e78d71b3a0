"""What a model's own generation config says of decoding: read as transformers' `generate` reads it.

A field that is None has `generate`'s default. What changes which tokens come and is no field of `Decoding` is refused
by name; fields that transformers itself has no meaning for are passed over, as `generate` passes them over.
"""

from __future__ import annotations

from typing import Any

from steerkit.core.errors import MisuseError

TOP_K = 50  # `generate`'s default: a config that names no top_k samples from 50 tokens
TAKEN = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop_strings")
WARPERS = (
    "typical_p",
    "top_h",
    "epsilon_cutoff",
    "eta_cutoff",
)  # which `generate` uses when it samples, alone
# Lengths and ends that are set elsewhere, caches, outputs, and ways to draft that leave the tokens as they are.
WITHOUT_EFFECT = {
    *(
        "max_length",
        "max_new_tokens",
        "eos_token_id",
        "pad_token_id",
        "bos_token_id",
        "decoder_start_token_id",
    ),
    *(
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "prefill_chunk_size",
        "low_memory",
    ),
    *("compile_config", "disable_compile", "continuous_batching_config", "transformers_version"),
    *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *(
        "return_dict_in_generate",
        "renormalize_logits",
        "length_penalty",
        "early_stopping",
        "diversity_penalty",
    ),
    *(
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
    ),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
    *("target_lookbehind", "assistant_ensemble_weight", "speculation_type", "use_mtp"),
}
# Values at which a setting that we do not have does nothing; None and False never do anything.
NEUTRAL = {
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1,
}


def own_decoding(config: Any, temperature: float | None = None) -> dict[str, Any]:
    """Return the fields of `Decoding` that a GenerationConfig sets; `temperature` stands before the config's own.

    Raises MisuseError for a setting that we do not have.
    """
    known = [name for name in vars(type(config)()) if not name.startswith("_")]
    given = {name: getattr(config, name) for name in known}
    said = {name: v for name, v in given.items() if v is not None and v is not False and v != []}
    if temperature is None:
        temperature = said.get("temperature", 1.0) if said.get("do_sample") else 0.0
    for name, value in said.items():
        idle = name in WARPERS and temperature == 0
        if name not in TAKEN and name not in WITHOUT_EFFECT and not idle and value != NEUTRAL.get(name):
            raise MisuseError(
                f"the model's generation config sets {name} to {str(value)[:80]}, which is not supported: leave out "
                "--decoding model and give the settings that you want"
            )
    stop = said.get("stop_strings", ())
    fields = {
        "temperature": temperature,
        "stop": stop,
        "repetition_penalty": said.get("repetition_penalty", 1.0),
    }
    if temperature > 0:
        fields |= {
            "top_k": said.get("top_k", TOP_K),
            "top_p": said.get("top_p", 1.0),
            "min_p": said.get("min_p", 0.0),
        }
    return fields
