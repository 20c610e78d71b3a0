"""The PyPI package `steerkit`, another project: probes over TransformerLens' HookedTransformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peers.common import BATCH_SIZES, STRENGTH, Job, Pair, Report, run
from steerkit.data import ContrastPair
from steerkit.extract import extract_activations
from steerkit.models import ModelHandle
from steerkit.probe import Probe
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.loading_from_pretrained import convert_hf_model_config
from transformer_lens.pretrained.weight_conversions import convert_llama_weights

CONTEXT = 1024  # every block keeps a square mask of this size: the model's own 8192 would take gigabytes


def handle_of(job: Job) -> ModelHandle:
    """Its handle over the same weights.

    Its own `load` takes only the names that HookedTransformer knows, so the folder is converted with the converter
    that HookedTransformer uses; the weights stay as they are.
    """
    model, tokenizer = job.load()
    content = convert_hf_model_config(job.folder) | {
        "device": job.device,
        "dtype": job.torch_dtype,
        "default_prepend_bos": False,
        "n_ctx": CONTEXT,
    }
    config = HookedTransformerConfig(**content)
    hooked = HookedTransformer(config, tokenizer=tokenizer)
    hooked.load_and_process_state_dict(
        convert_llama_weights(model, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return ModelHandle(hooked.eval(), job.folder)


def as_its_pairs(pairs: list[Pair]) -> list[ContrastPair]:
    """The pairs as it takes them: it renders the prompts itself, with the turn's closing marker."""
    return [ContrastPair(pair.prompt, pair.positive, pair.negative) for pair in pairs]


def extraction(job: Job, report: Report) -> None:
    """Activations only, in batches of 8 texts by default; fitting its probes is left out."""
    model, tokenizer = job.load()
    handle = handle_of(job)
    in_order, by_length = as_its_pairs(list(job.pairs)), as_its_pairs(job.pairs_by_length)

    def default() -> None:
        extract_activations(in_order, handle)

    def batched(size: int) -> Callable[[], object]:
        return lambda: extract_activations(by_length, handle, include_boundaries=False, batch_size=size)

    candidates = {f"batch_size={size}, blocks only, sorted": batched(size) for size in BATCH_SIZES}
    report.extraction(
        job.bare_pass(model, tokenizer.pad_token_id), ("batch_size=8 (its default)", default), candidates
    )


def decoding(job: Job, report: Report) -> None:
    """`Probe.steer`: one prompt at a time, one layer."""
    handle = handle_of(job)
    layer = handle.n_layers // 2
    direction = torch.randn(handle.d_model, generator=torch.Generator().manual_seed(0))
    probe = Probe(
        directions={"random": direction / direction.norm()},
        bias={"random": 0.0},
        layer=layer,
        metrics={},
        model_id=handle.model_id,
        hook_site="resid_post",
        hook_name=f"blocks.{layer}.hook_resid_post",
        n_total_layers=handle.n_layers,
        default_method="random",
    )

    def unsteered() -> None:
        handle.hooked.generate(
            handle.format_chat(job.prompts[0]),
            max_new_tokens=job.tokens,
            temperature=0.0,
            do_sample=False,
            verbose=False,
        )

    def steered() -> None:
        probe.steer(handle, job.prompts[0], alpha=STRENGTH, max_new_tokens=job.tokens)

    report.decoding(
        1,
        {"unsteered": unsteered, "one layer": steered},
        "against its own unsteered loop; it steers one prompt at a time and one layer",
    )


if __name__ == "__main__":
    run(("steerkit", "transformer-lens"), {"extraction": extraction, "decoding": decoding})
