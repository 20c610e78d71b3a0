"""Train a sparse autoencoder on the states that `collect` wrote, with SAELens in an environment of its own.

    python3 -m venv .venvs/sae
    .venvs/sae/bin/pip install torch==2.13.0
    .venvs/sae/bin/pip install sae-lens==6.54.12
    .venvs/sae/bin/python experiments/features/train.py --states FOLDER --out vectors/autoencoders/reasoner-2-layer-14

BatchTopK (arXiv 2412.06410): on average `K` features are active a token. SAELens saves it as a JumpReLU autoencoder, in
which a feature is active or not by itself. This file imports nothing of steerkit, which the environment does not have.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file

FEATURES, K = 4096, 32
BATCH, PASSES = 1024, 6
SEED = 0
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
PLACE = {"hook_name": "blocks.14.hook_resid_post", "model_name": "smollm2-135m-reasoner-2"}


def main() -> None:
    """Train, save, and print what it does on held-out states."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=PASSES)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(SEED)
    states = load_file(asked.states / "training.safetensors")["states"]
    held_out = load_file(asked.states / "held-out.safetensors")["states"].float()
    config = BatchTopKTrainingSAEConfig(
        d_in=states.shape[1], d_sae=FEATURES, k=K, normalize_activations="expected_average_only_in"
    )
    sae = BatchTopKTrainingSAE(config)
    for name, value in PLACE.items():
        setattr(sae.cfg.metadata, name, value)
    steps = asked.passes * (len(states) // BATCH)
    trainer_config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=steps * BATCH,
        device="cpu",
        autocast=True,
        lr=1e-3,
        lr_end=1e-4,
        lr_scheduler_name="constant",
        lr_warm_up_steps=200,
        lr_decay_steps=steps // 4,
        n_restart_cycles=1,
        train_batch_size_samples=BATCH,
        dead_feature_window=500,
        feature_sampling_window=1000,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=100,
    )
    started = time.monotonic()
    trainer = SAETrainer(cfg=trainer_config, sae=sae, data_provider=batches(states), evaluator=None)
    trained = trainer.fit()
    trained.save_inference_model(str(asked.out))
    halve(asked.out)
    facts = {"tokens": len(states), "passes": asked.passes, "seconds": round(time.monotonic() - started)}
    print(json.dumps(facts | measured(asked.out, held_out), indent=1))


def batches(states: torch.Tensor):
    """Shuffled batches, pass after pass."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        order = torch.randperm(len(states), generator=generator)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield states[order[start : start + BATCH]].float()


def halve(folder: Path) -> None:
    """Keep the weights in half precision, so that the folder stays under 20 MB."""
    weights = {
        name: tensor.to(torch.float16).contiguous() for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(weights, folder / WEIGHTS)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"dtype": "float16"}, indent=1) + "\n")


@torch.inference_mode()
def measured(folder: Path, states: torch.Tensor) -> dict[str, float]:
    """On held-out states: variance explained, features active a token, and features that are never active."""
    w = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    taken_off = w["b_dec"] * json.loads((folder / CONFIG).read_text())["apply_b_dec_to_input"]
    wrong = total = active = 0.0
    ever = torch.zeros(FEATURES, dtype=torch.bool)
    mean = states.mean(dim=0)
    for some in states.split(4096):
        sums = (some - taken_off) @ w["W_enc"] + w["b_enc"]
        found = sums.relu() * (sums > w["threshold"])
        wrong += float((found @ w["W_dec"] + w["b_dec"] - some).square().sum())
        total += float((some - mean).square().sum())
        active += float((found > 0).sum())
        ever |= (found > 0).any(dim=0)
    return {
        "held-out tokens": len(states),
        "variance explained": 1 - wrong / total,
        "active a token": active / len(states),
        "never active": float((~ever).float().mean()),
    }


if __name__ == "__main__":
    main()
