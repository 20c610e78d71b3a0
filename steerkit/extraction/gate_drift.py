"""The drift alarm of a gate's bound: what is kept of the questions that set it, and new questions held against it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.core.two_sample import DRIFT_LEVEL, projection_of
from steerkit.extraction.extract import read_examples
from steerkit.extraction.pairs import LabelledPrompts, load_labelled
from steerkit.interventions.drift import DriftReference
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.probe import Probe
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded


@dataclass(frozen=True)
class Drift:
    """The p-value of the hypothesis that `questions` new ones, one of each group, are of the kind of the bound's."""

    p_value: float
    questions: int

    @property
    def alarm(self) -> bool:
        """Whether they are unlike those: the bound then says nothing of them."""
        return self.p_value <= DRIFT_LEVEL


def drift_reference(
    fitted: ArrayLike, weight: Tensor, held: NDArray[np.float32], groups: ArrayLike, seed: int
) -> DriftReference:
    """Features of held-out states `[n, width]` along the probe's direction and principal ones of `fitted` states."""
    projection = projection_of(fitted, weight.numpy())
    reference = projection(held[one_of_each(groups, seed)])
    parts = (projection.mean, projection.directions, reference)
    return DriftReference(*(torch.from_numpy(part).float().contiguous() for part in parts))


def check_drift(
    lm: LanguageModel, probe: Probe, data: LabelledPrompts | str | os.PathLike[str], *, seed: int = 0
) -> Drift:
    """Test whether questions are like those that a gate's bound was set on; their labels are not read.

    Raises MisuseError where the probe keeps no reference, or there are fewer than two groups; ModelMismatchError where
    it is another model's.
    """
    check_loaded(lm)
    probe.check(lm)
    reference = check_reference(probe)
    data = load_labelled(data)
    _, activations, _ = read_examples(lm, data, "prompt", site=probe.site)
    chosen = one_of_each([example.group for example in data.examples], seed)
    states = activations.states[:, ProbeGate(probe).layer].cpu().numpy()[chosen]
    return Drift(reference.p_value(states), len(chosen))


def check_reference(probe: Probe) -> DriftReference:
    """Return what a probe keeps of its bound's questions. Raises MisuseError where there is nothing."""
    if probe.drift is None:
        raise MisuseError(
            f"probe {probe.name!r} has no bound, so no questions to hold others against: fit it with "
            "`steerkit gate fit --guarantee`"
        )
    return probe.drift


def one_of_each(groups: ArrayLike, seed: int) -> NDArray[np.intp]:
    """Rows of one random member of each group: twins are no two draws."""
    names = np.asarray(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    found: NDArray[np.intp] = order[np.unique(names[order], return_index=True)[1]]
    return found
