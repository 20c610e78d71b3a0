"""Tiny models that say a script, whatever they are asked: to see what becomes of a known completion in known tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<go>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<go>{% endif %}"
)
BAD_JINJA = "{% for m in messages %}{{ m.content }}{% endfor"
THOUGHT = ("I do not know the author. ", "Perhaps ", "Melville", "?")


def scripted(
    chunks: Sequence[str],
    template: str = TEMPLATE,
    *,
    special: Sequence[str] = (),
    also: Sequence[str] = ("<think>", "</think>"),
    eos: str = "<eos>",
    name: str = "scripted",
) -> LanguageModel:
    """Return a model that says `chunks`, each one token, then stops.

    `special` are special tokens among them, `also` further tokens of the vocabulary. After any token but `<go>` and
    the chunks anything may come. Each token has one successor: a chunk that comes twice is written twice, with spaces
    or a number that tells them apart.
    """
    tokens = list(dict.fromkeys(["<unk>", "<go>", eos, *special, *chunks, *also]))
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizer_of(tokens, {"<go>", eos, *special}, eos)
    if template:
        tokenizer.chat_template = template
    return LanguageModel(_model(ids, ["<go>", *chunks, eos]), tokenizer, name)


def tokenizer_of(tokens: Sequence[str], special: set[str], eos: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose vocabulary is `tokens`, each whole wherever it stands; `special` are special ones."""
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    plain = [token for token in tokens if token not in special and token != "<unk>"]
    core.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    marked = [token for token in tokens if token in special]
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in marked])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token=eos, clean_up_tokenization_spaces=False
    )


def _model(ids: dict[str, int], chain: Sequence[str]) -> LlamaForCausalLM:
    """A Llama whose blocks add nothing, so that the next token follows from the last one alone."""
    width = 64
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        eos_token_id=ids[chain[-1]],
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    embedding = torch.nn.functional.normalize(torch.randn(len(ids), width), dim=1)
    head = torch.zeros(len(ids), width)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for before, after in itertools.pairwise(chain):
            head[ids[after]] += embedding[ids[before]]
        model.model.embed_tokens.weight.copy_(embedding * 4)
        model.lm_head.weight.copy_(head * 10)
    model.generation_config.eos_token_id = ids[chain[-1]]
    return model


def m_emoji() -> LanguageModel:
    """Says what a terminal may take for markup or emoji codes."""
    return scripted(["Use ", ":warning:", " and a", ":b:", "c, key", ":x:", "y"], name="m_emoji")


def m_nosys() -> LanguageModel:
    """Its template raises on the system role and on roles that do not alternate, as Gemma 2 and Mistral have it."""
    return scripted(["Paris", "."], NO_SYSTEM, name="m_nosys")


def m_badjinja() -> LanguageModel:
    """Its chat template has a syntax error."""
    return scripted(["Paris", "."], BAD_JINJA, name="m_badjinja")


def m_think() -> LanguageModel:
    """Thinks between ordinary tokens `<think>` and `</think>`."""
    return scripted(["<think>", *THOUGHT, "</think>", "Hawthorne", "."], name="m_think")


def m_think_special() -> LanguageModel:
    """Thinks between `<think>` and `</think>`, which are special tokens."""
    marks = ("<think>", "</think>")
    return scripted(
        ["<think>", *THOUGHT, "</think>", "Hawthorne", "."], special=marks, name="m_think_special"
    )


def m_mistral() -> LanguageModel:
    """Thinks between the special tokens `[THINK]` and `[/THINK]`."""
    marks = ("[THINK]", "[/THINK]")
    return scripted(["[THINK]", *THOUGHT, "[/THINK]", "Hawthorne", "."], special=marks, name="m_mistral")


def m_gptoss() -> LanguageModel:
    """Thinks in the channel `analysis` and answers in `final`; a mark that comes twice is another token with a 2."""
    marks = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|channel|>2", "<|message|>2")
    thought = ["<|channel|>", "analysis", "<|message|>", *THOUGHT, "<|end|>"]
    reply = ["<|start|>", "assistant", "<|channel|>2", "final", "<|message|>2", "Hawthorne", "."]
    return scripted([*thought, *reply], special=marks, name="m_gptoss")


def m_olmo() -> LanguageModel:
    """As OLMo 3 has it: the prompt opens the thought, `</think>` is three tokens, and `.</` is one."""
    template = TEMPLATE.replace("<{{ m.role }}>", "({{ m.role }})").replace("<go>", "<think><go>")
    chunks = ["It must be Paris", ".</", "think", ">", "Paris", " it is"]
    return scripted(chunks, template, also=("<", "</"), name="m_olmo")


BUILDERS: dict[str, Callable[[], LanguageModel]] = {
    build.__name__: build
    for build in (m_emoji, m_nosys, m_badjinja, m_think, m_think_special, m_mistral, m_gptoss, m_olmo)
}


def next_to_nothing(lm: LanguageModel) -> SteeringVector:
    """A vector so short that it changes no completion."""
    direction = torch.zeros(lm.n_layers, lm.d_model)
    direction[:, 0] = 1e-3
    metadata = VectorMetadata(
        name="tiny",
        model=lm.name,
        fingerprint=lm.fingerprint,
        method="mean-difference",
        aggregation="mean",
        scaling="gap",
    )
    return SteeringVector(direction, metadata)


def save(lm: LanguageModel, folder: Path) -> Path:
    """Write a model as a transformers folder, for `--model`."""
    lm.hf.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder
