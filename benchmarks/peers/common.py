"""What every peer's script shares: the job that it is given, its floor, and how it reports.

A script runs as `python -m peers.NAME JOB` from the folder `benchmarks/`, in the peer's own environment: steerkit
is not installed there. It prints one JSON object on its last line:

    {"versions": …,
     "extraction": {"seconds": {"floor", "default", "best", "helped"}, "default": …, "best": …, "helped": …},
     "decoding": {"1": {"seconds": {"unsteered", "one layer", "all layers"}, "note": …}, …},
     "failures": {"extraction" or "decoding": why}}
"""

from __future__ import annotations

import json
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import seconds_of, take_turns
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

Work = Callable[[], object]
# So little that the tokens are the unsteered ones, and the work on both sides is the same.
STRENGTH = 1e-6
BATCH_SIZES = (8, 16)
REASON_LENGTH = 160


@dataclass(frozen=True)
class Pair:
    """A contrast pair; `rendered` is the prompt in the model's chat template, open for the completion."""

    prompt: str
    rendered: str
    positive: str
    negative: str

    @property
    def texts(self) -> tuple[str, str]:
        """Both sides as whole texts, positive first."""
        return self.rendered + self.positive, self.rendered + self.negative


@dataclass(frozen=True)
class Job:
    """What a peer has to do. `floor` holds the bare pass's batches as token ids, `prompts` are unrendered."""

    folder: str
    device: str
    dtype: str
    threads: int
    repeats: int
    decoding_repeats: int
    pairs: Sequence[Pair]
    floor: Sequence[Sequence[Sequence[int]]]
    prompts: Sequence[str]
    rendered: Sequence[str]
    tokens: int
    batches: Sequence[int]

    @classmethod
    def read(cls, path: str) -> Job:
        """The job that `peer_runs` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**content, "pairs": [Pair(**pair) for pair in content["pairs"]]})

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format."""
        return getattr(torch, self.dtype)

    @property
    def pairs_by_length(self) -> list[Pair]:
        """The pairs in the order that pads least."""
        return sorted(self.pairs, key=lambda pair: max(map(len, pair.texts)))

    def load(self) -> tuple[Any, Any]:
        """The model on the device, in the number format that steerkit runs it in, and its tokenizer."""
        config = AutoConfig.from_pretrained(self.folder)
        rope = getattr(config, "rope_parameters", None)
        if rope and "rope_theta" in rope:  # where transformers 5 writes it; 4 looks at the top level
            config.rope_theta = rope["rope_theta"]
        model = AutoModelForCausalLM.from_pretrained(self.folder, config=config, dtype=self.torch_dtype)
        # Transformers 4 does not know the tokenizer class that 5 names in the folder; both know this one.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.folder)
        return model.to(self.device).eval(), tokenizer

    def wait(self) -> None:
        """Let the device finish what was queued on it."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def padded(self, rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask `[row, position]`, padded on the right."""
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    def bare_pass(self, model: Any, pad_id: int) -> Work:
        """The floor: every batch once through the decoder, no LM head, no hook, no cache."""
        batches = [self.padded(rows, pad_id) for rows in self.floor]
        decoder = model.get_decoder()

        @torch.inference_mode()
        def run() -> None:
            for ids, mask in batches:
                decoder(input_ids=ids, attention_mask=mask, use_cache=False)

        return run

    def prompt_batch(self, tokenizer: Any, size: int) -> dict[str, Tensor]:
        """The first `size` rendered prompts, padded on the left."""
        return tokenizer(
            list(self.rendered[:size]),
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(self.device)

    def generate(self, model: Any, tokenizer: Any, batch: Mapping[str, Tensor]) -> None:
        """Transformers' own loop, greedy, exactly `tokens` tokens a row."""
        model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=self.tokens,
            min_new_tokens=self.tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )


class Report:
    """What came of a job; a part that fails is told with its reason, and the others go on."""

    def __init__(self, job: Job, packages: Sequence[str]) -> None:
        self._job = job
        versions = {name: version(name) for name in ("torch", "transformers", *packages)}
        self._content: dict[str, Any] = {
            "versions": {"python": platform.python_version()} | versions,
            "decoding": {},
            "failures": {},
        }

    def extraction(
        self,
        floor: Work,
        default: tuple[str, Work],
        candidates: Mapping[str, Work],
        helped: Mapping[str, Work] | None = None,
    ) -> None:
        """Time the default, the fastest of the candidates and the fastest of those that we helped against the floor.

        Which one is fastest is decided on times that are not reported.
        """
        floor()
        variants = {"floor": floor, "default": default[1]}
        names: dict[str, str] = {"default": default[0]}
        for kind, works in (("best", candidates), ("helped", helped or {})):
            trials: dict[str, float] = {}
            for name, work in works.items():
                try:
                    trials[name] = seconds_of(work, self._job.wait)
                except Exception as error:
                    self.failed(f"extraction, {name}", error)
            if trials:
                names[kind] = min(trials, key=trials.__getitem__)
                variants[kind] = works[names[kind]]
        seconds = take_turns(variants, self._job.repeats, self._job.wait, warm_up=False)
        self._content["extraction"] = {"seconds": seconds} | names

    def decoding(self, size: int, variants: Mapping[str, Work], note: str = "") -> None:
        """Time the steered variants against the same loop, called `unsteered`, for one batch size."""
        seconds = take_turns(variants, self._job.decoding_repeats, self._job.wait)
        self._content["decoding"][str(size)] = {"seconds": seconds, "note": note}

    def failed(self, part: str, error: Exception) -> None:
        """Keep why a part could not be run; the whole story goes to stderr."""
        traceback.print_exception(error, file=sys.stderr)
        first = (
            (str(error).strip() or "no message").splitlines()[0].replace(self._job.folder, "the model folder")
        )
        first = first if len(first) <= REASON_LENGTH else f"{first[:REASON_LENGTH]}…"
        self._content["failures"][part] = f"{type(error).__name__}: {first}"

    def print(self) -> None:
        """The report on one line."""
        print(json.dumps(self._content), flush=True)


def run(packages: Sequence[str], parts: Mapping[str, Callable[[Job, Report], None]]) -> None:
    """Carry out the parts of the job named on the command line, and print the report."""
    job = Job.read(sys.argv[1])
    torch.set_num_threads(job.threads)
    report = Report(job, packages)
    for name, part in parts.items():
        try:
            part(job, report)
        except Exception as error:
            report.failed(name, error)
    report.print()
