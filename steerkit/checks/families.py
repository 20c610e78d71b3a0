"""Tiny random models, one for each text-generating class of the installed transformers, made from configurations.

Sizes are shrunk by the name of their field, the same way for every class, nested configurations included: all widths
to one number, so that parts fit together; windows and chunks so far that a short prompt crosses them; per-layer lists
so that every kind of layer is kept. What that cannot know of a class stands in `OVERRIDES`, with the reason.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDTH, HEADS, HEAD, LAYERS, EXPERTS, WINDOW, CHUNK, LONGEST = 64, 4, 16, 4, 4, 8, 16, 512
MOST_LAYERS = 8
INDEX_HEADS = 16  # of fewer the scores are often zero, and which keys are the best is a matter of the layout
SPECIAL = ("<pad>", "<s>", "</s>")
VOCABULARY = len(SPECIAL) + 256
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)

# What fields of these names become, wherever they stand: the first pattern that matches as a whole counts. What is
# smaller stays so.
SIZES: tuple[tuple[str, int | float], ...] = (
    (r"(\w+_)?vocab_size(_per_layer_input)?|vocab_offset|n_words|n_token", VOCABULARY),
    (r"initializer_range|init_std", 0.2),  # large enough for completions to differ
    (r"(\w+_)?(dropout|pdrop|dropout_prob|layerdrop|drop_path_rate|dropout_rate)", 0.0),
    (r"(original_)?max_position_embeddings|n_positions|n_ctx|model_max_length", LONGEST),
    (r"max_(seq_len|sequence_length)", LONGEST),
    (r"(\w+_)?(sliding_window|sliding_window_size|local_window)|(attention_)?window_size", WINDOW),
    (r"(\w+_)?chunk_size|floor_scale|index_block_size|block_size|keep_window_size", CHUNK),
    (r"(\w+_)?(key_value_heads|kv_heads)|n_kv_heads", HEADS // 2),
    (r"index(er)?_(n_|num_)?heads", INDEX_HEADS),
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
    (r"(\w+_)?intermediate_size(_\w+)?|(\w+_)?ffn_dim|(expert_)?ffn_hidden_size", 2 * WIDTH),
    (r"n_inner|d_ff|d_inner|dff|mlp_dim|dim_ff|mamba_d_ssm", 2 * WIDTH),
    (r"(\w+_)?hidden_(size|dim)(_per_layer_input)?|(\w+_)?embed_dim|(\w+_)?proj(ection)?_dim", WIDTH),
    (r"d_model|n_embd|output_dim|lru_width|embedding_size|emb_dim|out_dim|model_dim|width", WIDTH),
    (r"adapter_(in|out)_dim|adapter_input_size", WIDTH),
    (r"num_hidden_layers|n_layers?|num_layers|(de|en)coder_layers|num_(de|en)coder_layers", LAYERS),
    (r"num_blocks|depth", LAYERS),
    (r"num_nextn_predict_layers|(num_mtp|mtp_num)_layers|num_kv_shared_layers", 0),
    (r"base_channels|codebook_size|num_embeddings", 32),
    (r"num_filters|zero_expert_num", 4),
    (r"encoder_hash_byte_group_vocab", 64),
    (r"image_seq_length|num_image_tokens|mm_tokens_per_image|num_query_tokens|num_queries", 4),
)
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONSTANTS = 0.1  # noise on weights that begin as constants
FIXED = TOKENS | {"tie_word_embeddings": False}  # tied, a tiny model repeats one token, steered or not
IMAGE = 56  # pixels
# Sizes of the layers that differ from the others of their model.
PER_LAYER = {"head_dim": 2 * HEAD, "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 32}
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
        for name, class_name in sorted(mapping.items(), key=_by_own_name):
            if class_name not in seen:
                seen.add(class_name)
                key = name if name not in found else f"{name}.{class_name}"
                found[key] = Family(key, class_name, is_conditional)
    return dict(sorted(found.items()))


def _by_own_name(entry: tuple[str, str]) -> tuple[bool, bool, str]:
    """Order a class's own name before those of models that borrow it: `llama4_text` before `llama4`."""
    name, class_name = entry
    own = class_name.lower().startswith(re.sub(r"\W|_", "", name))
    return not name.endswith("_text"), not own, name


def tiny(family: Family, seed: int = 0) -> Any:
    """Return a tiny random model of a family in evaluation mode. Raises whatever transformers does."""
    import torch
    import transformers

    cls = getattr(transformers, family.class_name)
    torch.manual_seed(seed)
    hf = cls(tiny_config(cls.config_class, family.name)).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            if (
                parameter == parameter.flatten()[0]
            ).all():  # a norm, a bias: it would hide what it is applied to
                parameter += CONSTANTS * torch.randn(parameter.shape).to(parameter)
    return hf


def tiny_config(config_class: Any, name: str) -> Any:
    """Return the class's default configuration with all sizes shrunk."""
    given = _shrunk(config_class()) | FIXED
    for path, value in OVERRIDES.get(name, {}).items():
        *parts, field = path.split(".")
        place = given
        for part in parts:
            place = place[part]
        place[field] = copy.deepcopy(value)
    return config_class(**given)


def _shrunk(config: Any) -> dict[str, Any]:
    """The fields of a configuration, shrunk, and those of its parts."""
    values = {k: v for k, v in config.to_dict().items() if k not in NOT_SHRUNK}
    layers = next(
        (values[k] for k in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if values.get(k)), 0
    )
    kept = _kept_layers(values, layers)
    found: dict[str, Any] = {}
    for name, value in values.items():
        part: Any = getattr(config, name, None) if isinstance(value, dict) else None
        if hasattr(part, "to_dict"):
            found[name] = _shrunk(part) | ({"model_type": part.model_type} if part.model_type else {})
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            found[name] = _shrunk_rope(value)
        elif name == "per_layer_config" and value:
            found[name] = {
                f"{i:02d}": {
                    k: PER_LAYER.get(k) or _shrunk_value(k, v) for k, v in value[f"{layer:02d}"].items()
                }
                for i, layer in enumerate(kept)
                if f"{layer:02d}" in value
            }
        elif value == list(range(layers)):
            found[name] = list(range(len(kept)))
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
    lists = [
        v for v in values.values() if isinstance(v, list) and len(v) == layers and v != list(range(layers))
    ]
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
            found[name] = LONGEST
    return found


def _shrunk_value(name: str, value: Any) -> Any:
    if name in FIXED:
        return FIXED[name]
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


# What shrinking by name cannot know of a family: {field, by its path: its value}.
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_CONV = ["conv", "full_attention", "conv", "conv"]
_HYBRID = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
_ROPES = {"full_attention": _ROPE, "sliding_attention": _ROPE}
_MROPE = {"text_config.rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}  # its sum is half a head
_MROPE_HALF = {
    "text_config.rope_parameters": _ROPE | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
}
_VISION_START = {"vision_start_token_id": UNKNOWN_TOKEN + 2}  # which generate reads, and the part alone lacks
_INDEXER = {"n_heads": INDEX_HEADS, "kv_heads": 1, "head_dim": HEAD, "budget": 8, "compress_ratio": 2}

OVERRIDES: dict[str, dict[str, Any]] = {
    # Kinds of layers that the default configuration has none of, or that lie beyond the first few.
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "lfm2": {"layer_types": _CONV},
    "lfm2_moe": {"layer_types": _CONV},
    "lfm2_vl": {"text_config.layer_types": _CONV},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 2 * WIDTH,  # the stream beside the embeddings
        "attention_head_dim": 2 * HEAD,
        "num_key_value_heads": HEADS,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 2 * HEAD,
        "num_key_value_heads": HEADS,
        "mamba_headdim": HEAD,
    },
    "laguna": {"layer_types": _SLIDING, "num_attention_heads_per_layer": [HEADS] * 4},
    "mellum": {"layer_types": _SLIDING},
    "dots1": {"layer_types": _SLIDING, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_group": 2}
    | {"topk_group": 1, "n_shared_experts": 1},
    "step3p7": {"text_config.layer_types": _SLIDING, "text_config.rope_parameters": _ROPES}
    | {"text_config.sliding_window": WINDOW},
    "cohere_compass": {"text_config.layer_types": _SLIDING, "text_config.rope_parameters": _ROPES},
    "cohere_compass_text": {"layer_types": _SLIDING, "rope_parameters": _ROPES},
    # The last two layers use the first two's cache.
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": _SLIDING},
    "gemma4_text": {"num_kv_shared_layers": 2, "layer_types": _SLIDING}
    | {"per_layer_config": {"01": {"head_dim": 2 * HEAD}, "03": {"head_dim": 2 * HEAD}}},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 8}},
    # Sizes that must agree with each other.
    "falcon_h1": {"mamba_d_head": HEAD},
    "mamba2": {"num_heads": 2 * HEADS},
    "mistral4": {"head_dim": 2 * HEAD},
    "xlstm": {"embedding_dim": WIDTH, "chunk_size": CHUNK, "qk_dim_factor": 1.0},
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "glm5_next": {"text_config.index_kpool": 4},
    "dots3_note": {"text_config.head_dim": 2 * HEAD},
    "dots3_note_text": {"head_dim": 2 * HEAD},
    "fun_asr_nano": {"adaptor_config.intermediate_size": WIDTH // 4},
    "molmo2": {"adapter_config.vision_feature_layer": [2, 1]},
    "vibevoice_asr": {"acoustic_tokenizer_chunk_size": 3200},
    "kyutai_speech_to_text": {"codec_config.upsample_groups": WIDTH},
    "nemo_speechlm": {"word_timestamp_config.blank_token_id": 0},
    # Weights of which completions differ.
    "recurrent_gemma": {"w_init_variance_scale": 0.3, "final_w_init_variance_scale": 3.0},
    "granite_docling": {"text_config.embedding_multiplier": 1.0},  # 12 drowns all else
    "muse_spark": {"audio_config.hidden_sizes": [16, 16, 32, 32]},
    "blenderbot": {"encoder_layers": LAYERS},
    "qwen2_vl": _MROPE,
    "qwen2_5_vl": _MROPE,
    "qwen2_5_omni_thinker": _MROPE | _VISION_START,
    "qwen3_omni_moe_thinker": _VISION_START,
    "paddleocr_vl": _MROPE,
    "glm4v": _MROPE,
    "glm46v": _MROPE,
    "glm_ocr": _MROPE,
    "hunyuan_vl": _MROPE,
    "ernie4_5_vl_moe": {"text_config.rope_parameters": _ROPE | {"mrope_section": [3, 3, 2]}},
    "glm4v_moe": _MROPE_HALF,
    # What has no default.
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
    | {"text_config.num_experts_per_tok": 2},
    "qwen4_exp": {f"text_config.indexer_{name}": value for name, value in _INDEXER.items()},
    "qwen4_exp_text": {f"indexer_{name}": value for name, value in _INDEXER.items()},
    "granite4_vision": {"deepstack_layer_map": [], "downsample_rate": "1/2"},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "chameleon": {"vocabulary_map": {"<image>": UNKNOWN_TOKEN}},
    "emu3.Emu3ForConditionalGeneration": {
        "vocabulary_map": {"<image>": UNKNOWN_TOKEN, "<|extra_200|>": UNKNOWN_TOKEN + 1}
    },
    "xmod": {"default_language": "en_XX"},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
}


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
