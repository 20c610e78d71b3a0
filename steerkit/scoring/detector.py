"""Does a reply abstain? A second opinion on the phrase rules: a logistic regression on a bundled model's states.

What it reads of a reply are the states of Gemma 3 270M, whatever model wrote it, behind two blocks in the middle: their
mean over the reply's tokens, and the last one; and what the phrase rules say. That model has seen many languages, so
that what was learned in one carries to others. The weights lie in `data/scoring/detector.safetensors`;
`experiments/abstention_scorer` has the replies that they were trained on, how those were labelled, and how well rules
and detector do on replies that were kept apart.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Self

from steerkit.scoring.abstention import abstains
from steerkit.scoring.metrics import Metric, Scores, scorer

if TYPE_CHECKING:  # heavy, and whoever lists the scorers needs none of them
    import numpy as np
    from torch import Tensor

    from steerkit.engines.base import Completion
    from steerkit.models import LanguageModel
    from steerkit.suites.items import SuiteItem

READER = "gemma3-270m"
LAYERS = (8, 10)
TOKENS = 256  # of a reply that are read
PASS_TOKENS = 1024

DETECTOR, DETECTED = "detector", "detected_abstained"  # the scorer, and its score
METRICS = (
    Metric(
        "detected_abstention_recall", "abstention recall, detected", "higher",
        concerns="unanswerable", score=DETECTED, show="hidden",
    ),
    Metric(
        "detected_over_abstention", "over-abstention, detected", "lower",
        concerns="answerable", score=DETECTED, show="hidden",
    ),
)  # fmt: skip


@scorer(DETECTOR, metrics=METRICS, needs="run")
def detector(_item: SuiteItem, _completion: Completion) -> Scores:
    """Say whether a classifier on a bundled model's states finds that the reply abstains; `report --detector` asks."""
    raise NotImplementedError("asked of a whole run: see steerkit.analysis.judging.detect_run")


@dataclass(frozen=True)
class Detector:
    """Weights `[2 · layers · width + 1]` of what is read, the rules' verdict last; the intercept; and the reader."""

    weights: np.ndarray
    intercept: float
    lm: LanguageModel

    @classmethod
    def bundled(cls) -> Self:
        """Return the detector that comes with the package; it reads with a bundled model."""
        from safetensors.numpy import load as load_tensors

        from steerkit.models import load_model

        file = resources.files("steerkit") / "data" / "scoring" / "detector.safetensors"
        tensors = load_tensors(file.read_bytes())
        return cls(tensors["weights"], float(tensors["intercept"][0]), load_model(READER))

    def probabilities(self, replies: Sequence[str]) -> np.ndarray:
        """Return the probability, 0 to 1, that each reply abstains, `[reply]`; 0 for a blank one."""
        import numpy as np

        read = features(self.lm, replies)
        found: np.ndarray = 1 / (1 + np.exp(-(read @ self.weights + self.intercept)))
        return np.where([bool(reply.strip()) for reply in replies], found, 0.0)

    def abstain(self, replies: Sequence[str]) -> list[bool]:
        """Return whether each reply abstains."""
        return [bool(probability > 0.5) for probability in self.probabilities(replies)]


def features(lm: LanguageModel, replies: Sequence[str]) -> np.ndarray:
    """Return what the detector reads of replies, `[reply, 2 · layers · width + 1]` float32."""
    import numpy as np

    from steerkit.engines.forward import in_passes

    start = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
    texts = [[*start, *lm.renderer.encode(reply.strip() or ".")[:TOKENS]] for reply in replies]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    read = np.zeros((len(texts), 2 * len(LAYERS) * lm.d_model + 1), np.float32)
    passes = in_passes(
        order, lambda i: len(texts[i]), PASS_TOKENS, lambda some: _pooled(lm, [texts[i] for i in some])
    )
    for some, pooled in passes:
        read[list(some), :-1] = pooled.numpy()
    read[:, -1] = [abstains(reply) for reply in replies]
    return read


def _pooled(lm: LanguageModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Mean and last state at each layer, `[text, 2 · layers · width]`; the first token, a marker, is in no mean."""
    import torch

    from steerkit.engines.forward import right_padded, states

    rows = right_padded(texts, lm)
    found = states(lm, rows, LAYERS, functools.partial(_mean_and_last, rows.mask))
    return torch.cat([found[layer] for layer in LAYERS], dim=1)


def _mean_and_last(mask: Tensor, hidden: Tensor) -> Tensor:
    """Mean and last state of each row, `[row, 2 · width]` float32 on the host."""
    import torch

    hidden, mask = hidden.float().cpu(), mask.cpu()
    last = mask.sum(1) - 1
    behind = mask.clone()
    behind[:, 0] = False
    mean = (hidden * behind[:, :, None]).sum(1) / behind.sum(1).clamp_min(1)[:, None]
    return torch.cat([mean, hidden[torch.arange(len(hidden)), last]], dim=1)
