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
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.prompts import EncodedText, Prompt
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.cache import KeysAndValues, empty_cache, keys_and_values
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.layout import left_padded
from steerkit.extraction.capture import Progress
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import ContrastPairs, LabelledPrompts
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of, with_hidden
from steerkit.suites.suite import load_suite

METHOD = "contrastive-energy"

# Starting values, not yet tuned on any split. A step of 16 pairs and 8 roll-outs took 3.8 s in one thread for layer
# 14 of the 135M model, so 40 of them stay within three minutes.
KL_BUDGET = 0.3
STEPS = 40
LEARNING_RATE = 0.05
PENALTY = 10.0
PAIRS_A_STEP = 16
ORDINARY_PROMPTS = 16
ORDINARY_A_STEP = 8
ROLL_OUT_TOKENS = 32
PROMPTS_A_PASS = 16


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


def learn(
    lm: LanguageModel,
    pairs: ContrastPairs | LabelledPrompts,
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
    training diverges or no ordinary prompt gets a completion.
    """
    trained = _checked_layers(lm, layers)
    recipe = _Recipe(kl_budget, steps, learning_rate, penalty, seed)
    if isinstance(pairs, LabelledPrompts):
        raise MisuseError(
            f"{pairs.name}: labelled prompts have no completions to learn from: give contrast pairs"
        )
    start = extract(lm, pairs)
    roll_outs = _roll_outs(lm, ordinary_prompts() if ordinary is None else ordinary)
    done = 0

    def told(step: TrainingStep) -> None:
        nonlocal done
        if observe is not None:
            observe(step)
        if progress is not None and step.step < steps:
            done += 1
            progress(done, len(trained) * steps)

    with _frozen(lm), lm.steered_by_this_thread(), torch.inference_mode(False), torch.enable_grad():
        direction = torch.zeros_like(start.direction)
        objective = _Objective(lm, pairs, roll_outs)
        for layer in trained:
            v = start.direction[layer].to(lm.device).clone()
            direction[layer] = _trained(objective, layer, v, recipe, told).cpu()

    metadata = start.metadata.model_copy(
        update={
            "method": METHOD,
            "scaling": "trained",
            "separability": None,
            "agreement": None,
            "alignment": None,
            "steerkit_version": version("steerkit"),
        }
    )
    return SteeringVector(
        direction, metadata, start.mean_positive, start.mean_negative, start.activation_norm
    )


def ordinary_prompts(n: int = ORDINARY_PROMPTS) -> list[Prompt]:
    """Answerable questions of the built-in abstention suite, from its split `fit`: what a budget protects."""
    items = load_suite("abstention").split("fit").limit(2 * n)  # twins come in twos, one of them answerable
    return [item.prompt for item in items if item.should_abstain is False]


def _checked_layers(lm: LanguageModel, layers: int | Sequence[int]) -> list[int]:
    wanted = sorted({layers} if isinstance(layers, int) else set(layers))
    if not wanted:
        raise MisuseError("a learned vector needs at least one layer to be trained at")
    for layer in wanted:
        if not 0 <= layer < lm.n_layers:
            raise MisuseError(f"layer {layer} is out of range: {lm.name} has layers 0 to {lm.n_layers - 1}")
    return wanted


def _roll_outs(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[EncodedText]:
    """Each prompt with the model's own unsteered greedy completion; those that stay empty are left out."""
    decoding = Decoding(max_new_tokens=ROLL_OUT_TOKENS)
    requests = [Request(prompt, decoding=decoding, key=i) for i, prompt in enumerate(prompts)]
    texts = {}
    for completion in TransformersEngine(lm).generate(requests):
        ids = lm.renderer.encode_prompt(completion.request.prompt)
        if completion.token_ids:
            texts[completion.request.key] = EncodedText((*ids, *completion.token_ids), len(ids))
    if not texts:
        raise InputError(f"{lm.name} answers none of the {len(prompts)} ordinary prompts: give others")
    return [texts[key] for key in range(len(prompts)) if key in texts]


def _trained(
    objective: _Objective, layer: int, v: Tensor, recipe: _Recipe, tell: Callable[[TrainingStep], None]
) -> Tensor:
    """`v` `[d_model]` after training at `layer`, within the budget."""
    optimiser = torch.optim.Adam([v.requires_grad_()], lr=recipe.step_size(v))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for step, (some_pairs, some_texts) in enumerate(_draws(objective, recipe)):
        contrast = objective.contrast(layer, v, some_pairs)
        kl = objective.kl(layer, v, some_texts)
        loss = contrast + recipe.penalty * (kl - recipe.kl_budget).clamp_min(0)
        if not loss.isfinite():
            raise InputError(f"training diverged at layer {layer}, step {step}: lower the learning rate")
        (v.grad,) = torch.autograd.grad(loss, v)
        optimiser.step()
        schedule.step()
        tell(TrainingStep(layer, step, float(contrast.detach()), float(kl.detach())))
    kept = _within_budget(objective, layer, v.detach(), recipe.kl_budget)
    tell(TrainingStep(layer, recipe.steps, *objective.measured(layer, kept)))
    return kept


def _draws(objective: _Objective, recipe: _Recipe) -> Iterator[tuple[list[int], list[int]]]:
    """For each step, which pairs and which ordinary texts it sees: dealt from a deck, shuffled when it runs out."""
    generator = torch.Generator().manual_seed(recipe.seed)
    decks: list[list[int]] = [[], []]
    sizes = [(objective.n_pairs, PAIRS_A_STEP), (objective.n_roll_outs, ORDINARY_A_STEP)]
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
    """Both terms of the loss for a vector at a layer, on pairs and on ordinary texts by their indices."""

    def __init__(self, lm: LanguageModel, pairs: ContrastPairs, roll_outs: Sequence[EncodedText]) -> None:
        """Runs every prompt once, and keeps the ordinary texts' distributions: `[text, token, vocabulary]`."""
        self.n_pairs, self.n_roll_outs = len(pairs), len(roll_outs)
        self._sides = _Continuations(lm, [example.encoded(lm.renderer) for example in pairs.examples])
        self._ordinary = _Continuations(lm, roll_outs)
        with torch.no_grad():
            self._base = self._ordinary.log_probabilities(range(self.n_roll_outs))

    def contrast(self, layer: int, v: Tensor, pairs: Sequence[int]) -> Tensor:
        """Mean softplus of the positive side's energy minus the negative side's."""
        rows = [*pairs, *(self.n_pairs + i for i in pairs)]
        positive, negative = self._sides.energies(rows, layer, v).chunk(2)
        return softplus(positive - negative).mean()

    def kl(self, layer: int, v: Tensor, texts: Sequence[int]) -> Tensor:
        """KL(base || steered), mean over the tokens of `texts`, in nats."""
        steered = self._ordinary.log_probabilities(texts, layer, v)
        base = self._base[list(texts), : steered.shape[1]]
        real = self._ordinary.real(texts)
        return ((base.exp() * (base - steered)).sum(-1) * real).sum() / real.sum()

    def measured(self, layer: int, v: Tensor) -> tuple[float, float]:
        """Both terms over everything there is."""
        with torch.no_grad():
            return (
                float(self.contrast(layer, v, range(self.n_pairs))),
                float(self.kl(layer, v, range(self.n_roll_outs))),
            )


class _Continuations:
    """Teacher-forced texts whose prompts, up to the last token, were run once and unsteered.

    The rest of a row is its last prompt token and its completion but the last token: exactly the positions of
    scope `completion`, so a vector is added at all of them and no mask is needed. Rows are padded on the right,
    where a causal model does not look.
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[EncodedText]) -> None:
        if not all(text.prompt_length for text in texts):
            raise MisuseError(
                "a prompt shares no token with its completion, so nothing predicts the first: give a longer prompt"
            )
        self._lm = lm
        self._texts = texts
        heads = list(dict.fromkeys(text.ids[: text.prompt_length - 1] for text in texts))
        self._head_of = torch.tensor([heads.index(t.ids[: t.prompt_length - 1]) for t in texts])
        ids, self._head_mask, positions = left_padded(heads, lm)
        parts: list[KeysAndValues] = []
        for some in torch.arange(len(heads), device=lm.device).split(PROMPTS_A_PASS):
            cache = empty_cache()
            with torch.no_grad():  # not inference mode, whose tensors no later gradient may pass by
                lm.decoder(
                    input_ids=ids[some],
                    attention_mask=self._head_mask[some],
                    position_ids=positions[some],
                    past_key_values=cache,
                    use_cache=True,
                )
            parts.append(keys_and_values(cache))
        self._heads = [
            tuple(torch.cat([part[layer][side] for part in parts]) for side in (0, 1))
            for layer in range(len(parts[0]))
        ]

    def real(self, rows: Sequence[int]) -> Tensor:
        """Which of the padded rows' completion tokens there are, `[row, token]` bool."""
        lengths = torch.tensor([self._texts[row].completion_length for row in rows], device=self._lm.device)
        return torch.arange(int(lengths.max()), device=self._lm.device) < lengths[:, None]

    def energies(self, rows: Sequence[int], layer: int, v: Tensor) -> Tensor:
        """Mean negative log-probability of each row's completion tokens, `[row]`, in nats."""
        real = self.real(rows)
        tokens = self._padded([self._texts[row].ids[self._texts[row].prompt_length :] for row in rows])
        taken = self.log_probabilities(rows, layer, v).gather(-1, tokens[..., None]).squeeze(-1)
        return -(taken * real).sum(dim=1) / real.sum(dim=1)

    def log_probabilities(self, rows: Sequence[int], layer: int = 0, v: Tensor | None = None) -> Tensor:
        """`[row, token, vocabulary]` float32: what predicts each completion token, with `v` added at `layer`."""
        lm = self._lm
        texts = [self._texts[row] for row in rows]
        ids = self._padded([text.ids[text.prompt_length - 1 : -1] for text in texts])
        owner = self._head_of[list(rows)].to(lm.device)
        cache = empty_cache()
        for block, (keys, values) in enumerate(self._heads):
            cache.update(keys[owner], values[owner], block)
        first = torch.tensor([text.prompt_length - 1 for text in texts], device=lm.device)
        with _added(lm.blocks[layer], v):
            logits = lm.hf(
                input_ids=ids,
                attention_mask=torch.cat([self._head_mask[owner], self.real(rows)], dim=1),
                position_ids=first[:, None] + torch.arange(ids.shape[1], device=lm.device),
                past_key_values=cache,
                use_cache=True,
            ).logits
        return logits.float().log_softmax(-1)

    def _padded(self, texts: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, texts))
        rows = [[*text, *[self._lm.pad_id] * (width - len(text))] for text in texts]
        return torch.tensor(rows, device=self._lm.device)


@contextmanager
def _added(block: nn.Module, v: Tensor | None) -> Iterator[None]:
    """While open, `v` is added to the block's output at every position, and gradients reach it."""
    if v is None:
        yield
        return

    def hook(_block: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        return with_hidden(output, hidden + v.to(hidden.dtype))

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _frozen(lm: LanguageModel) -> Iterator[None]:
    """While open no parameter takes a gradient, so none is kept for the blocks below; flags come back after."""
    trainable = [parameter for parameter in lm.hf.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
