"""A loaded model: its sizes, where and in what number format it is, and how it thinks."""

from __future__ import annotations

from steerkit.core.registry import VIEWS
from steerkit.models.language_model import LanguageModel
from steerkit.report.views.parts import facts, frame

UNKNOWN = 2**31 - 1  # tokens of context where neither config nor tokenizer says


def model_html(lm: LanguageModel) -> str:
    """Return what is known of a model without running it."""
    parameters = sum(weight.numel() for weight in lm.hf.parameters())
    quantised = "quantised " if lm.quantised_from else ""
    found = lm.found_markers
    thinks = found.source or lm.markers != found.markers
    said = {
        "architecture": type(lm.hf).__name__,
        "layers": f"{lm.n_layers}, numbered 0 to {lm.n_layers - 1}; width {lm.d_model}",
        "weights": f"{parameters:,} {quantised}parameters, {_plain(lm.dtype)} on {lm.device}",
        "context": f"{lm.context_length:,} tokens" if lm.context_length < UNKNOWN else "",
        "thinks": f"between {lm.markers.opening} and {lm.markers.closing}" if thinks else "",
        "calls tools": "yes" if lm.calls_tools else "",
        "fingerprint": lm.fingerprint,
        "steered now": "yes, by an open sk.steer" if lm.is_steered else "",
    }
    return frame(lm.name, "language model", facts(said))


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


VIEWS.add("model", model_html)
