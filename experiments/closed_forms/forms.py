"""Strengths that a formula gives for a KL target ε: the published bound, its exact solution, and the Fisher form.

F is the map from the residual stream at one layer and one position to the logits at the same position, v what
is added there. With a = the median over states of ‖Jv‖ and L = the 95th percentile of ‖∇²F[v,v]‖ (J the
Jacobian of F), Activation-Steered Compression (arXiv 2507.04742) bounds

    KL ≤ ¼ (aγ + ½Lγ²)²

The bound holds where a and L do, and is loose: the logits' norm counts every token of the vocabulary, and a
shift common to all of them, neither of which moves the distribution. To second order
KL ≈ ½γ² Var_p(Jv), p being the unsteered next-token distribution, which gives the Fisher form. Both see one position
pushed. Where a scope steers every position of a completion, the earlier ones push through attention too: even at small
strengths the measured KL is then about three to four times the form's, and the strength that it gives is too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerkit.calibration.tokens import Statistic


@dataclass(frozen=True)
class ClosedForms:
    """What the formulas say for one vector at one layer; strengths are positive, infinite where nothing moves.

    `slope` is a and `curvature` L, in logits per unit of strength (squared); `variance` is Var_p(Jv) in nats per
    unit of strength squared, its mean or its 95th percentile over the `states`, as the statistic asked for.
    """

    slope: float
    curvature: float
    variance: float
    states: int
    published: float
    exact: float
    fisher: float


def closed_forms(
    slopes: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    variances: NDArray[np.float64],
    target_kl: float,
    statistic: Statistic = "mean",
) -> ClosedForms:
    """The closed forms for `target_kl` from ‖Jv‖, ‖∇²F[v,v]‖ and Var_p(Jv), each `[state]`."""
    slope = float(np.median(slopes))
    curvature = float(np.quantile(curvatures, 0.95))
    variance = float(np.mean(variances) if statistic == "mean" else np.quantile(variances, 0.95))
    return ClosedForms(
        slope=slope,
        curvature=curvature,
        variance=variance,
        states=len(slopes),
        published=published_strength(slope, curvature, target_kl),
        exact=exact_strength(slope, curvature, target_kl),
        fisher=fisher_strength(variance, target_kl),
    )


def published_strength(slope: float, curvature: float, target_kl: float) -> float:
    """γ_max of arXiv 2507.04742: the positive root of x³ + x² = 4εL²/a⁴, scaled by a/L and corrected by 1 − x/4.

    0 from x = 4 on. The paper takes the root by Cardano's formula; Newton's method from above, where the cubic
    is convex, finds the same root without the cancellation that the formula suffers for the small right-hand
    sides that occur.
    """
    if slope == 0:
        return exact_strength(slope, curvature, target_kl)
    beta = 4 * target_kl * (curvature / slope**2) ** 2
    if beta == 0:  # the limit L → 0
        return 2 * math.sqrt(target_kl) / slope
    x = math.sqrt(beta)
    while (step := (x**3 + x**2 - beta) / (3 * x**2 + 2 * x)) > 1e-14 * x:
        x -= step
    return max(0.0, (1 - x / 4) * x * slope / curvature)


def exact_strength(slope: float, curvature: float, target_kl: float) -> float:
    """γ* = (√(a² + 4L√ε) − a) / L, where the bound ¼ (aγ + ½Lγ²)² equals ε."""
    root = math.sqrt(target_kl)
    # The same number with the difference of two near-equals multiplied away; L → 0 needs no case of its own.
    denominator = math.sqrt(slope**2 + 4 * curvature * root) + slope
    return 4 * root / denominator if denominator else math.inf


def fisher_strength(variance: float, target_kl: float) -> float:
    """γ_F = √(2ε / Var_p(Jv))."""
    return math.sqrt(2 * target_kl / variance) if variance else math.inf
