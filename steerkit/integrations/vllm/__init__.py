"""steerkit inside vLLM: a plugin that vLLM finds by its entry point. Nothing has to be called or configured.

A request names its steering in its extra arguments (`SamplingParams.extra_args`, `vllm_xargs` over HTTP):

    {"steerkit": ["abstain@layer=14,strength=1.25"]}

and what is to be read of each of its tokens beside it, which the answer has in `kv_transfer_params`:

    {"steerkit_readers": ["abstain@layer=14", "entropy"]}

The contract:

1. The meaning of vectors, operations, scopes, gates and compositions is that of the other engines; the constants and
   their application are the same code (`steerkit.engines.transformers.table`).
2. A request is steered as it asks or it fails. It is checked in the front end (`admission`), which answers 4xx, and
   leaves as constants (`payload`); the engine core (`sharing`) and the workers (`execution`) trust nothing else.
3. Requests of different steerings run in one batch. Each token's slot is looked up once a step (`rows`) and gathered
   by every hooked layer from persistent tables (`tables`), eagerly, compiled, or inside a CUDA graph.
4. Cached prompt blocks are shared only where the steering of their positions is the same (`sharing`).
5. Under tensor parallelism every rank holds the whole residual stream between blocks, so every rank makes the same
   edit from the same tables and nothing is communicated.
6. An unsteered request in the same server computes what it computed without the plugin.

7. Vectors and probes are read of a layer's stream before its own steerings edit it, and logits before anything changes
   them. A step only computes and keeps what is read; the device is waited for once, when a request ends.
8. It is written for vLLM 0.32. Beside another it steers nothing and stops nobody: requests that name a steering are
   refused with the reason, all others are served as if it were not there (`refusing`).
"""

from __future__ import annotations

import functools
from typing import Any

FITS = "0.32"


@functools.cache
def register() -> None:
    """Install the plugin: vLLM calls this in every process that it starts. Doing it again does nothing.

    Raises SteerkitError, which stops the process, where this vLLM can neither be steered nor made to refuse: a server
    that takes steered requests and ignores their steering would be worse.
    """
    import vllm

    from steerkit.integrations.vllm import refusing
    from steerkit.integrations.vllm.patches import Patches

    version = str(getattr(vllm, "__version__", "of no version"))
    patches = Patches()
    try:
        if not version.startswith(f"{FITS}."):
            raise ImportError("another version")
        _install(patches)
    except (ImportError, AttributeError) as error:
        patches.undo()
        refusing.install(
            f"steerkit's plugin does not fit vLLM {version} ({error}), so that nothing can be steered in it: it is "
            f"written for vLLM {FITS}"
        )


def _install(patches: Any) -> None:
    from vllm.v1.worker.gpu_worker import Worker

    from steerkit.integrations.vllm import admission, answers, execution, sharing

    sharing.install(patches)
    admission.install(patches)
    answers.install(patches)

    def load_model(original: Any, worker: Worker, *args: object, **kwargs: object) -> None:
        original(worker, *args, **kwargs)
        execution.attach(worker.model_runner)

    patches.wrap(Worker, "load_model", load_model)
