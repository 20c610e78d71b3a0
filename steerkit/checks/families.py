"""Tiny random models, one for each text-generating class of the installed transformers, made from configurations.

Sizes are shrunk by the name of their field, the same way for every class, nested configurations included: all widths
to one number, so that parts fit together; windows and chunks so far that a short prompt crosses them; per-layer lists
so that every kind of layer is kept. What that cannot know of a class stands in `OVERRIDES`, with the reason.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEADS, HEAD, LAYERS, EXPERTS, WINDOW, CHUNK, LONGEST = 64, 4, 16, 4, 4, 8, 16, 512
MOST_LAYERS = 8
SPECIAL = ("<pad>", "<s>", "</s>")
VOCABULARY = len(SPECIAL) + 256
CHAT_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"

# What a field of this name becomes, wherever it stands: the first that matches as a whole. What is smaller stays so.
SIZES: tuple[tuple[str, int | float], ...] = (
    (r"(text_|padded_|unpadded_|target_)?vocab_size(_per_layer_input)?|vocab_offset|n_words|n_token", VOCABULARY),
    (r"initializer_range|init_std", 0.2),
    (r"(\w+_)?(dropout|pdrop|dropout_prob|layerdrop|drop_path_rate|dropout_rate)", 0.0),
    (r"(original_)?max_position_embeddings|n_positions|n_ctx|max_(seq_len|sequence_length)|model_max_length", LONGEST),
    (r"(\w+_)?(sliding_window|sliding_window_size|local_window)|(attention_)?window_size", WINDOW),
    (r"(\w+_)?chunk_size|floor_scale|index_block_size|block_size|keep_window_size", CHUNK),
    (r"(\w+_)?(key_value_heads|kv_heads)|n_kv_heads", HEADS // 2),
    (r"index(er)?_(n_|num_)?heads", 2),
    (r"(linear_num_value|mamba_n|mamba_num|n_mamba)_heads", 2 * HEADS),
    (r"(\w+_)?num_(attention_|key_)?heads|n_heads?|num_head|(\w+_)?attention_heads", HEADS),
    (r"qk_head_dim", 2 * HEAD),  # with and without rotary positions
    (r"rotary_dim", HEAD // 2),
    (r"(\w+_)?head_dim|kv_channels|d_kv|d_head|mamba_d_head|dim_head|query_pre_attn_scalar", HEAD),
    (r"(\w+_)?(lora_|low_?)?rank|moe_latent_size", 16),
    (r"(ssm_)?state_size|mamba_d_state", 8),
    (r"time_step_rank|mamba_dt_rank", 4),
    (r"(\w+_)?n_groups|n_group|num_expert_group", 2),
    (r"num_(local_|total_)?experts|(moe_num|n_routed)_experts", EXPERTS),
    (r"(num_)?experts_per_tok(en)?|moe_topk|moe_top_k|top_k_experts|moe_k|num_selected_experts", 2),
    (r"topk_group|index_topk_blocks|first_k_dense_replace|num_dense_layers", 1),
    (r"index_topk", WINDOW),
    (r"(\w+_)?intermediate_size(_\w+)?|(\w+_)?ffn_dim|ffn_hidden_size|n_inner|d_ff|mlp_dim|dim_ff|mamba_d_ssm", 2 * WIDTH),
    (r"(\w+_)?hidden_(size|dim)(_per_layer_input)?|d_model|n_embd|(\w+_)?embed_dim|(\w+_)?proj(ection)?_dim", WIDTH),
    (r"output_dim|lru_width|embedding_size|emb_dim|out_dim|model_dim|width", WIDTH),
    (r"num_hidden_layers|n_layers?|num_layers|(de|en)coder_layers|num_blocks|depth|num_encoder_layers", LAYERS),
    (r"num_nextn_predict_layers|(num_mtp|mtp_num)_layers|num_kv_shared_layers", 0),
    (r"image_seq_length|num_image_tokens|mm_tokens_per_image|num_query_tokens|num_queries", 4),
)
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IMAGE = 56  # pixels
UNKNOWN_TOKEN = 1000  # ids of image tokens and the like: no prompt holds them and the model cannot say them
NOT_SHRUNK = ("architectures", "id2label", "label2id", "dtype", "transformers_version", "_name_or_path")


@dataclass(frozen=True)
class Family:
    """One class of transformers that writes text: its model type, as transformers' mappings name it, and the class."""

    name: str
    class_name: str
    conditional: bool


def families() -> dict[str, Family]:
    """Return every causal class and every conditional one of the installed transformers, each once, by name."""
    from transformers.models.auto import modeling_auto as auto

    conditional = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES | auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    found: dict[str, Family] = {}
    seen: set[str] = set()
    for mapping, is_conditional in ((auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, False), (conditional, True)):
        # Of several names of one class the longest is its own: llama4_text, not llama4.
        for name, classes in sorted(mapping.items(), key=lambda item: (-len(item[0]), item[0])):
            for class_name in (classes,) if isinstance(classes, str) else classes:
                if class_name not in seen:
                    seen.add(class_name)
                    key = name if name not in found else f"{name}.{class_name}"
                    found[key] = Family(key, class_name, is_conditional)
    return dict(sorted(found.items()))


def tiny(family: Family, seed: int = 0) -> Any:
    """Return a tiny random model of a family in evaluation mode. Raises whatever transformers does."""
    import torch
    import transformers

    cls = getattr(transformers, family.class_name)
    torch.manual_seed(seed)
    return cls(tiny_config(cls.config_class, family.name)).eval()


def tiny_config(config_class: Any, name: str) -> Any:
    """Return the class's default configuration with all sizes shrunk."""
    changes = OVERRIDES.get(name, {})
    default = config_class(**changes.get("from", {}))
    given = _shrunk(default) | TOKENS
    for path, value in changes.items():
        if path != "from":
            *parts, field = path.split(".")
            place = given
            for part in parts:
                place = place[part]
            place[field] = value
    return config_class(**given)


def _shrunk(config: Any) -> dict[str, Any]:
    """The fields of a configuration, shrunk, and those of its parts."""
    values = {k: v for k, v in config.to_dict().items() if k not in NOT_SHRUNK}
    layers = next((values[k] for k in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if values.get(k)), 0)
    kept = _kept_layers(values, layers)
    found: dict[str, Any] = {}
    for name, value in values.items():
        part = getattr(config, name, None)
        if isinstance(value, dict) and hasattr(part, "to_dict"):
            found[name] = _shrunk(part) | ({"model_type": part.model_type} if part.model_type else {})
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            found[name] = _shrunk_rope(value)
        elif isinstance(value, list) and layers and len(value) == layers:
            found[name] = _shrunk_value(name, [value[i] for i in kept])
        elif name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") and value == layers:
            found[name] = len(kept)
        else:
            found[name] = _shrunk_value(name, value)
    if values.get("kv_lora_rank"):  # latent attention has keys and values for every head
        found["num_key_value_heads"] = HEADS
    return found


def _kept_layers(values: Mapping[str, Any], layers: int) -> list[int]:
    """Which layers to keep, of `layers`: the first of each kind that the per-layer lists tell apart, and the first
    others."""
    lists = [v for v in values.values() if isinstance(v, list) and len(v) == layers]
    if not layers or not lists:
        return list(range(LAYERS))
    kinds: dict[str, int] = {}
    for layer in range(layers):
        kinds.setdefault(repr([each[layer] for each in lists]), layer)
    kept = sorted(kinds.values())[:MOST_LAYERS]
    others = (layer for layer in range(layers) if layer not in kept)
    while len(kept) < LAYERS:
        kept.append(next(others, kept[-1]))
    return sorted(kept)


def _shrunk_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(rope))
    for name, value in rope.items():
        if isinstance(value, dict):
            found[name] = _shrunk_rope(value)
        elif name == "mrope_section":
            found[name] = [2, 3, 3]
        elif name == "original_max_position_embeddings":
            found[name] = 512
    return found


def _shrunk_value(name: str, value: Any) -> Any:
    if name in TOKENS:
        return TOKENS[name]
    if value is None:
        return {"head_dim": HEAD, "num_key_value_heads": HEADS // 2}.get(name)
    if isinstance(value, bool | str | dict):
        return value
    if name in ("image_size", "img_size"):
        return IMAGE if isinstance(value, int) else [IMAGE] * len(value)
    if isinstance(value, list):
        return [_shrunk_value(name, each) for each in value]
    for pattern, size in SIZES:
        if re.fullmatch(pattern, name):
            return type(value)(min(value, size) if isinstance(value, int) else size)
    if re.fullmatch(r"\w+_(token_id|token_index|index)", name) and value >= VOCABULARY:
        return UNKNOWN_TOKEN + value % 1000
    return value


# What shrinking by name cannot know: {family: {path of a field: value}}; `from` are arguments of the default.
OVERRIDES: dict[str, dict[str, Any]] = {}


def byte_tokenizer() -> Any:
    """Return a tokenizer in which every byte is a token, with a chat template that adds almost nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    pad, bos, eos = SPECIAL
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
