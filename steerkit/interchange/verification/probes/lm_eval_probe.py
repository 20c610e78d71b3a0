"""Log-likelihoods of given tokens from lm-eval's `steered` model itself. Runs in lm-eval's environment.

    python lm_eval_probe.py REQUEST.json

The request names `pretrained`, `steer_path` (null for the unsteered model), `dtype`, `device` and `pairs`, each
`[context ids, continuation ids]`. The answer on stdout has `log_likelihoods` (nats) and `version`.

This file stands alone: it imports nothing of steerkit, which need not be installed where it runs.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    """Read the request, measure, answer."""
    from lm_eval.models.hf_steered import SteeredModel  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    options = {"dtype": request["dtype"], "device": request["device"], "batch_size": 4}
    if request["steer_path"]:
        model = SteeredModel(request["pretrained"], request["steer_path"], **options)
    else:
        model = HFLM(request["pretrained"], **options)
    # Tokens instead of text: what is compared is the forward pass, not the two sides' ways to tokenise.
    requests = [(("", ""), context, continuation) for context, continuation in request["pairs"]]
    answers = model._loglikelihood_tokens(requests, disable_tqdm=True)
    totals = [total for total, _ in answers]
    print(json.dumps({"log_likelihoods": totals, "version": f"lm-eval {version('lm_eval')}"}))


if __name__ == "__main__":
    main()
