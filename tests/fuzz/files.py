"""Odd files and models: sound ones first, then each of them cut, emptied, of another kind, in another writing.

Models and sound files are made once below one folder, and no run may change them; what is made for one run lies in
a folder of its own.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steerkit.models import LanguageModel
from tests import scripted
from tests.bench import cut, pair
from tests.command_line import steerkit
from tests.fuzz import texts
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer, random_vector, tiny_hf
from tests.tiny_gguf import write_tiny_gguf

LAYERS, WIDTH = 2, 16

TEMPLATES: dict[str, str] = {
    "no-system": scripted.NO_SYSTEM,
    "bad-jinja": scripted.BAD_JINJA,
    "always-raises": "{{ raise_exception('no\nway [bold]') }}",
    "undefined": "{% for m in messages %}{{ m.content }}{{ tools.first.name }}{% endfor %}",
    "undefined-call": "{{ strftime_now('%d') }}{{ missing() }}",
    "no-filter": "{{ messages | no_such_filter }}",
    "type-error": "{{ messages + 1 }}",
    "zero-division": "{{ 1 / 0 }}",
    "index": "{{ messages[99]['content'] }}",
    "empty": "{# nothing #}",
    "blank": " \n ",
    "constant": "always the same",
    "opens-thinking": CHAT_TEMPLATE.replace("[assistant]", "[assistant]<think>\n"),
    "only-user": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "drops-user": "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}[go]",
    "upper": "{% for m in messages %}{{ m.content | upper }}{% endfor %}[go]",
    "trims": "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}[go]",
    "parts": "{% for m in messages %}{{ m.content[0].text }}{% endfor %}[go]",
    "endless": "{% for i in range(99999999) %}x{% endfor %}",
    "odd letters": CHAT_TEMPLATE + "\x1b[31m\u202e[/x]:x:\x00",
    "tools": "{% if not tools %}{{ raise_exception('tools are needed') }}{% endif %}{{ messages[0].content }}",
}
NOT_TEXTS: dict[str, object] = {
    "template a number": 5,
    "template a list": ["a"],
    "template an object": {"default": CHAT_TEMPLATE},
    "templates by name": [{"name": "default", "template": CHAT_TEMPLATE}],
    "templates without default": [{"name": "tool_use", "template": "x"}],
    "template null": None,
    "template true": True,
}
SAYINGS = tuple(
    text for text in texts.TEXTS if text.strip() and "\ud800" not in text and "\udcff" not in text
)


def _chop(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _with(name: str, key: str, value: object) -> Callable[[Path], None]:
    """A change to a folder: another value in one of its JSON files."""

    def change(folder: Path) -> None:
        path = folder / name
        held = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(held | {key: value}))

    return change


def _on(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: void(change(folder / name))


def void(_: object) -> None:
    """Return nothing."""


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no config": _on("config.json", Path.unlink),
    "config cut": _on("config.json", _chop),
    "config empty": _on("config.json", _write(b"")),
    "config a list": _on("config.json", _write(b"[1]")),
    "config null": _on("config.json", _write(b"null")),
    "config {}": _on("config.json", _write(b"{}")),
    "config not UTF-8": _on("config.json", _write(b"\xff\xfe")),
    "config NaN": _with("config.json", "rms_norm_eps", float("nan")),
    "config of an unknown kind": _with("config.json", "model_type", "[bold]moon"),
    "config of an encoder": _with("config.json", "model_type", "bert"),
    "config of fewer layers": _with("config.json", "num_hidden_layers", 1),
    "config of more layers": _with("config.json", "num_hidden_layers", 3),
    "config of no layers": _with("config.json", "num_hidden_layers", 0),
    "config of words for layers": _with("config.json", "num_hidden_layers", "two"),
    "config of another width": _with("config.json", "hidden_size", 24),
    "config of no heads": _with("config.json", "num_attention_heads", 0),
    "config of a smaller vocabulary": _with("config.json", "vocab_size", 7),
    "config of an unknown dtype": _with("config.json", "dtype", "float3"),
    "config with own code": _with(
        "config.json", "auto_map", {"AutoConfig": "x.Y", "AutoModelForCausalLM": "x.Z"}
    ),
    "config quantised": _with("config.json", "quantization_config", {"quant_method": "gptq", "bits": 4}),
    "short context": _with("config.json", "max_position_embeddings", 4),
    "weights cut": _on("model.safetensors", cut),
    "weights empty": _on("model.safetensors", _write(b"")),
    "weights text": _on("model.safetensors", _write(b"version https://git-lfs.github.com/spec/v1\n")),
    "no weights": _on("model.safetensors", Path.unlink),
    "weights NaN": _on("model.safetensors", lambda path: _spoil(path, float("nan"))),
    "weights Inf": _on("model.safetensors", lambda path: _spoil(path, float("inf"))),
    "index of nothing": _on("model.safetensors.index.json", _write(b'{"weight_map": {}}')),
    "no tokenizer": _on("tokenizer.json", Path.unlink),
    "tokenizer cut": _on("tokenizer.json", cut),
    "tokenizer {}": _on("tokenizer.json", _write(b"{}")),
    "tokenizer config cut": _on("tokenizer_config.json", _chop),
    "tokenizer config a list": _on("tokenizer_config.json", _write(b"[]")),
    "tokenizer of an unknown class": _with("tokenizer_config.json", "tokenizer_class", "[/x]Tokenizer"),
    "eos unknown": _with("tokenizer_config.json", "eos_token", "<never>"),
    "eos a number": _with("tokenizer_config.json", "eos_token", 2),
    "generation config cut": _on("generation_config.json", _write(b"{")),
    "generation config odd": _with("generation_config.json", "temperature", "warm"),
    "generation config eos": _with("generation_config.json", "eos_token_id", "x"),
    "generation config beams": _with("generation_config.json", "num_beams", 4),
    "template not UTF-8": _on("chat_template.jinja", _write(b"\xff\xfe{{ x }}")),
    "template empty": _on("chat_template.jinja", _write(b"")),
    "adapter of nothing": _on("adapter_config.json", _write(b'{"base_model_name_or_path": "../../nowhere"}')),
    "adapter of itself": _on("adapter_config.json", _write(b'{"base_model_name_or_path": "."}')),
    "adapter cut": _on("adapter_config.json", _write(b"{")),
}


def _spoil(path: Path, value: float) -> None:
    weights = load_file(path)
    weights["model.norm.weight"][0] = value
    save_file(weights, path, metadata={"format": "pt"})


class World:
    """What all runs share: models, vectors, pairs, suites and finished runs, each made when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tiny = LanguageModel(tiny_hf(0, LAYERS, WIDTH), byte_tokenizer(), "tiny")
        self._saved("tiny", lambda: self.tiny)
        self.vector = random_vector(self.tiny).save(folder / "vector.safetensors")
        self.other = random_vector(self.tiny, 1, name="other").save(folder / "other.safetensors")
        self.pairs = self._file("pairs.jsonl", "\n".join(pair(f"p{i}", prompt=f"Is {i}?") for i in range(6)))
        labelled = [{"id": f"l{i}", "prompt": f"Who {i}?", "label": bool(i % 2)} for i in range(12)]
        self.labelled = self._file("labelled.jsonl", "\n".join(map(json.dumps, labelled)))
        self.suite = self._file("suite.jsonl", "\n".join(json.dumps(_item(i)) for i in range(24)))
        self.probe = folder / "probe.safetensors"
        self._succeed("extract", "--as", "probe", "--pairs", self.labelled, "--out", self.probe)

    def _file(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path

    def _saved(self, name: str, made: Callable[[], LanguageModel]) -> Path:
        path = self.folder / "models" / name
        if not path.exists():
            scripted.save(made(), path)
        return path

    def _succeed(self, *arguments: object) -> None:
        outcome = steerkit(*arguments, "--model", self.model("tiny"))
        assert outcome.code == 0, outcome.err

    def model(self, name: str) -> Path:
        """Return the folder of a model: `tiny`, `plain`, a scripted one, `says N`, a template's or a damage's name."""
        path = self.folder / "models" / name.replace("/", "_")
        if path.exists():
            return path
        if name == "plain":
            return self._saved(name, lambda: LanguageModel(self.tiny.hf, byte_tokenizer(chat=False), name))
        if name in scripted.BUILDERS:
            return self._saved(name, scripted.BUILDERS[name])
        if name.startswith("says "):
            return self._saved(name, lambda: scripted.scripted([SAYINGS[int(name[5:])]]))
        shutil.copytree(self.model("tiny"), path)
        if name in TEMPLATES:
            (path / "chat_template.jinja").write_text(TEMPLATES[name], newline="")
        elif name in NOT_TEXTS:
            (path / "chat_template.jinja").unlink(missing_ok=True)
            _with("tokenizer_config.json", "chat_template", NOT_TEXTS[name])(path)
        else:
            DAMAGES[name](path)
        return path

    @functools.cached_property
    def gguf(self) -> Path:
        """A sound GGUF file of a model."""
        return write_tiny_gguf(self.folder / "good.gguf")

    @functools.cached_property
    def control_vector(self) -> Path:
        """A sound GGUF file of control vectors."""
        out = self.folder / "control.gguf"
        outcome = steerkit("export", f"{self.vector}@layer=1,scope=all", "--to", "gguf", "--out", out)
        assert outcome.code == 0, outcome.err
        return out

    @functools.cached_property
    def run(self) -> Path:
        """A finished run of a sweep."""
        grid = ["--vector", self.vector, "--layers", 1, "--strengths", 1, "--suite", self.suite, "--limit", 4]
        self._succeed("sweep", *grid, "--max-new-tokens", 3, "--out", self.folder / "run")
        return self.folder / "run"

    @functools.cached_property
    def thinking_run(self) -> Path:
        """A finished run of a model that thinks."""
        model = self.model("m_think")
        out, steer = self.folder / "thinking", self.folder / "short.safetensors"
        scripted.next_to_nothing(scripted.m_think()).save(steer)
        grid = ["--vector", steer, "--layers", 1, "--strengths", 1, "--suite", self.suite, "--limit", 3]
        outcome = steerkit("sweep", *grid, "--max-new-tokens", 16, "--out", out, "--model", model)
        assert outcome.code == 0, outcome.err
        return out


def _item(number: int) -> dict[str, Any]:
    should = bool(number % 2)
    return {
        "id": f"i{number}",
        "prompt": f"How many boats lie in harbour {number}?",
        "should_abstain": should,
        "answers": None if should else ["seven"],
        "scenario": "boats",
    }


# Texts in files


def lines(rng: Random, rows: list[dict[str, Any]]) -> bytes:
    """Return JSONL of these rows, some of them odd, in an odd writing."""
    written = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    for _ in range(rng.choice((0, 1, 1, 2))):
        place = rng.randrange(len(written))
        written[place] = _odd_row(rng, dict(rows[place]))
    joined = rng.choice(("\n",) * 5 + ("\r\n", "\r", "\n\n", "\n \n", "\u2028", "", ","))
    return _odd_bytes(rng, joined.join(written))


def _odd_row(rng: Random, row: dict[str, Any]) -> str:
    key = rng.choice(list(row))
    match rng.randrange(12):
        case 0:
            del row[key]
        case 1:
            row[rng.choice(("extra", "", "ID", "[b]", "id\x00"))] = 1
        case 2:
            row[key] = rng.choice((None, True, 0, -1, 1.5, [], {}, ["a", 1], {"a": "b"}, [[]], float("nan")))
        case 3:
            odd = rng.choice(
                ("", "null", "[1]", "1", '"x"', "{", "{}", "nan", "[" * 100_000, '{"a":' * 5_000, "9" * 5_000)
            )
            return odd
        case 4:
            row[key] = [{"role": rng.choice(("user", "system", "bot", "")), "content": texts.text(rng)}]
        case 5:
            row[key] = [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "user"}]
        case 6:
            return json.dumps(row)[: rng.randrange(1, 40)]
        case 7:
            return json.dumps(row).replace('"', "'")
        case 8:
            row[key] = 10 ** rng.choice((5, 30, 400))
        case _:
            row[key] = texts.text(rng)
    return json.dumps(row, ensure_ascii=rng.random() < 0.7)


def _odd_bytes(rng: Random, text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    match rng.randrange(16):
        case 0:
            return b"\xef\xbb\xbf" + encoded
        case 1:
            return text.encode("utf-16", "surrogatepass")
        case 2:
            return text.encode("latin-1", "replace") + b"\xe9"
        case 3:
            return encoded[: rng.randrange(len(encoded) + 1)]
        case 4:
            return rng.choice((b"", b"\n", b" ", b"\x00", b"\xef\xbb\xbf", b"\xff"))
        case 5:
            return encoded + rng.choice((b"\n", b"\x00", b"\x1a", b"\n\n\xff"))
        case _:
            return encoded


# Files of other kinds


def binary(rng: Random, sound: bytes) -> bytes:
    """Return the bytes of a sound file, cut, spoilt or of another kind."""
    match rng.randrange(7):
        case 0:
            return sound[: rng.randrange(len(sound) + 1)]
        case 1:
            spoilt = bytearray(sound)
            for _ in range(rng.choice((1, 8, 64))):
                spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
            return bytes(spoilt)
        case 2:
            head = bytearray(sound)
            head[rng.randrange(min(len(head), 200))] ^= 1 << rng.randrange(8)
            return bytes(head)
        case 3:
            return sound + b"\x00" * rng.choice((1, 8, 4096))
        case 4:
            return rng.randbytes(rng.choice((1, 7, 8, 9, 100, 5_000)))
        case 5:
            return rng.choice((b"", b"\n", b"{}", b"GGUF", b"PK\x03\x04", b"\x80\x02", b"\xff" * 8 + b"{}"))
        case _:
            return sound


def safetensors_of(rng: Random, sound: Path) -> bytes:
    """Return a safetensors file that is like a sound one but for its tensors or its header."""
    with safe_open(sound, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    header = next(iter(metadata))
    entry = json.loads(metadata[header])
    key = rng.choice(list(entry))
    match rng.randrange(8):
        case 0:
            entry[key] = rng.choice(
                (None, 1, -1, True, [], {}, [None], float("nan"), texts.text(rng), 10**30)
            )
        case 1:
            del entry[key]
        case 2:
            entry[rng.choice(("mood", "name", "format_version"))] = texts.text(rng)
        case 3:
            metadata[header] = texts.text(rng)
            entry = {}
        case 4:
            shape = rng.choice(
                ((), (0,), (WIDTH,), (LAYERS, 0), (3, WIDTH), (LAYERS, 24), (LAYERS, WIDTH, 1))
            )
            tensors = {rng.choice(("direction", "other", "[b]")): torch.ones(shape)}
        case 5:
            tensors["direction"] = torch.full(
                (LAYERS, WIDTH), rng.choice((float("nan"), float("inf"), 0.0, 1e38))
            )
        case 6:
            kind = rng.choice(
                (torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.complex64, torch.uint8)
            )
            tensors["direction"] = torch.ones(LAYERS, WIDTH).to(kind)
        case _:
            tensors = {}
    if entry:
        metadata[header] = json.dumps(entry)
    return _saved_tensors(
        tensors, {key: value.encode("utf-8", "replace").decode() for key, value in metadata.items()}
    )


def _saved_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return bytes(save(tensors, metadata=metadata))


class Touches:
    """What a `.pt` must never run: unpickled, it makes a file beside it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("RAN-FROM-A-PICKLE",))


def torch_file(rng: Random) -> bytes:
    """Return a `.pt`: one direction, one a layer, something else, or code."""
    held: Any = rng.choice(
        (
            torch.ones(WIDTH),
            torch.ones(LAYERS, WIDTH),
            torch.ones(LAYERS + 1, WIDTH),
            torch.ones(7),
            torch.full((LAYERS + 1, WIDTH), float("nan")),
            torch.zeros(LAYERS + 1, WIDTH),
            torch.ones(()),
            torch.ones(0),
            {"direction": torch.ones(WIDTH)},
            {1: torch.ones(WIDTH)},
            {"[bold]": 1},
            [torch.ones(WIDTH)] * 2,
            [],
            None,
            5,
            "text",
            torch.ones(WIDTH, dtype=torch.int64),
            torch.ones(WIDTH, dtype=torch.complex64),
            torch.ones(WIDTH).to_sparse(),
            torch.nn.Linear(2, 2),
            Touches(),
        )
    )
    stream = io.BytesIO()
    if rng.random() < 0.2:
        with contextlib.suppress(Exception):
            return pickle.dumps(held)
    torch.save(held, stream)
    return stream.getvalue()
