"""What an estimator is, and how one is declared: `estimators` has those that are built in.

    from steerkit import estimator

    @estimator("median-difference")
    def median_difference(positive, negative):
        return positive.median(dim=0).values - negative.median(dim=0).values

Most take the states of the two sides at one layer, `positive` `[n, d_model]` and `negative` `[m, d_model]`, float32
on one device, and return a direction `[d_model]` of arbitrary length and sign; `oriented_and_scaled` gives it both.
One that is declared `whole` takes the model and the pairs instead and returns the vector. Keyword-only parameters
are its options; it is given those of `SUPPLIED` that it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import ESTIMATORS

if TYPE_CHECKING:
    from torch import Tensor

SUPPLIED = ("aggregation", "site", "layers", "folds", "seed", "progress")

# By how much, relative to their norm, equal texts' states may differ because they ran in different batches.
ROUNDING = 1e-5
# So few examples on a side may be the reason why a function fails.
FEW = 5

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Estimator:
    """A function that finds directions, by the name that a vector's metadata gives it.

    `paired`: row i of both sides must belong to one pair. `whole`: `(model, pairs) -> SteeringVector` instead of
    `(positive, negative) -> direction`.
    """

    name: str
    function: Callable[..., Any]
    paired: bool = False
    whole: bool = False

    @classmethod
    def resolve(cls, method: str | Callable[..., Any]) -> Estimator:
        """The registered estimator of this name or function; any other function becomes one under its own name."""
        if isinstance(method, str):
            found: Estimator = ESTIMATORS[method]
            return found
        known = (each for _, each in ESTIMATORS.items() if each.function is method)
        return next(known, None) or cls(getattr(method, "__name__", type(method).__name__), method)

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword-only parameters with their defaults (`inspect.Parameter.empty` where there is none)."""
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # a built-in without one
            return {}
        return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

    def check(self, options: Mapping[str, object]) -> None:
        """Raise MisuseError where `options` lacks what the function needs, or holds what it does not take."""
        takes = self.parameters
        for name, value in options.items():
            if name not in takes:
                others = [other for other, each in ESTIMATORS.items() if name in each.parameters]
                raise MisuseError(
                    f"{self.name} takes no {name}" + (f"; {', '.join(others)} does" if others else "")
                )
            if isinstance(takes[name], float | int) and not isinstance(value, float | int):
                raise MisuseError(f"{name} of {self.name} is a number, got {value!r}")
        for name, default in takes.items():
            supplied = name in SUPPLIED and name != "layers"
            if default is inspect.Parameter.empty and not supplied and name not in options:
                raise MisuseError(f"{self.name} needs {name}")

    def direction(self, positive: Tensor, negative: Tensor, **options: object) -> Tensor:
        """The direction `[d_model]` between two sides' states, oriented and scaled.

        Raises InputError where the sides do not differ, where the function fails on a handful of examples, or returns
        anything but `[d_model]` finite numbers.
        """
        import torch

        try:
            found = torch.as_tensor(self.function(positive, negative, **options)).to(positive)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            if min(len(positive), len(negative)) > FEW:
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.name} needs more pairs: it cannot be fitted on {len(positive)} positive and {len(negative)} "
                f"negative examples, of which folds hold some out ({reason}); add some, or take mean-difference"
            ) from error
        if found.shape != positive.shape[1:]:
            raise InputError(
                f"{self.name} returned shape {list(found.shape)}: a direction is [{positive.shape[1]}]"
            )
        if not found.isfinite().all():
            raise InputError(f"{self.name} returned NaN or Inf")
        return oriented_and_scaled(found, positive, negative)


def estimator(name: str, *, paired: bool = False, whole: bool = False) -> Callable[[F], F]:
    """Register a function as the estimator `name`; see `Estimator` for what it takes and returns.

    Raises MisuseError for a name that is malformed or taken.
    """

    def declare(function: F) -> F:
        ESTIMATORS.add(name, Estimator(name, function, paired, whole))
        return function

    return declare


def oriented_and_scaled(direction: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """`direction` made to point to the positive side, as long as the mean gap projected on it.

    Strength 1 then moves a state by the gap between the two sides' means along the direction; the mean
    difference keeps its own length. Raises InputError where the sides do not differ.
    """
    gap = positive.mean(dim=0) - negative.mean(dim=0)
    if gap.norm() <= ROUNDING * positive.norm(dim=1).mean() or not direction.any():
        raise InputError("the two sides have the same states: their texts do not differ where they are read")
    unit = direction / direction.norm()
    scaled: Tensor = unit * (unit @ gap)
    return scaled


def agreement(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean cosine of each pair's difference to the mean of the other pairs' differences, per layer.

    Takes `[n, n_layers, d_model]` twice, row i of both one pair, n at least 2, and returns `[n_layers]`
    in [-1, 1]. Low agreement foretells a vector that steers unreliably (arXiv 2602.17881).
    """
    import torch

    differences = positive - negative
    others = differences.sum(dim=0) - differences
    return torch.cosine_similarity(differences, others, dim=-1).mean(dim=0)
