"""Folders that SAELens wrote, and the activations and reconstructions that it computes itself.

SAELens pins another TransformerLens, so it has an environment of its own (`make test-consumers`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import steerkit as sk
from tests.interchange.conftest import consumer_python

ARCHITECTURES = ("standard", "jumprelu", "gated", "topk", "batchtopk")

# Written and run by SAELens alone: random weights, states, what it makes of them.
SCRIPT = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from sae_lens import SAE
from sae_lens.registry import get_sae_class, get_sae_training_class

folder, architecture = Path(sys.argv[1]), sys.argv[2]
torch.manual_seed(7)
training = architecture == "batchtopk"
made, options = (get_sae_training_class if training else get_sae_class)(architecture)
more = {"k": 3} if architecture in ("topk", "batchtopk") else {}
sae = made(options(d_in=24, d_sae=60, apply_b_dec_to_input=architecture != "jumprelu", **more))
sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
sae.cfg.metadata.model_name = "some-model"
with torch.no_grad():
    for name, parameter in sae.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.3 if name in ("r_mag", "b_dec") else 1.0))
    if architecture == "jumprelu":
        sae.threshold.abs_()
    if training:
        sae.topk_threshold.fill_(1.25)
if training:
    sae.save_inference_model(folder)
else:
    sae.save_model(folder)
sae = SAE.load_from_disk(folder)
states = torch.randn(50, 24)
with torch.no_grad():
    active = sae.encode(states)
    back = sae.decode(active)
save_file({"states": states, "active": active.contiguous(), "back": back.contiguous()}, folder / "said.safetensors")
"""


@pytest.mark.consumers
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_are_those_of_saelens(architecture: str, tmp_path: Path) -> None:
    python = consumer_python("sae_lens")
    asked = [python, "-c", SCRIPT, str(tmp_path), architecture]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = load_file(tmp_path / "said.safetensors")
    found = sk.load_autoencoder(tmp_path)
    assert (said["active"] > 0).any()
    torch.testing.assert_close(found.encode(said["states"]), said["active"], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.decode(said["active"]), said["back"], atol=2e-5, rtol=1e-5)
    assert found.place.layer == 3
