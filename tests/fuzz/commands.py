"""The grammar: a sound command line of some verb, of which a few parts are replaced by odd ones."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests import scripted
from tests.fuzz import files, texts
from tests.fuzz.files import DAMAGES, NOT_TEXTS, SAYINGS, TEMPLATES, World

TERMS = ("xterm", "dumb", "unknown", "", "xterm-256color", "[b]")
ENCODINGS = ("utf-8", "utf-8", "ascii", "latin-1", "cp1252", "cp437", "utf-16", "shift_jis")
HEADS = (
    "",
    "none",
    "prompt",
    "dont-know-system",
    "thinking-budget",
    "refusal-bias",
    "sha256:00",
    "opener-bias",
    "tip",
)
KEYS = (
    "layer",
    "strength",
    "scope",
    "operation",
    "target",
    "half_life",
    "positions",
    "site",
    "gate",
    "gate_layer",
    "along",
    "threshold",
    "tokens",
    "system",
    "instruction",
    "begin",
    "name",
    "openers",
    "bias",
    "mood",
    "",
)
WORDS = (
    "completion",
    "all",
    "prompt",
    "thinking",
    "answer",
    "add",
    "ablate",
    "clamp",
    "rotate",
    "entropy",
    "none",
    "resid_post",
    "z",
)
RULES = (
    "recall s.t. over_abstention<=0.05",
    "recall",
    "recall s.t.",
    "recall s.t. mood<=1",
    "s.t. recall<=1",
    "recall s.t. over_abstention<=nan",
    "recall s.t. over_abstention<=1e999",
    "accuracy s.t. truncated<1 and degenerate<=0",
    "[b]",
    "",
)
GUARANTEES = (
    "over_abstention<=0.9@50%",
    "over_abstention<=0.1@95%",
    "over_abstention_rise<=1e-300@99.999%",
    "recall>=0.5@0.0000001%",
    "recall_rise>=0.5@90%",
    "tokens<=3@95%",
    "over_abstention<=0.1@nan%",
    "@",
    "[b]@5%",
    "",
)


@dataclass(frozen=True)
class Command:
    """What a user types, and where: arguments, standard input, the kind of terminal or the encoding of a pipe."""

    arguments: tuple[str, ...]
    stdin: bytes = b""
    encoding: str = "utf-8"
    columns: int | None = None
    term: str = "xterm"

    @property
    def verb(self) -> str:
        """The verb, or what stands in its place."""
        return " ".join(self.arguments[: 2 if self.arguments[:1] == ("pairs",) else 1])

    def __str__(self) -> str:
        where = (
            f"TERM={self.term!r} COLUMNS={self.columns}"
            if self.columns
            else f"PYTHONIOENCODING={self.encoding}"
        )
        shown = shlex.join(["steerkit", *self.arguments]).encode("unicode_escape").decode()
        return f"{where} {shown[:3000]}  < {self.stdin[:300]!r}"


class Maker:
    """Makes the command of one run, with the files that it names below `here`."""

    def __init__(self, rng: Random, world: World, here: Path) -> None:
        self.rng, self.world, self.here = rng, world, here
        self.oddness = rng.choice((0.05, 0.15, 0.15, 0.3, 0.5))
        self.stdin = b""

    def command(self) -> Command:
        """Return a command of some verb."""
        verbs: dict[Callable[[], list[object]], int] = {
            self.generate: 30,
            self.extract: 14,
            self.lint: 12,
            self.chat: 9,
            self.sweep: 9,
            self.import_vector: 9,
            self.export: 9,
            self.report: 7,
            self.calibrate: 5,
            self.make: 4,
            self.faithfulness: 4,
            self.models: 3,
            self.doctor: 3,
            self.listed: 2,
            self.nonsense: 3,
        }
        (verb,) = self.rng.choices(list(verbs), list(verbs.values()))
        arguments = tuple(texts.argument(_text(part)) for part in verb())
        columns = self.rng.choice((None, None, None, 1, 20, 80, 300))
        return Command(arguments, self.stdin, self.rng.choice(ENCODINGS), columns, self.rng.choice(TERMS))

    # Parts

    def odd(self, factor: float = 1.0) -> bool:
        """Whether this part is an odd one."""
        return self.rng.random() < self.oddness * factor

    def choose(self, sound: object, odd: Callable[[], object]) -> object:
        """Return the sound value, or now and then an odd one."""
        return odd() if self.odd() else sound

    def some(self, *options: tuple[str, Callable[[], object], Callable[[], object]]) -> list[object]:
        """Return some of these options, each with a sound value or an odd one; now and then one is given twice."""
        given: list[object] = []
        for option, sound, odd in options:
            for _ in range(2):
                if self.rng.random() < 0.06:
                    value = self.choose(sound(), odd)
                    given += [f"{option}={_text(value)}"] if self.rng.random() < 0.7 else [option, value]
        return given

    def flags(self, *names: str) -> list[object]:
        """Return some of these flags."""
        return [name for name in names if self.rng.random() < 0.2]

    def file(self, suffix: str, content: bytes) -> Path:
        """Write a file of an odd name, and return its path, given as it is, relative, or by a link."""
        name = texts.name(self.rng, suffix) if self.odd() else f"file{suffix}"
        path = self.here / name
        while path.exists():
            path = path.with_name(f"x{path.name}"[:200])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        match self.rng.randrange(8):
            case 0:
                return path.relative_to(self.here)
            case 1:
                link = self.here / "link"
                if not link.is_symlink():
                    link.symlink_to(path)
                return link
            case _:
                return path

    def no_file(self) -> object:
        """Return what is no file, or none that can be read."""
        loop = self.here / "loop"
        if not loop.is_symlink():
            loop.symlink_to(loop)
            (self.here / "memory").symlink_to("/proc/self/mem")
            (self.here / "folder.safetensors").mkdir()
        return self.rng.choice(
            (
                loop,
                "memory",
                self.here,
                "folder.safetensors",
                ".",
                "..",
                "/",
                "/dev/null",
                "/proc/self/mem",
                "missing.jsonl",
                "missing.safetensors",
                "~",
                "~nobody/x",
                self.world.pairs / "below",
                "x" * 300,
                "y/" * 3_000,
                texts.text(self.rng),
                self.rng.choice(texts.NAMES),
                self.model_folder(),
                self.world.run / "records.jsonl",
            )
        )

    def out(self, suffix: str) -> object:
        """Return where to write."""
        if not self.odd():
            return f"out{suffix}"
        taken = self.here / "taken"
        taken.write_bytes(b"as it was")
        return self.rng.choice(
            (
                texts.name(self.rng, suffix),
                f"new/folders/{texts.name(self.rng, suffix)}",
                taken,
                taken / "below",
                self.here,
                "/proc/x/y",
                "/proc/v",
                "/dev/null",
                "/dev/full",
                "-",
                "",
                ".",
                "..",
                "z" * 300,
                texts.text(self.rng).replace("/", "|"),
                self.no_file(),
            )
        )

    def model_folder(self) -> object:
        """Return a model's folder, sound or odd."""
        rng = self.rng
        kind = rng.choices(("template", "saying", "scripted", "damage", "plain"), (6, 5, 5, 4, 2))[0]
        names = {
            "template": [*TEMPLATES, *NOT_TEXTS],
            "saying": [f"says {place}" for place in range(len(SAYINGS))],
            "scripted": [*scripted.BUILDERS],
            "damage": [*DAMAGES],
            "plain": ["plain"],
        }
        return self.world.model(rng.choice(names[kind]))

    def model(self, factor: float = 1.0) -> list[object]:
        """Return `--model` with what belongs to it."""
        rng = self.rng
        given: object = self.world.model("tiny")
        if self.odd(1.5 * factor):
            match rng.randrange(10):
                case 0:
                    given = self.no_file()
                case 1:
                    given = self.file(".gguf", files.binary(rng, self.world.gguf.read_bytes()))
                case 2:
                    given = rng.choice(
                        ("no/such", "gpt-17", "a/b/c", "", "/", "-", " ", "no such/model", "no/[b]", "é/ü")
                    )
                case 3:
                    given = self.here / rng.choice(texts.NAMES)
                    if not os.path.lexists(given):
                        shutil.copytree(self.world.model("tiny"), given)
                case _:
                    given = self.model_folder()
        more = self.some(
            (
                "--device",
                lambda: "cpu",
                lambda: rng.choice(("tpu", "meta", "cuda", "cpu:1", "", "cuda:99", texts.text(rng))),
            ),
            (
                "--dtype",
                lambda: rng.choice(("float32", "auto")),
                lambda: rng.choice(("float16", "int3", "", texts.text(rng))),
            ),
        )
        if self.odd(0.3):
            more += self.some(
                (
                    "--device-map",
                    lambda: "auto",
                    lambda: rng.choice(("{", "{}", '{"": 0}', "moon", '{"a": null}', "[]")),
                ),
                ("--max-memory", lambda: "cpu=1GB", lambda: rng.choice(texts.ASSIGNMENTS)),
                ("--offload-folder", lambda: "offload", self.no_file),
                ("--quantization", lambda: "8bit", lambda: rng.choice(("4bit", "3bit", ""))),
            )
        return ["--model", given, *more]

    def number(self) -> str:
        """Return an odd number."""
        return self.rng.choice(texts.NUMBERS)

    def small(self) -> str:
        """Return an odd number of how often something is done, which is never large."""
        if self.rng.random() < 0.5:
            return self.rng.choice(("1", "2", "3", "0", "-1", "+2", "02", " 1 "))
        return self.rng.choice(
            [each for each in texts.NUMBERS if len(each.strip("+-0")) < 4 and "e" not in each]
        )

    def text(self) -> str:
        """Return an odd text."""
        return texts.text(self.rng)

    def decoding(self) -> list[object]:
        """Return some of the options of decoding."""
        rng = self.rng
        return self.some(
            ("--system", lambda: "Be brief.", self.text),
            ("--template-option", lambda: "enable_thinking=false", lambda: rng.choice(texts.ASSIGNMENTS)),
            ("--temperature", lambda: 0.7, self.number),
            ("--top-p", lambda: 0.9, self.number),
            ("--top-k", lambda: 5, self.number),
            ("--min-p", lambda: 0.1, self.number),
            ("--repetition-penalty", lambda: 1.1, self.number),
            ("--stop", lambda: ".", self.text),
            ("--decoding", lambda: "model", lambda: rng.choice(("models", "", "none"))),
            ("--seed", lambda: 7, self.number),
        )

    def engine(self) -> list[object]:
        """Return options of the engine: none as a rule, for there is one here."""
        rng = self.rng
        if not self.odd(0.3):
            return self.some(("--batch-size", lambda: 2, self.number))
        urls = (
            "",
            "http://[",
            "ftp://x",
            "127.0.0.1",
            "http://\n",
            "http://127.0.0.1:99999",
            "http://x\u202ey",
        )
        engines = ("vllm", "server", "", "[b]", "Transformers")
        return self.some(
            ("--engine", lambda: "transformers", lambda: rng.choice(engines)),
            ("--vllm-option", lambda: "x=1", lambda: rng.choice(texts.ASSIGNMENTS)),
            ("--server", lambda: "http://127.0.0.1:9", lambda: rng.choice(urls)),
            ("--timeout", lambda: 1, self.small),
        )

    def length(self, sound: int = 4) -> list[object]:
        """Return `--max-new-tokens`."""
        return ["--max-new-tokens", self.choose(sound, self.small)]

    def vector_file(self) -> object:
        """Return a vector's file, sound or odd."""
        rng = self.rng
        if not self.odd(1.5):
            return self.world.vector
        match rng.randrange(10):
            case 0:
                return self.no_file()
            case 1:
                return self.file(".safetensors", files.binary(rng, self.world.vector.read_bytes()))
            case 2:
                return self.file(".pt", files.torch_file(rng))
            case 3:
                return self.file(".gguf", files.binary(rng, self.world.control_vector.read_bytes()))
            case 4:
                return self.file(".svec", files.lines(rng, [{"directions": {"0": [1.0] * files.WIDTH}}]))
            case 5:
                return rng.choice(
                    (self.world.probe, self.world.pairs, self.world.model("tiny") / "model.safetensors")
                )
            case 6:
                return self.file(".safetensors", self.world.vector.read_bytes())
            case 7:
                source = rng.choice((self.world.probe, self.world.vector))
                return self.file(".safetensors", files.safetensors_of(rng, source))
            case _:
                return self.file(".safetensors", files.safetensors_of(rng, self.world.vector))

    def spec(self) -> object:
        """Return a spec string, sound or odd."""
        rng, vector = self.rng, _text(self.vector_file())
        if rng.random() < 0.2:
            vector = json.dumps(vector)
        if not self.odd(1.5):
            sound = (
                f"{vector}@layer=1",
                f"{vector}@layer=0+1,strength=2,scope=all",
                f"{vector}@layer=1,gate={self.world.probe}",
                f"{vector}@layer=1,along={self.world.other},threshold=0",
                f"{vector}@layer=1,gate=entropy,threshold=0.5",
                f"{vector}@layer=1,operation=ablate,scope=thinking",
                "dont-know-system",
                "thinking-budget@tokens=2",
                'prompt@system="Be brief.",begin="Sure"',
                f"{self.world.run}#{self.cell(self.world.run)}",
            )
            return rng.choice(sound)
        head = rng.choice((vector, vector, vector, rng.choice(HEADS), self.text(), f"{self.world.run}#"))
        values = (
            lambda: rng.choice(texts.RANGES),
            lambda: rng.choice(WORDS),
            self.text,
            lambda: json.dumps(self.text()),
        )
        keys = [rng.choice(KEYS) for _ in range(rng.randrange(4))]
        options = [
            f"{key}{rng.choice(('=', '=', '=', '', '==', ' = '))}{rng.choice(values)()}" for key in keys
        ]
        layer = ["layer=1"] if rng.random() < 0.6 else []
        comma, at = rng.choice((",", ",", ";", " ", ",,")), rng.choice(("@", "@", "@", "", "@@"))
        joined = f"{head}{at}{comma.join([*layer, *options])}"
        return joined if rng.random() < 0.8 else f"{joined};{rng.choice(HEADS)}"

    def cell(self, run: Path) -> str:
        """Return the id of a cell of a run."""
        rows = [json.loads(line) for line in (run / "cells.jsonl").read_text().splitlines()]
        return str(self.rng.choice(rows)["id"])

    def rows(self, reference: Path, built_in: tuple[str, ...]) -> object:
        """Return a file of pairs or items, sound or odd."""
        rng = self.rng
        if not self.odd(2.0):
            return reference
        match rng.randrange(8):
            case 0:
                return self.no_file()
            case 1:
                return rng.choice(built_in)
            case 2:
                self.stdin = files.lines(rng, _read(reference))
                return "-"
            case 3:
                return rng.choice((self.world.vector, self.world.gguf, self.world.run / "records.jsonl"))
            case _:
                return self.file(".jsonl", files.lines(rng, _read(reference)))

    def pairs(self) -> object:
        """Return contrast pairs."""
        return self.rows(
            self.world.pairs, ("nothing", "", "suite:nothing", "suite:", "suite:a:b", "Abstention")
        )

    def suite(self) -> object:
        """Return a suite."""
        odd = (
            "nothing",
            "",
            ":",
            "gsm8k:",
            f"gsm8k:{self.world.pairs}",
            "umwp:missing",
            "brevity:99",
            "brevity:x",
            "abstention:1",
        )
        return self.rows(self.world.suite, odd)

    def run(self, sound: Path) -> object:
        """Return a run directory, sound or odd."""
        rng = self.rng
        copy = self.here / (rng.choice(texts.NAMES) if self.odd() else "run")
        shutil.copytree(sound, copy, dirs_exist_ok=True)
        if not self.odd(2.0):
            return copy
        if rng.random() < 0.15:
            return self.no_file()
        found = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != ".lock")
        path = rng.choice(found)
        match rng.randrange(5):
            case 0:
                path.unlink()
            case 1:
                path.unlink()
                path.mkdir()
            case 2 | 3 if path.suffix == ".jsonl":
                path.write_bytes(files.lines(rng, _read(path)))
            case 2 | 3 if path.suffix == ".json":
                path.write_bytes(files.lines(rng, [json.loads(path.read_text())]))
            case _:
                path.write_bytes(files.binary(rng, path.read_bytes()))
        return copy

    def prompt(self) -> object:
        """Return a prompt."""
        if not self.odd(2.0):
            return "How many boats?"
        if self.rng.random() < 0.2:
            self.stdin = self.bytes()
            return "-"
        return self.text()

    def bytes(self) -> bytes:
        """Return an odd text in an odd writing."""
        written = self.text().encode(self.rng.choice(("utf-8", "utf-8", "utf-16", "latin-1")), "replace")
        return written + self.rng.choice((b"", b"\n", b"\r\n", b"\xff\n", b"\x00"))

    # Verbs

    def generate(self) -> list[object]:
        """Return a `generate`."""
        steers = [part for _ in range(self.rng.choice((0, 1, 1, 2))) for part in ("--steer", self.spec())]
        dashes = ["--"] if self.rng.random() < 0.6 else []
        samples = self.some(("--samples", lambda: 2, self.small))
        prompts = [self.prompt() for _ in range(self.rng.choices((1, 2, 0), (16, 6, 1))[0])]
        flags = self.flags("--json", "--json", "--compare", "--allow-mismatch")
        return [
            "generate",
            *self.model(2.0),
            *self.length(),
            *steers,
            *samples,
            *self.decoding(),
            *self.engine(),
            *flags,
            *dashes,
            *prompts,
        ]

    def chat(self) -> list[object]:
        """Return a `chat`, and what is said in it."""
        rng = self.rng
        verbs = (
            "/strength",
            "/layer",
            "/scope",
            "/off",
            "/on",
            "/clear",
            "/help",
            "/",
            "//",
            "/dance",
            "///",
            "/ strength",
        )
        said = []
        for _ in range(rng.randrange(5)):
            if rng.random() < 0.5:
                said.append(
                    f"{rng.choice(verbs)} {rng.choice((rng.choice(texts.RANGES), rng.choice(WORDS), '', self.text()))}"
                )
            else:
                said.append(_text(self.prompt()))
        end = rng.choice(("\n", "\r\n", "", "\n/quit\n", "\n/exit\nmore\n", "\x00", "\n\udcff\n"))
        self.stdin = ("\n".join(said) + end).encode("utf-8", rng.choice(("surrogatepass", "replace")))
        steers = ["--steer", self.spec()] if rng.random() < 0.6 else []
        return [
            "chat",
            *self.model(2.0),
            *self.length(),
            *steers,
            *self.decoding(),
            *self.flags("--allow-mismatch"),
        ]

    def extract(self) -> list[object]:
        """Return an `extract`."""
        rng = self.rng
        out = ["--out", self.out(".safetensors")]
        if rng.random() < 0.3:
            labelled = self.rows(self.world.labelled, ("suite:nothing", "suite:", "abstention"))
            more = self.some(
                ("--budget", lambda: 0.1, self.number),
                ("--into", lambda: self.world.vector, self.vector_file),
                ("--name", lambda: "probe", self.text),
                ("--site", lambda: "resid_post", lambda: rng.choice(("z", "moon", "resid_pre", ""))),
            )
            return [
                "extract",
                "--as",
                "probe",
                "--pairs",
                labelled,
                *out,
                *self.model(),
                *more,
                *self.flags("--json"),
            ]
        estimators = ("pca", "logistic", "lda", "random", "mean-difference")
        learned = rng.random() < 0.1
        method = ["--method", "contrastive-energy", "--option", "steps=1", "--layers", "1"] if learned else []
        more = self.some(
            (
                "--method",
                lambda: rng.choice(estimators),
                lambda: rng.choice(("magic", "", "contrastive-energy")),
            ),
            (
                "--aggregation",
                lambda: rng.choice(("last", "mean")),
                lambda: rng.choice(("prompt", "first", "")),
            ),
            ("--site", lambda: rng.choice(("resid_post", "z")), lambda: rng.choice(("moon", ""))),
            ("--layers", lambda: 1, lambda: rng.choice(texts.RANGES)),
            ("--project-out", lambda: rng.choice(("mean", "content")), self.vector_file),
            ("--name", lambda: "v", self.text),
            ("--seed", lambda: 1, self.number),
            ("--budget", lambda: 0.1, self.number),
        )
        if learned or self.odd(0.3):
            more += self.some(("--option", lambda: "steps=1", lambda: rng.choice(texts.ASSIGNMENTS)))
        return [
            "extract",
            "--pairs",
            self.pairs(),
            *out,
            *self.model(),
            *method,
            *more,
            *self.flags("--json"),
        ]

    def lint(self) -> list[object]:
        """Return a `pairs lint`."""
        model = self.model() if self.rng.random() < 0.3 else []
        more = self.some(
            (
                "--contrast",
                lambda: self.rng.choice(("length", "content")),
                lambda: self.rng.choice(("colour", "")),
            ),
            ("--suite", lambda: self.world.suite, self.suite),
        )
        given = model[:2]
        dashes = ["--"] if self.rng.random() < 0.5 else []
        self.oddness = max(self.oddness, 0.3)
        return ["pairs", "lint", *given, *more, *self.flags("--json"), *dashes, self.pairs()]

    def make(self) -> list[object]:
        """Return a `pairs make`."""
        behaviour = self.choose(self.rng.choice(("abstention", "brevity")), self.text)
        limit = ["--limit", self.choose(2, self.small)]
        more = self.some(("--split", lambda: "fit", lambda: self.rng.choice(("test", "", "[b]"))))
        out = ["--out", self.out(".jsonl")]
        suite = ["--suite", self.suite()]
        return [
            "pairs",
            "make",
            behaviour,
            *out,
            *suite,
            *limit,
            *self.length(6),
            *self.model(),
            *more,
            *self.flags("--json"),
        ]

    def sweep(self) -> list[object]:
        """Return a `sweep`."""
        rng = self.rng
        axes = (
            "scope=completion,all",
            "half_life=none,8",
            "scope",
            "mood=good",
            "scope=,",
            "gate=none,entropy",
            "edit=none,dont-know-system",
            'edit=prompt@system="Be',
            f"strength={rng.choice(texts.RANGES)}",
            f"half_life={rng.choice(texts.RANGES)}",
            f"target={self.number()}",
            self.text(),
        )
        more = self.some(
            ("--axis", lambda: rng.choice(axes[:2]), lambda: rng.choice(axes)),
            ("--steer", self.spec, self.spec),
            ("--control-strengths", lambda: "none", lambda: rng.choice(texts.RANGES)),
            ("--choose", lambda: RULES[0], lambda: rng.choice(RULES)),
            ("--guarantee", lambda: GUARANTEES[0], lambda: rng.choice(GUARANTEES)),
            ("--split", lambda: "choose", lambda: rng.choice(("test", "", "report", "fit"))),
            (
                "--scorer",
                lambda: "lengths",
                lambda: rng.choice(("charm", "perplexity", "twins", "judge", "chains", "")),
            ),
            ("--samples", lambda: 1, self.small),
        )
        layers = ["--layers", self.choose("1", lambda: rng.choice(texts.RANGES))]
        strengths = [
            f"--strengths={self.choose('1', lambda: rng.choice([r for r in texts.RANGES if '999' not in r]))}"
        ]
        limit = ["--limit", self.choose(2, self.small)]
        if self.odd(0.3):
            out: object = self.run(self.world.run)
        else:
            out = self.out("")
        fixed = ["--suite", self.suite(), "--vector", self.vector_file(), "--out", out]
        flags = self.flags("--json", "--allow-mismatch")
        return [
            "sweep",
            *fixed,
            *layers,
            *strengths,
            *limit,
            *self.length(3),
            *self.model(),
            *self.decoding(),
            *self.engine(),
            *more,
            *flags,
        ]

    def calibrate(self) -> list[object]:
        """Return a `calibrate`."""
        rng = self.rng
        more = self.some(
            ("--statistic", lambda: "mean", lambda: rng.choice(("p95", "median", ""))),
            ("--scope", lambda: "all", lambda: rng.choice((*WORDS, self.text()))),
            ("--operation", lambda: "add", lambda: rng.choice((*WORDS, self.text()))),
            ("--target", lambda: 1, self.number),
            ("--half-life", lambda: 8, self.number),
            ("--largest", lambda: 2, self.number),
            ("--system", lambda: "Be brief.", self.text),
            ("--batch-size", lambda: 2, self.number),
            ("--out", lambda: self.out(".safetensors"), lambda: self.out(".safetensors")),
        )
        layers = ["--layers", self.choose("1", lambda: rng.choice(texts.RANGES))]
        fixed = [f"--target-kl={self.choose(0.05, self.number)}", "--limit", self.choose(2, self.small)]
        inputs = ["--vector", self.vector_file(), "--suite", self.suite()]
        flags = self.flags("--json", "--negative", "--allow-mismatch")
        return ["calibrate", *inputs, *layers, *fixed, *self.length(3), *self.model(), *more, *flags]

    def report(self) -> list[object]:
        """Return a `report`."""
        more = self.some(
            ("--judge", lambda: "http://127.0.0.1:9", self.text),
            ("--judge-model", lambda: "judge", self.text),
            ("--guarantee", lambda: GUARANTEES[0], lambda: self.rng.choice(GUARANTEES)),
        )
        self.oddness = max(self.oddness, 0.3)
        return ["report", *more, *self.flags("--json"), "--", self.run(self.world.run)]

    def faithfulness(self) -> list[object]:
        """Return a `faithfulness`."""
        tests = ("early", "filler", "paraphrase", "mistakes", "logprob")
        more = self.some(
            (
                "--tests",
                lambda: self.rng.choice(tests),
                lambda: self.rng.choice(("", ",", "early,,", "magic", self.text())),
            ),
            ("--cell", lambda: self.cell(self.world.thinking_run), self.text),
            ("--seed", lambda: 1, self.number),
            ("--batch-size", lambda: 2, self.number),
        )
        model = self.model() if self.odd() else ["--model", self.world.model("m_think")]
        points = ["--points", self.choose(2, self.small), "--limit", self.choose(2, self.small)]
        return [
            "faithfulness",
            *points,
            *model[:2],
            *more,
            *self.flags("--json"),
            "--",
            self.run(self.world.thinking_run),
        ]

    def import_vector(self) -> list[object]:
        """Return an `import`."""
        rng = self.rng
        directions = {"directions": {str(place): [0.5] * files.WIDTH for place in range(files.LAYERS)}}
        kinds: tuple[Callable[[], object], ...] = (
            lambda: self.file(".pt", files.torch_file(rng)),
            lambda: self.file(rng.choice((".pt", ".pth", "_layer_1.pt")), files.torch_file(rng)),
            lambda: self.file(".gguf", files.binary(rng, self.world.control_vector.read_bytes())),
            lambda: self.file(".gguf", files.binary(rng, self.world.gguf.read_bytes())),
            lambda: self.file(".svec", json.dumps(directions).encode()),
            lambda: self.file(".svec", files.lines(rng, [directions])),
            lambda: self.file(
                ".svec", files.lines(rng, [{"directions": {rng.choice(texts.NUMBERS): [texts.text(rng)]}}])
            ),
            self.caa_folder,
            self.vector_file,
            self.no_file,
        )
        more = self.some(("--name", lambda: "v", self.text), ("--layer", lambda: 1, self.number))
        given = rng.choice(kinds)()
        return [
            "import",
            *more,
            "--out",
            self.out(".safetensors"),
            *self.model(0.5),
            *self.flags("--json"),
            "--",
            given,
        ]

    def caa_folder(self) -> Path:
        """Return a folder of one `.pt` a layer."""
        folder = self.here / "vectors"
        folder.mkdir(exist_ok=True)
        for layer in self.rng.choice(((0, 1), (1,), (0, 7), ("x",), ("9" * 30,), ())):
            (folder / f"vec_layer_{layer}.pt").write_bytes(files.torch_file(self.rng))
        return folder

    def export(self) -> list[object]:
        """Return an `export`."""
        rng = self.rng
        to = self.choose(
            rng.choice(("gguf", "lm-eval", "merged")), lambda: rng.choice(("caa", "", "[b]", "GGUF"))
        )
        sound = f"{self.vector_file()}@layer=1,scope=all"
        specs = [self.choose(sound, self.spec) for _ in range(rng.choice((1, 1, 1, 2)))]
        suffix = {"gguf": ".gguf", "lm-eval": ".pt"}.get(str(to), "")
        more = self.some(
            ("--consumer-python", lambda: "/missing/python", self.no_file),
            ("--consumer-model", lambda: self.world.gguf, self.no_file),
        )
        verify = ["--verify"] if self.odd(0.1) else []
        out = ["--to", to, "--out", self.out(suffix)]
        return [
            "export",
            *out,
            *more,
            *verify,
            *self.model(),
            *self.flags("--json", "--allow-mismatch"),
            "--",
            *specs,
        ]

    def models(self) -> list[object]:
        """Return a `models`."""
        rng = self.rng
        if rng.random() < 0.5:
            return ["models", *self.flags("--json")]
        if rng.random() < 0.3:
            return ["models", "--check", *self.flags("--json"), *self.model()[1:2]]
        if rng.random() < 0.5:
            return ["models", *self.flags("--json"), *self.model(3.0)[1:2]]
        record = self.file(".json", files.lines(rng, [{"llama": {"cells": {}}}]))
        more = self.some(
            ("--family", lambda: "nothing", self.text),
            ("--record", lambda: "missing.json", lambda: record),
            ("--page", lambda: self.out(".md"), lambda: self.out(".md")),
        )
        given = [self.text()] if self.odd() else []
        check = ["--check", "--family", rng.choice(("nothing", "", "[b]"))] if rng.random() < 0.5 else []
        return ["models", *check, *more, *self.flags("--json"), *given]

    def doctor(self) -> list[object]:
        """Return a `doctor`."""
        steer = ["--steer", self.spec()] if self.odd() else []
        return ["doctor", *self.model(2.0), *steer, *self.flags("--json")]

    def listed(self) -> list[object]:
        """Return a `list`."""
        kinds = ("suites", "scorers", "edits", "Suites", self.text())
        return ["list", *([self.rng.choice(kinds)] if self.rng.random() < 0.6 else []), *self.flags("--json")]

    def nonsense(self) -> list[object]:
        """Return words that are no command, or ask for help."""
        rng = self.rng
        verbs = (
            "",
            "generate",
            "extract",
            "pairs",
            "sweep",
            "list",
            "Chat",
            "models",
            "import",
            "--version",
            "-h",
            "[b]",
        )
        words = [
            rng.choice((rng.choice(verbs), self.text(), "--help", "-h")) for _ in range(rng.randrange(4))
        ]
        return list(words)


def _read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _text(part: object) -> str:
    return os.fspath(part) if isinstance(part, Path) else str(part)
