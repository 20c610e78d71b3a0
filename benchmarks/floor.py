"""The physical floors: what the model itself costs, with nothing of ours around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.core.prompts import EncodedText
from steerkit.extraction.capture import capture
from steerkit.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids and attention mask `[batch, position]` of whole texts, padded on the right."""

    ids: Tensor
    mask: Tensor

    @property
    def rows(self) -> list[list[int]]:
        """The texts without their padding."""
        return [ids[mask.bool()].tolist() for ids, mask in zip(self.ids, self.mask, strict=True)]


def whole_text_batches(lm: LanguageModel, texts: Sequence[EncodedText]) -> list[Batch]:
    """The batches in which `capture` runs these texts when nothing is shared, seen at the model's door."""
    batches = []

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        batches.append(Batch(kwargs["input_ids"].clone(), kwargs["attention_mask"].clone()))

    handle = lm.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        capture(lm, texts, share_prompts=False)
    finally:
        handle.remove()
    return batches


@torch.inference_mode()
def bare_pass(lm: LanguageModel, batches: Sequence[Batch]) -> None:
    """Every batch once through the decoder: no LM head, no hook, no cache."""
    for batch in batches:
        lm.decoder(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)


def unique_share(texts: Sequence[EncodedText]) -> float:
    """Tokens that must be run when equal prompts are run once, over all tokens."""
    prompts = {text.ids[: text.prompt_length] for text in texts}
    unique = sum(map(len, prompts)) + sum(text.completion_length for text in texts)
    return unique / sum(len(text.ids) for text in texts)


@torch.inference_mode()
def dense_prefill(lm: LanguageModel, rows: int, prompt_tokens: int) -> dict[str, Any]:
    """Rows of equal length, run up to where decoding starts; random tokens, nothing padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(lm.config.vocab_size, (rows, prompt_tokens), generator=generator).to(lm.device)
    output = lm.hf(input_ids=ids, use_cache=True, logits_to_keep=1)
    return {"input_ids": output.logits[:, -1:].argmax(-1), "past_key_values": output.past_key_values}


@torch.inference_mode()
def dense_decoding(lm: LanguageModel, state: dict[str, Any], tokens: int) -> None:
    """Greedy steps for a batch in which every row decodes exactly `tokens` tokens."""
    for _ in range(tokens):
        output = lm.hf(**state, use_cache=True, logits_to_keep=1)
        state["input_ids"] = output.logits[:, -1:].argmax(-1)
        state["input_ids"].tolist()  # every decoding loop must see its tokens, to know who is finished
