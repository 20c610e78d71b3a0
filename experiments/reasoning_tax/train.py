"""Fine-tune SmolLM2-135M-Instruct with LoRA on one variant's rows, and write the adapter with its card.

    python -m experiments.reasoning_tax.train --variant long-2 --preset cpu-2 --out adapters/long-2

A run that was stopped, however, goes on from its last checkpoint when the same command is given again. Order,
initialisation and data are drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

import steerkit as sk
from experiments.reasoning_tax.batches import TokenRow, encode, plan, portions, tensors
from experiments.reasoning_tax.data import SEED, VARIANTS, TrainingRow, digest, dress, training_rows
from experiments.reasoning_tax.low_rank import adapt, named
from experiments.reasoning_tax.publish import About, write_adapter
from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.models.adapters import WEIGHTS_FILE
from steerkit.models.fingerprint import weights_digest

BASE = "smollm2-135m-instruct"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CHECKPOINT = "checkpoint.pt"
HELD_OUT = 32  # rows behind the training rows, to see the loss on


@dataclass(frozen=True)
class Preset:
    """How to train: one pass over `rows` rows, `rows_a_step` at a time.

    The rate climbs linearly over the share `warm_up` of the steps, then falls to zero along a cosine. `compiled` takes
    a C++ compiler and a minute at the start. The rows are those from place `first` on.
    """

    device: str
    dtype: str
    rows: int
    rows_a_step: int
    tokens_a_portion: int
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    clip: float = 1.0
    checkpoint_seconds: float = 120.0
    compiled: bool = False
    first: int = 0
    seed: int = SEED  # of the factors' beginning and the order of the rows

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = max(1, round(self.warm_up * steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


# Of the largest rank that twelve megabytes hold.
SECOND = Preset(
    device="cpu",
    dtype="bfloat16",
    rows=6400,
    rows_a_step=16,
    tokens_a_portion=2048,
    rank=19,
    alpha=38,
    learning_rate=1.5e-3,
    compiled=True,
)
PRESETS = {
    "cpu": Preset(device="cpu", dtype="bfloat16", rows=2560, rows_a_step=16, tokens_a_portion=2048),
    "cpu-2": SECOND,
    # To go on from an adapter of cpu-2, on rows that it has not seen.
    "cpu-2-on": replace(SECOND, rows=5120, learning_rate=1e-3, first=SECOND.rows + HELD_OUT),
    "gpu": Preset(device="cuda", dtype="bfloat16", rows=25_600, rows_a_step=32, tokens_a_portion=32_768),
}


def main() -> None:
    """Train, or go on training, and write the adapter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="an adapter of the same rank to go on from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, help="fewer rows than the preset's, for a trial")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="another format than the preset's")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    preset = PRESETS[asked.preset]
    preset = replace(preset, rows=asked.rows or preset.rows, dtype=asked.dtype or preset.dtype)
    print(train(asked.variant, preset, asked.out, start=asked.start))


def train(variant: str, preset: Preset, out: Path, base: str = BASE, *, start: Path | None = None) -> Path:
    """Train a variant, from the adapter in `start` on if one is given, and write its adapter to `out`; returns that.

    Raises MisuseError where `out` holds the checkpoint of another run, and where `start` does not fit.
    """
    rows = training_rows(variant, preset.rows + HELD_OUT, first=preset.first)
    how = VARIANTS[variant]
    habit = "say that it does not know too often" if how.with_unanswerable else "answer always"
    about = About(variant, how.summary, habit, opens_thinking=how.style != "none")
    return fine_tune(rows, about, preset, out, base, start=start)


def fine_tune(
    rows: Sequence[TrainingRow],
    about: About,
    preset: Preset,
    out: Path,
    base: str = BASE,
    *,
    start: Path | None = None,
) -> Path:
    """Train on the preset's first rows, see the loss on the others, and write the adapter to `out`; returns that.

    Raises MisuseError where `out` holds the checkpoint of another run, and where `start` does not fit.
    """
    lm = sk.load_model(base, device=preset.device, dtype=preset.dtype)
    base_digest = weights_digest(lm.hf)
    if about.opens_thinking:
        dress(lm.tokenizer)
    encoded = [encode(lm.renderer, row, lm.tokenizer.eos_token_id) for row in rows]
    held_out = encoded[preset.rows :]
    begun = "" if start is None else hashlib.sha256((start / WEIGHTS_FILE).read_bytes()).hexdigest()
    run = _Training(lm, preset, encoded[: preset.rows], [about.variant, base_digest, digest(rows), begun])
    if start is not None:
        run.start_from(start)
    before = run.held_out_loss(held_out)
    run.resume(out / CHECKPOINT)
    run.go_on(out / CHECKPOINT)
    facts = {
        "variant": about.variant,
        **({} if start is None else {"goes on from": start.name}),
        "rows": preset.rows,
        "steps": len(run.steps),
        "tokens learnt": run.tokens,
        "seconds": round(run.seconds),
        "loss on held-out rows": f"{before:.3f} before, {run.held_out_loss(held_out):.3f} after",
        **{
            name: value
            for name, value in asdict(preset).items()
            if name not in ("rows", "checkpoint_seconds")
        },
    }
    options = {"r": preset.rank, "lora_alpha": preset.alpha, "target_modules": list(TARGETS)}
    return write_adapter(
        run.changes,
        options,
        lm,
        out,
        about,
        base=base,
        base_digest=base_digest,
        data_digest=digest(rows),
        facts=facts,
    )


class _Training:
    """One run: the model with its low-rank changes, their optimiser, and how far it has come."""

    def __init__(
        self, lm: sk.LanguageModel, preset: Preset, rows: Sequence[TokenRow], identity: list[str]
    ) -> None:
        torch.manual_seed(preset.seed)
        if lm.device.type == "cpu":  # rows are short: the fused attention's backward costs more than it saves
            lm.hf.set_attn_implementation("eager")
        self.lm, self.preset, self.rows = lm, preset, rows
        self.changes = adapt(lm.hf, TARGETS, preset.rank, preset.alpha)
        self.trained = [factor for change in self.changes for factor in (change.down, change.up)]
        self.loss: Any = _loss
        if preset.compiled:  # one block's code serves them all, so it is compiled in a minute
            self.loss = torch.compile(_loss, dynamic=True)
            for block in lm.blocks:
                block.compile(dynamic=True)
        self.optimiser = torch.optim.AdamW(
            self.trained, lr=preset.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.steps = plan([len(row.ids) for row in rows], preset.rows_a_step, preset.seed)
        self.identity = [*identity, *map(str, asdict(preset).values())]
        self.done, self.tokens, self.seconds = 0, 0, 0.0

    def go_on(self, checkpoint: Path) -> None:
        """Take the steps that are left, with a checkpoint every few minutes and at the end."""
        started = saved = time.monotonic()
        earlier = self.seconds
        with Progress() as bar:
            task = bar.add_task("training", total=len(self.steps), completed=self.done)
            for step in range(self.done, len(self.steps)):
                loss, norm = self._step(step)
                self.done = step + 1
                now = time.monotonic()
                self.seconds = earlier + now - started
                rate = self.tokens / self.seconds
                bar.update(task, completed=self.done, description=f"loss {loss:.3f}, {rate:.0f} tokens/s")
                if self.done % 10 == 0 or self.done == len(self.steps):
                    bar.print(
                        f"step {self.done}/{len(self.steps)} loss {loss:.4f} gradient {norm:.2f} {self.seconds:.0f} s"
                    )
                if now - saved > self.preset.checkpoint_seconds or self.done == len(self.steps):
                    self._save(checkpoint)
                    saved = time.monotonic()

    def held_out_loss(self, rows: Sequence[TokenRow]) -> float:
        """Mean loss per token, in nats, on rows that are not trained on."""
        count = _wanted(rows)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # too few rows to compile for
            return sum(float(part) for part in self._losses(rows, count))

    def start_from(self, adapter: Path) -> None:
        """Take over an adapter's factors. Raises MisuseError where they are not of this rank and these projections."""
        saved = load_file(adapter / WEIGHTS_FILE)
        own = named(self.changes)
        if {name: tensor.shape for name, tensor in saved.items()} != {n: t.shape for n, t in own.items()}:
            raise MisuseError(f"{adapter} is an adapter of other projections or of another rank")
        with torch.no_grad():
            for name, factor in own.items():
                factor.copy_(saved[name])
        self._merge()

    def resume(self, checkpoint: Path) -> None:
        """Go back to a checkpoint, if there is one."""
        if not checkpoint.is_file():
            return
        state = torch.load(checkpoint, weights_only=True)
        if state["identity"] != self.identity:
            raise MisuseError(
                f"{checkpoint} is of another run (variant, preset, data or base): name another --out"
            )
        with torch.no_grad():
            for parameter, value in zip(self.trained, state["trained"], strict=True):
                parameter.copy_(value)
        self._merge()
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.tokens, self.seconds = state["done"], state["tokens"], state["seconds"]

    def _step(self, step: int) -> tuple[float, float]:
        rows = [self.rows[number] for number in self.steps[step]]
        count = _wanted(rows)
        total = 0.0
        for loss in self._losses(rows, count):
            loss.backward()
            total += loss.item()
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.preset.clip))
        for group in self.optimiser.param_groups:
            group["lr"] = self.preset.rate(step, len(self.steps))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._merge()
        self.tokens += sum(len(row.ids) for row in rows)
        return total, norm

    def _losses(self, rows: Sequence[TokenRow], count: int) -> Iterator[Tensor]:
        """The mean loss over `count` tokens, in parts; the head reads only the positions that it is asked about."""
        for some in portions(rows, self.preset.tokens_a_portion):
            ids, wanted = tensors(some, self.lm.device)
            states = self.lm.decoder(input_ids=ids, use_cache=False).last_hidden_state
            head = self.lm.hf.get_output_embeddings().weight
            yield self.loss(states[:, :-1][wanted[:, 1:]], head, ids[:, 1:][wanted[:, 1:]]) / count

    def _merge(self) -> None:
        for change in self.changes:
            change.merge()

    def _save(self, checkpoint: Path) -> None:
        state: dict[str, Any] = {
            "identity": self.identity,
            "trained": [parameter.detach().cpu() for parameter in self.trained],
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        with replacing(checkpoint, "the checkpoint") as scratch:
            torch.save(state, scratch)


def _loss(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(linear(states, head).float(), targets, reduction="sum")


def _wanted(rows: Sequence[TokenRow]) -> int:
    return sum(len(row.ids) - row.prompt_length for row in rows)


if __name__ == "__main__":
    main()
