"""Train the detector of `steerkit.scoring.detector`, and write its weights into the package.

    python -m experiments.abstention_scorer.train [--out FILE]

It is trained on written replies (`written.jsonl`: what their writer meant is their label) and on generated ones
(`second_set.jsonl`, where both readers agree) that are not kept apart. The strength of the penalty is that of the best
log loss in five folds. Training again gives the same weights up to the machine's rounding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import steerkit as sk
from experiments.abstention_scorer.replies import training
from steerkit.scoring.detector import READER, features

OUT = Path(sk.__file__).parent / "data" / "scoring" / "detector.safetensors"
PENALTIES = (0.0003, 0.001, 0.003, 0.01)


def main() -> None:
    """Train, say how well it does in folds, and write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    replies, labels = training()
    read = features(sk.load_model(READER), replies)
    folds = KFold(5, shuffle=True, random_state=0)
    losses = {}
    for penalty in PENALTIES:
        found = cross_val_predict(_model(penalty), read, labels, cv=folds, method="predict_proba")
        losses[penalty] = log_loss(labels, found)
        print(f"C={penalty:g}: log loss {losses[penalty]:.4f} in folds")
    model = _model(min(losses, key=losses.__getitem__)).fit(read, labels)
    scaler, regression = model.named_steps.values()
    weights = regression.coef_[0] / scaler.scale_
    intercept = regression.intercept_ - weights @ scaler.mean_
    save_file({"weights": weights.astype(np.float32), "intercept": intercept.astype(np.float32)}, asked.out)
    print(f"wrote {asked.out}, trained on {len(labels)} replies, {int(np.sum(labels))} of which abstain")


def _model(penalty: float) -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))


if __name__ == "__main__":
    main()
