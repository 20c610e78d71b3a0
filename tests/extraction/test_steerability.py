"""Predictors of steering, on directions whose answer is known."""

from __future__ import annotations

import torch

import steerkit as sk
from steerkit.core.prompts import EncodedText
from steerkit.extraction.logit_lens import logit_lens_alignment
from steerkit.models import LanguageModel


def test_a_direction_that_writes_a_token_is_aligned_with_it(smollm: LanguageModel) -> None:
    unembedding = smollm.hf.get_output_embeddings().weight.detach().float()
    wanted, other = smollm.renderer.encode("I")[0], smollm.renderer.encode("The")[0]
    texts = [EncodedText((5, 6, wanted, 9), 2), EncodedText((5, 6, other, 9), 2)]
    towards = unembedding[wanted] - unembedding[other]
    directions = torch.stack([towards, -towards, 10 * towards])
    up, down, longer = logit_lens_alignment(smollm, directions, texts, [True, False]).tolist()
    assert up > 1
    assert down < -1
    torch.testing.assert_close(up, longer, rtol=1e-4, atol=0)
    logits = unembedding @ towards
    expected = (logits[wanted] - logits[other]) / logits.std()
    torch.testing.assert_close(up, float(expected), rtol=1e-4, atol=0)


def test_extraction_reports_it_per_layer(tiny: LanguageModel) -> None:
    vector = sk.extract(tiny, sk.load_pairs("abstention"))
    assert vector.metadata.alignment is not None
    assert len(vector.metadata.alignment) == tiny.n_layers
    assert (2 * vector).metadata.alignment is None
