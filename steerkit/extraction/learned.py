"""Contrastive energy steering: a vector that is trained, with the model frozen, instead of read off its states.

With v added at every completion position of one layer, the energy of a completion y is its mean negative
log-probability, E_v(y|q) = -1/|y| sum_t log p_v(y_t | q, y_<t). Per layer, and each layer by itself, v minimises

    mean softplus(E_v(y+|q) - E_v(y-|q))  +  penalty · max(KL - kl_budget, 0)

over contrast pairs, where KL is KL(p_base || p_v) in nats per token on the unsteered greedy roll-outs of ordinary
questions. The objective is that of the ACL 2026 version of Activation-Steered Compression (arXiv 2507.04742),
whose constants are not published; those here are our own.

1. Only v is trained. Parameters are frozen while training runs and get their flags back; no gradient, hook or
   attribute stays on the model.
2. v acts where scope `completion` acts, so a prompt up to its last token is never steered: its keys and values
   are computed once, and a step runs completions alone.
3. The budget holds at the end, not only on average: what the penalty leaves above it is taken off v's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.numbers import check_several
from steerkit.core.progress import shows_progress
from steerkit.core.prompts import EncodedText, Prompt
from steerkit.core.sites import Place
from steerkit.engines.base import Decoding, Request
from steerkit.engines.catalogue import engine_for
from steerkit.engines.continuations import Continuations
from steerkit.engines.forward import alone, differentiable, in_passes
from steerkit.engines.transformers.divergence import roll_outs
from steerkit.extraction.capture import Progress
from steerkit.extraction.estimator import Estimator
from steerkit.extraction.extract import origin_of, read_examples
from steerkit.extraction.pairs import LabelledPrompts, PairsOrPrompts, examples_of
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded
from steerkit.models.sites import one_pass
from steerkit.suites.suite import load_suite

R = TypeVar("R")
Term = Callable[[Sequence[int]], Tensor]  # of the loss, on some pairs or texts

METHOD = "contrastive-energy"

# Not tuned on any split; 40 steps at one layer of a 135M model take some minutes on one core.
KL_BUDGET = 0.3
STEPS = 40
LEARNING_RATE = 0.05
PENALTY = 10.0
PAIRS_A_STEP = 16
ORDINARY_PROMPTS = 16
ORDINARY_A_STEP = 8
ROLL_OUT_TOKENS = 32


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """Where training stands: the mean softplus of the energy gap, and the KL in nats per token.

    `step` counts from 0 to the number of steps. The steps before the last are measured on what the step saw, with
    the vector before its update; the last one on all pairs and all ordinary questions, with the finished vector.
    """

    layer: int
    step: int
    contrast: float
    kl: float


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to train. Raises MisuseError for a setting out of range."""

    kl_budget: float
    steps: int
    learning_rate: float
    penalty: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("kl_budget", "steps", "learning_rate", "penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise MisuseError(f"{name.replace('_', ' ')} is a positive number, got {getattr(self, name)}")

    def step_size(self, v: Tensor) -> float:
        """The first Adam step a coordinate, for training that starts at `v`."""
        return self.learning_rate * float(v.detach().norm()) / math.sqrt(v.numel())


@shows_progress("learning")
def learn(
    lm: LanguageModel,
    pairs: PairsOrPrompts,
    layers: int | Sequence[int],
    *,
    kl_budget: float = KL_BUDGET,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    penalty: float = PENALTY,
    ordinary: Sequence[Prompt] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    observe: Callable[[TrainingStep], None] | None = None,
) -> SteeringVector:
    """Train a vector at each of `layers` to make the positive completions likelier than the negative ones.

    `kl_budget` bounds what the vector at strength 1 does to `ordinary` prompts (default: answerable questions
    from the built-in abstention suite's split `fit`), in nats per token. Training starts from the mean difference
    and takes `steps` Adam steps whose size, falling to zero along a cosine, is `learning_rate` times the start's
    root mean square. `progress` counts steps; `observe` is told what each came to.

    The vector's direction is zero at layers that were not trained. Raises MisuseError for labelled prompts, a
    layer that the model has not, a setting out of range, and whatever `extract` raises it for; InputError where
    training diverges.
    """
    check_loaded(lm)
    pairs = examples_of(pairs)
    trained = _checked_layers(lm, layers)
    recipe = _Recipe(kl_budget, steps, learning_rate, penalty, seed)
    if isinstance(pairs, LabelledPrompts):
        raise MisuseError(
            f"{pairs.name}: labelled prompts have no completions to learn from: give contrast pairs"
        )
    texts, activations, labels = read_examples(lm, pairs, "mean")
    positive, negative = activations.states[labels], activations.states[~labels]
    difference = Estimator.resolve("mean-difference")
    starts = {layer: difference.direction(positive[:, layer], negative[:, layer]) for layer in trained}
    questions = ordinary_prompts() if ordinary is None else ordinary
    requests = [Request(prompt, decoding=Decoding(max_new_tokens=ROLL_OUT_TOKENS)) for prompt in questions]
    if not requests:
        raise MisuseError("a KL budget needs at least one ordinary prompt")
    ordinary_texts = roll_outs(engine_for(lm), requests)
    done = 0

    def told(step: TrainingStep) -> None:
        nonlocal done
        if observe is not None:
            observe(step)
        if progress is not None and step.step < steps:
            done += 1
            progress(done, len(trained) * steps)

    with alone(lm), differentiable(lm):
        direction = torch.zeros(lm.n_layers, lm.d_model)
        objective = _Objective(lm, texts, ordinary_texts)
        for layer, start in starts.items():
            direction[layer] = _trained(objective, layer, start.clone(), recipe, told).cpu()

    metadata = VectorMetadata(
        **origin_of(lm, pairs),
        name=pairs.name,
        method=METHOD,
        aggregation="mean",
        scaling="trained",
        pairs_digest=pairs.digest,
        pairs_count=len(pairs),
    )
    return SteeringVector(direction, metadata, positive.mean(dim=0), negative.mean(dim=0), activations.norm)


def ordinary_prompts(n: int = ORDINARY_PROMPTS) -> list[Prompt]:
    """Answerable questions of the built-in abstention suite, from its split `fit`: what a budget protects."""
    items = load_suite("abstention").split("fit").limit(2 * n)  # twins come in twos, one of them answerable
    return [item.prompt for item in items if item.should_abstain is False]


def _checked_layers(lm: LanguageModel, layers: int | Sequence[int]) -> list[int]:
    wanted = sorted(set(check_several("a layer", layers)))
    if not wanted:
        raise MisuseError("a learned vector needs at least one layer to be trained at")
    for layer in wanted:
        if not 0 <= layer < lm.n_layers:
            raise MisuseError(f"layer {layer} is out of range: {lm.name} has layers 0 to {lm.n_layers - 1}")
    return wanted


def _trained(
    objective: _Objective, layer: int, v: Tensor, recipe: _Recipe, tell: Callable[[TrainingStep], None]
) -> Tensor:
    """`v` `[d_model]` after training at `layer`, within the budget."""
    optimiser = torch.optim.Adam([v], lr=recipe.step_size(v))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for step, (some_pairs, some_texts) in enumerate(_draws(objective, recipe)):
        contrast, gradient = objective.contrast(layer, v, some_pairs)
        kl, kl_gradient = objective.kl(layer, v, some_texts)
        if kl > recipe.kl_budget:
            gradient = gradient + recipe.penalty * kl_gradient
        if not (math.isfinite(contrast) and math.isfinite(kl) and gradient.isfinite().all()):
            raise InputError(f"training diverged at layer {layer}, step {step}: lower the learning rate")
        v.grad = gradient
        optimiser.step()
        schedule.step()
        tell(TrainingStep(layer, step, contrast, kl))
    kept = _within_budget(objective, layer, v, recipe.kl_budget)
    tell(TrainingStep(layer, recipe.steps, *objective.measured(layer, kept)))
    return kept


def _draws(objective: _Objective, recipe: _Recipe) -> Iterator[tuple[list[int], list[int]]]:
    """For each step, which pairs and which ordinary texts it sees: dealt from a deck, shuffled when it runs out."""
    generator = torch.Generator().manual_seed(recipe.seed)
    decks: list[list[int]] = [[], []]
    sizes = [(objective.n_pairs, PAIRS_A_STEP), (objective.n_ordinary, ORDINARY_A_STEP)]
    for _ in range(recipe.steps):
        drawn = []
        for deck, (total, wanted) in zip(decks, sizes, strict=True):
            if len(deck) < min(wanted, total):
                deck[:] = torch.randperm(total, generator=generator).tolist()
            drawn.append([deck.pop() for _ in range(min(wanted, total))])
        yield drawn[0], drawn[1]


def _within_budget(objective: _Objective, layer: int, v: Tensor, budget: float) -> Tensor:
    """`v`, shortened until its KL over all ordinary texts is at most `budget`.

    For a small vector KL grows with the square of its length, so few steps are needed.
    """
    while (kl := objective.measured(layer, v)[1]) > budget:
        v = v * min(0.98, math.sqrt(budget / kl))
    return v


class _Objective:
    """Both terms of the loss for a vector at a layer, with their gradients, on pairs and texts by their indices."""

    def __init__(
        self, lm: LanguageModel, examples: Sequence[EncodedText], ordinary: Sequence[EncodedText]
    ) -> None:
        """Runs every prompt once, and keeps the ordinary texts' distributions. `examples`: positive, then negative."""
        self.n_pairs, self.n_ordinary = len(examples) // 2, len(ordinary)
        self._lm = lm
        self._sides, self._ordinary = Continuations(lm, examples), Continuations(lm, ordinary)

        def base(some: Sequence[int]) -> list[Tensor]:
            with torch.no_grad():
                return [row.float().log_softmax(-1) for row in self._ordinary.logits(some)]

        passes = _in_passes(self._ordinary, range(len(ordinary)), ORDINARY_A_STEP, base)
        self._base = [row for _, rows in passes for row in rows]

    def contrast(self, layer: int, v: Tensor, pairs: Sequence[int]) -> tuple[float, Tensor]:
        """Mean softplus of the positive side's energy minus the negative side's, and its gradient by `v`."""

        def energy(row: int, logits: Tensor) -> Tensor:
            text = self._sides.texts[row]
            tokens = torch.tensor(text.ids[text.prompt_length :], device=logits.device)
            return cross_entropy(logits.float(), tokens)

        def term(some: Sequence[int]) -> Tensor:
            rows = [*some, *(self.n_pairs + i for i in some)]
            found = map(energy, rows, self._sides.logits(rows))
            positive, negative = torch.stack(list(found)).chunk(2)
            return softplus(positive - negative).sum() / len(pairs)

        return self._summed(self._sides, PAIRS_A_STEP, layer, v, pairs, term)

    def kl(self, layer: int, v: Tensor, texts: Sequence[int]) -> tuple[float, Tensor]:
        """KL(base || steered), mean over the tokens of `texts`, in nats, and its gradient by `v`."""
        tokens = sum(len(self._base[i]) for i in texts)

        def divergence(i: int, logits: Tensor) -> Tensor:
            base = self._base[i]
            return (base.exp() * (base - logits.float().log_softmax(-1))).sum()

        def term(some: Sequence[int]) -> Tensor:
            return torch.stack(list(map(divergence, some, self._ordinary.logits(some)))).sum() / tokens

        return self._summed(self._ordinary, ORDINARY_A_STEP, layer, v, texts, term)

    def measured(self, layer: int, v: Tensor) -> tuple[float, float]:
        """Both terms over everything there is."""
        with torch.no_grad():
            contrast, _ = self.contrast(layer, v, range(self.n_pairs))
            kl, _ = self.kl(layer, v, range(self.n_ordinary))
        return contrast, kl

    def _summed(
        self, texts: Continuations, a_step: int, layer: int, v: Tensor, items: Sequence[int], term: Term
    ) -> tuple[float, Tensor]:
        """The sum over passes of `term` with `v` added at `layer`, and its gradient where gradients are on."""
        trains = torch.is_grad_enabled()

        def of(some: Sequence[int]) -> tuple[float, Tensor]:
            added = v.detach().requires_grad_(trains)
            site = self._lm.sites.at(Place(layer))
            with one_pass({site: lambda hidden: hidden + added.to(hidden.dtype)}):
                value = term(some)
            slope = torch.autograd.grad(value, added)[0] if trains else torch.zeros_like(v)
            return float(value.detach()), slope

        values, slopes = zip(*(found for _, found in _in_passes(texts, items, a_step, of)), strict=True)
        return sum(values), torch.stack(slopes).sum(dim=0)


def _in_passes(
    texts: Continuations, items: Sequence[int], a_step: int, run: Callable[[Sequence[int]], R]
) -> Iterator[tuple[Sequence[int], R]]:
    """Run items of `texts`, at least `a_step` in a pass where memory holds them."""
    lengths = [len(text.ids) for text in texts.texts]
    return in_passes(items, lengths.__getitem__, a_step * max(lengths), run)
