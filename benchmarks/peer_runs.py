"""The peers, each in a virtual environment of its own, on the same folder, pairs and prompts.

Every peer process times the same bare pass as ours does, in turns with its own work; what is compared are the two
quotients, so a difference between environments or minutes of the day cancels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.decoding import prompts_that_run_on
from benchmarks.extraction import against_floor
from benchmarks.floor import whole_text_batches
from benchmarks.measure import Spread, ratios
from benchmarks.rows import Row, Target, at_least
from benchmarks.setting import Workbench

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".venvs"
SET = "abstention"
KINDS = {"best": "its best settings", "default": "its defaults", "helped": "with our help"}
# A bare `torch` would bring gigabytes of CUDA packages; the pinned one is installed before whatever asks for it.
TORCH = "torch=="


@dataclass(frozen=True)
class Peer:
    """One peer: its script and requirements in `peers/`, and what we aim at against it."""

    name: str
    script: str
    against_best: Target | None = None
    against_default: Target | None = None


PEERS = (
    Peer("steering-vectors 0.12.2", "steering_vectors", at_least(1.8), at_least(2.4)),
    Peer("repeng 0.4.0", "repeng", at_least(1.8), at_least(2.4)),
    Peer("TransformerLens 4.3.0 (bridge)", "transformer_lens"),
    Peer("PyPI's steerkit 0.3.0 (another project)", "steerkit_pypi"),
)


def run(bench: Workbench) -> Iterator[Row]:
    """Extraction and steered decoding of every peer; one that cannot run gets a row that says why."""
    ours = ratios(against_floor(bench, SET, ("extract",)), "extract", "floor")
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps(job_of(bench)), encoding="utf-8")
        for peer in PEERS:
            print(f"  {peer.name}", file=sys.stderr, flush=True)
            try:
                report = _carried_out(peer, job, bench.setting.threads)
            except subprocess.CalledProcessError as error:
                yield Row(peer.name, note=f"does not run: {_last_line(error.stderr)}")
                continue
            yield from rows_of(peer, report, ours)


def job_of(bench: Workbench) -> dict[str, Any]:
    """What every peer is given; `peers/common.py` reads it."""
    lm, sizes = bench.lm, bench.sizes
    prompts = prompts_that_run_on(bench, max(sizes.batches))
    return {
        "folder": str(bench.setting.folder),
        "device": bench.setting.device,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": bench.setting.threads,
        "repeats": sizes.repeats,
        "decoding_repeats": sizes.repeats,
        "pairs": [
            {
                "prompt": pair.prompt,
                "rendered": lm.renderer.render(pair.prompt, pair.system),
                "positive": pair.positive,
                "negative": pair.negative,
            }
            for pair in bench.pairs(SET)
        ],
        "floor": [batch.rows for batch in whole_text_batches(lm, bench.texts(SET))],
        "prompts": prompts,
        "rendered": [lm.renderer.render(prompt) for prompt in prompts],
        "tokens": sizes.decoded_tokens,
        "batches": sizes.batches,
    }


def rows_of(peer: Peer, report: Mapping[str, Any], ours: Sequence[float]) -> Iterator[Row]:
    """The rows of one peer's report; `ours` is our time of extraction over the floor's, turn by turn."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    extraction = report.get("extraction")
    for kind, target in (("best", peer.against_best), ("default", peer.against_default), ("helped", None)):
        if extraction and kind in extraction["seconds"]:
            theirs = ratios(extraction["seconds"], kind, "floor")
            yield Row(
                f"{peer.name}: extraction, {KINDS[kind]} / ours",
                *_quotient(theirs, ours),
                target=target,
                note=f"{extraction[kind]}: {Spread.of(theirs).median:.2f} × the bare pass, ours "
                f"{Spread.of(ours).median:.2f} ×; {versions}",
                seconds=extraction["seconds"],
            )
    for size, decoded in report["decoding"].items():
        for name in decoded["seconds"]:
            if name != "unsteered":
                yield Row.of(
                    f"{peer.name}: decoding, batch {size}: {name} / unsteered",
                    ratios(decoded["seconds"], name, "unsteered"),
                    note=decoded["note"],
                    seconds=decoded["seconds"],
                )
    for part, why in report["failures"].items():
        yield Row(f"{peer.name}: {part}", note=f"does not run: {why}")


def _quotient(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Their median over ours; the quartiles are set against each other, which is the wider reading."""
    them, us = Spread.of(theirs), Spread.of(ours)
    return them.median / us.median, them.low / us.high, them.high / us.low


def _carried_out(peer: Peer, job: Path, threads: int) -> dict[str, Any]:
    python = environment(peer.script)
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [python, "-m", f"peers.{peer.script}", job],
        cwd=HERE,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def environment(script: str) -> Path:
    """The interpreter of a peer's environment, which is made on demand and again when its pins change."""
    pins = (HERE / "peers" / f"{script}.txt").read_text(encoding="utf-8")
    folder = ENVIRONMENTS / script
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    if ready.is_file() and ready.read_text(encoding="utf-8") == pins:
        return python
    torch = next(line for line in pins.splitlines() if line.startswith(TORCH))
    install = [str(python), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*install, torch],
        [*install, "-r", str(HERE / "peers" / f"{script}.txt")],
    ):
        subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=True)
    ready.write_text(pins, encoding="utf-8")
    return python


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1].replace(str(HERE), "benchmarks") if lines else "no message"
