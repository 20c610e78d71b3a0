# ruff: noqa: ARG001, ARG005 (the calls of a table are given the same things, and `files` is where a test stands)
"""Kind 7, what a user reasonably writes: it is taken, or one line of steerkit's own says what to write.

`C…` are inputs on which an earlier version failed, `N…` further ones of the same kind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steerkit as sk
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.interventions.spec import parse_range
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.scoring.answers import is_correct
from tests.bench import item, pair
from tests.command_line import Outcome, steerkit
from tests.tiny import random_vector


@pytest.fixture(scope="module")
def lm(tiny: LanguageModel) -> LanguageModel:
    return tiny


@pytest.fixture(scope="module")
def vector(tiny: LanguageModel) -> SteeringVector:
    return random_vector(tiny)


@pytest.fixture
def files(tmp_path: Path, tiny_vector: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a vector, pairs and a suite under awkward names."""
    monkeypatch.chdir(tmp_path)
    for name in AWKWARD:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_vector.read_bytes())
    Path("PAIRS.JSONL").write_text("\n".join(pair(f"p{i}") for i in range(6)))
    Path("ITEMS.JSONL").write_text("\n".join(map(question, range(40))))
    return tmp_path


def question(number: int) -> str:
    odd = bool(number % 2)
    return item(f"i{number}", should_abstain=odd, prompt=f"{'Who?' if odd else 'What?'} {number}")


def succeed(*arguments: object, stdin: str = "") -> Outcome:
    outcome = steerkit(*arguments, stdin=stdin)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(code: int, *arguments: object, stdin: str = "") -> str:
    """The one line in which a command refuses."""
    outcome = steerkit(*arguments, stdin=stdin)
    (line,) = outcome.err.splitlines()
    assert (outcome.code, line[:7]) == (code, "error: ")
    return line


# Numbers of NumPy and torch

NUMBERS = {
    "int64": (np.int64(2), np.float64(1.5)),
    "int32": (np.int32(2), np.float32(1.5)),
    "uint8": (np.uint8(2), np.float16(1.5)),
    "array of none": (np.array(2), np.array(1.5)),
    "tensor": (torch.tensor(2), torch.tensor(1.5)),
    "whole float": (2.0, 1.5),
}


@pytest.mark.parametrize(("layer", "strength"), NUMBERS.values(), ids=NUMBERS)
def test_c39_numbers_of_numpy_and_torch_are_numbers(
    layer: Any, strength: Any, vector: SteeringVector
) -> None:
    expected = vector.at(2, 1.5, half_life=1.5)
    assert vector.at(layer=layer, strength=strength, half_life=strength) == expected
    assert sk.Steering(vector, layer, strength, half_life=strength) == expected
    assert str(vector.at([layer], strength, half_life=strength)) == str(expected)
    assert type(vector.at(layer).layers[0]) is int
    clamp = vector.at(layer, strength, operation="clamp", target=strength)
    assert clamp == vector.at(2, 1.5, operation="clamp", target=1.5)
    assert (
        vector.at(2, gate=sk.PositionGate(vector, strength)).to_json()
        == vector.at(2, gate=sk.PositionGate(vector, 1.5)).to_json()
    )


SEVERAL = [
    [1, 2],
    (1, 2),
    {1, 2},
    np.array([1, 2]),
    torch.tensor([1, 2]),
    range(1, 3),
    np.arange(1, 3),
    iter([1, 2]),
]


@pytest.mark.parametrize("layers", SEVERAL, ids=lambda each: type(each).__name__)
def test_n_several_layers_come_in_any_form(layers: Any, vector: SteeringVector) -> None:
    assert vector.at(layers).layers == (1, 2)


@pytest.mark.parametrize(
    "layers", ["14", "1,2", 1.5, np.float64(1.5), True, None, [1, "a"], [[1]], {}, float("nan")]
)
def test_n_what_is_no_layer_is_one_line(layers: Any, vector: SteeringVector) -> None:
    with pytest.raises(MisuseError, match="layer"):
        vector.at(layers)


@pytest.mark.parametrize(
    "strength", ["1", None, True, float("nan"), np.inf, 10**400, [1.0], np.array([1.0, 2.0])]
)
def test_n_what_is_no_strength_is_one_line(strength: Any, vector: SteeringVector) -> None:
    with pytest.raises(MisuseError, match="strength is a finite number"):
        vector.at(1, strength)


def test_n_decoding_takes_numbers_of_numpy_and_records_pythons_own() -> None:
    given = sk.Decoding(
        max_new_tokens=np.int64(8),
        temperature=np.float32(0.5),
        top_p=torch.tensor(0.5),
        seed=np.int64(3),
        top_k=np.int32(5),
        stop_token_ids=np.array([1, 2]),
        stop=np.str_("x"),
    )
    assert given == sk.Decoding(8, 0.5, 0.5, 3, 5, stop_token_ids=(1, 2), stop=("x",))
    assert {
        type(each) for each in (given.max_new_tokens, given.seed, given.top_k, *given.stop_token_ids)
    } == {int}


@pytest.mark.parametrize(
    "field", ["max_new_tokens", "seed", "top_k", "temperature", "top_p", "min_p", "stop_token_ids"]
)
@pytest.mark.parametrize("value", ["8", None, 1.5j, [1.5], float("nan")])
def test_n_a_decoding_of_anything_else_is_one_line(field: str, value: Any) -> None:
    with pytest.raises(MisuseError, match=field):
        sk.Decoding(**{field: value})


def test_n_grids_and_measurements_take_numbers_of_numpy(vector: SteeringVector) -> None:
    expected = sk.Grid(vector, [1, 2], [0.5, 1.0], {"half_life": [8.0]}, control_strengths=[1.0])
    for layers, strengths in (
        (np.array([1, 2]), np.array([0.5, 1.0])),
        (torch.tensor([1, 2]), torch.tensor([0.5, 1.0])),
        (np.arange(1, 3), np.linspace(0.5, 1, 2)),
    ):
        grid = sk.Grid(
            vector, layers, strengths, {"half_life": np.array([8])}, control_strengths=np.float64(1)
        )
        assert [cell.id for cell in grid.cells()] == [cell.id for cell in expected.cells()]
    assert sk.Grid(vector, np.int64(1), np.float32(2)).cells() != []
    measured = sk.Measurement(limit=np.int64(2), samples=np.int64(2))
    assert (type(measured.limit), type(measured.samples)) == (int, int)
    assert len(sk.load_suite("abstention").limit(np.int64(4))) == 4
    assert vector.random_control(np.int64(1)).name == vector.random_control(1).name
    assert vector.head is not None


@pytest.mark.parametrize("seed", [np.int64(3), torch.tensor(3), 3])
def test_n_seeds_of_numpy_give_the_same_control(seed: Any, vector: SteeringVector) -> None:
    assert vector.random_control(seed).digest == vector.random_control(3).digest


@pytest.mark.parametrize("limit", ["4", 1.5, 0, None.__class__, np.float64("nan")])
def test_n_a_limit_of_anything_else_is_one_line(limit: Any) -> None:
    with pytest.raises(MisuseError, match="limit"):
        sk.Measurement(limit=limit)


def test_n_vectors_are_scaled_by_numbers_of_numpy(vector: SteeringVector) -> None:
    for factor in (np.float64(2), np.int64(2), torch.tensor(2.0), 2):
        assert torch.equal((vector * factor).direction, vector.direction * 2)
        assert torch.equal((factor * vector).direction, vector.direction * 2)


def test_n_rules_and_gates_take_numbers_of_numpy(vector: SteeringVector) -> None:
    assert sk.ThinkingBudget(tokens=np.int64(8)) == sk.ThinkingBudget(tokens=8)
    assert sk.DetectorGate("entropy", np.float64(0.25)).to_json()["threshold"] == 0.25
    assert type(sk.DetectorGate("entropy", np.float64(0.25)).threshold) is float
    for threshold in ("0.5", None, float("nan"), 2):
        with pytest.raises(MisuseError, match="threshold"):
            sk.DetectorGate("entropy", threshold)  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="threshold"):
        sk.PositionGate(vector, "a")  # type: ignore[arg-type]


# A vector, a name or a path where another thing is taken

REMEDY = r"vector\.at\(layer="


def in_steer(lm: LanguageModel, *given: Any) -> None:
    with sk.steer(lm, *given):
        pass


WRONG: dict[str, tuple[str, Callable[[Any, Any, Path], Any]]] = {
    "C40 a vector for a grid": (r"sk\.Grid\(", lambda lm, v, at: sk.sweep(lm, v, out=at / "run")),
    "C40 the grid's words in a sweep": (
        r"sk\.Grid\(",
        lambda lm, v, at: sk.sweep(
            lm, v, layers="1", strengths="1", suite="abstention", limit=2, out=at / "r"
        ),
    ),
    "a name for a grid": (r"sk\.Grid\(", lambda lm, v, at: sk.sweep(lm, "abstain", out=at / "run")),
    "a steering in a grid": ("cells_beside", lambda lm, v, at: sk.Grid(v.at(1))),
    "a model in a grid": ("vector", lambda lm, v, at: sk.Grid(lm, 1)),
    "a suite that is none": ("suite", lambda lm, v, at: sk.sweep(lm, sk.Grid(v, 1), 3, out=at / "run")),
    "C41 a vector in steer": (REMEDY, lambda lm, v, at: in_steer(lm, v)),
    "several in a list": (r"\*", lambda lm, v, at: in_steer(lm, [v.at(1), v.at(2)])),
    "a spec in steer": (r"sk\.parse", lambda lm, v, at: in_steer(lm, "random@layer=1")),
    "a path in steer": ("steering", lambda lm, v, at: in_steer(lm, Path("x.safetensors"))),
    "rows of vectors": (REMEDY, lambda lm, v, at: in_rows(lm, [[v]])),
    "rows without lists": ("one list", lambda lm, v, at: in_rows(lm, [v.at(1)])),
    "a vector in a request": (REMEDY, lambda lm, v, at: sk.Request("Hi", v)),
    "a vector among interventions": (REMEDY, lambda lm, v, at: sk.Request("Hi", (v,))),
    "a spec in a request": (r"sk\.parse", lambda lm, v, at: sk.Request("Hi", "tip")),
    "a number in a request": ("got int", lambda lm, v, at: sk.Request("Hi", (3,))),
    "a vector to be scored": (REMEDY, lambda lm, v, at: sk.ScoreRequest("Hi", "you", v)),
    "a vector to be calibrated": (REMEDY, lambda lm, v, at: sk.calibrate(lm, v, kl=0.1)),
    "a vector to be exported": (REMEDY, lambda lm, v, at: sk.export(v, to="gguf", out=at / "x.gguf")),
    "a vector beside a grid": (REMEDY, lambda lm, v, at: sk.Grid(v, 1, cells_beside=[v])),
    "a vector on the axis edit": (REMEDY, lambda lm, v, at: sk.Grid(v, 1, axes={"edit": [None, v]})),
    "a name for a model": (r"sk\.load_model\('smol'\)", lambda lm, v, at: sk.extract("smol", "abstention")),
    "a name for a model to steer": (r"sk\.load_model", lambda lm, v, at: in_steer("smol", v.at(1))),
    "a name for a model to sweep": (
        r"sk\.load_model",
        lambda lm, v, at: sk.sweep("m", sk.Grid(v, 1), out=at / "r"),
    ),
    "a path for a model": (r"sk\.load_model", lambda lm, v, at: sk.extract(at, "abstention")),
    "transformers' own model": ("tokenizer", lambda lm, v, at: in_steer(lm.hf, v.at(1))),
    "its model to extract from": ("tokenizer", lambda lm, v, at: sk.extract(lm.hf, "abstention")),
    "its model to be run": ("tokenizer", lambda lm, v, at: sk.TransformersEngine(lm.hf)),
    "a name for a model to probe": (
        r"sk\.load_model",
        lambda lm, v, at: sk.fit_probe("m", "suite:abstention"),
    ),
    "a name for a model to import for": (
        r"sk\.load_model",
        lambda lm, v, at: sk.import_vector(at / "x.pt", "m"),
    ),
    "C42 a set that there is not": ("built-in sets", lambda lm, v, at: sk.extract(lm, "joy")),
    "a vector for pairs": ("pairs", lambda lm, v, at: sk.extract(lm, v)),
    "texts for pairs": ("pairs", lambda lm, v, at: sk.extract(lm, ["yes", "no"])),
    "dicts for pairs": ("list of dict", lambda lm, v, at: sk.extract(lm, [{"id": "a", "prompt": "b"}])),
    "no pairs": ("pairs", lambda lm, v, at: sk.extract(lm, None)),
    "a spec for a vector": ("layer", lambda lm, v, at: sk.load_vector("abstain.safetensors@layer=1")),
    "a number for a vector": ("vector", lambda lm, v, at: sk.load_vector(3)),
    "a number for pairs": ("pairs", lambda lm, v, at: sk.load_pairs(3)),
    "a number for a suite": ("suite", lambda lm, v, at: sk.load_suite(3)),
    "a number for a run": ("run", lambda lm, v, at: sk.open_run(3)),
    "a number for a spec": ("spec", lambda lm, v, at: sk.parse(3)),
    "a file's name for a gate": (r"sk\.load_probe", lambda lm, v, at: v.at(1, gate="gate.safetensors")),
    "a vector for a gate": ("PositionGate", lambda lm, v, at: v.at(1, gate=v)),
    "a text for prompts": ("prompts", lambda lm, v, at: sk.calibrate(lm, v.at(1), kl=0.1, prompts="Why?")),
    "a null in a name": ("no", lambda lm, v, at: sk.load_vector("a\x00b")),
    "a null in the name of pairs": ("no", lambda lm, v, at: sk.load_pairs("a\x00b")),
}


def in_rows(lm: LanguageModel, rows: Any) -> None:
    with sk.steer(lm, rows=rows):
        pass


@pytest.mark.parametrize(("remedy", "call"), WRONG.values(), ids=WRONG)
def test_n_a_slip_in_a_notebook_is_one_line_that_says_what_to_write(
    remedy: str,
    call: Callable[[Any, Any, Path], Any],
    lm: LanguageModel,
    vector: SteeringVector,
    tmp_path: Path,
) -> None:
    with pytest.raises(SteerkitError, match=remedy) as caught:
        call(lm, vector, tmp_path)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


def test_c42_names_paths_and_objects_are_taken_alike(
    lm: LanguageModel, files: Path, vector: SteeringVector
) -> None:
    pairs = sk.load_pairs("PAIRS.JSONL")
    expected = sk.extract(lm, pairs).digest
    for given in ("PAIRS.JSONL", Path("PAIRS.JSONL"), list(pairs), tuple(pairs)):
        assert sk.extract(lm, given).digest == expected
    assert sk.load_pairs(pairs) is pairs
    assert sk.load_vector(vector) is vector
    suite = sk.load_suite(Path("ITEMS.JSONL"))
    assert sk.load_suite(suite) is suite
    labelled = sk.load_labelled(Path("ITEMS.JSONL"))
    assert sk.extract(lm, suite).digest == sk.extract(lm, labelled).digest
    assert sk.fit_probe(lm, "ITEMS.JSONL").digest == sk.fit_probe(lm, labelled).digest
    assert sk.parse(vector.at(1)) == vector.at(1)
    assert sk.parse_all("tip") == sk.parse_all(["tip"])
    assert sk.Request("Hi", vector.at(1)) == sk.Request("Hi", (vector.at(1),))
    assert sk.Request("Hi", [vector.at(1)]) == sk.Request("Hi", (vector.at(1),))
    assert sk.load_model(lm) is lm
    assert [f.code for f in sk.lint("PAIRS.JSONL")] == [f.code for f in sk.lint(pairs)]


def test_c40_a_sweep_takes_a_suite_by_name_path_or_itself(
    lm: LanguageModel, files: Path, vector: SteeringVector
) -> None:
    grid = sk.Grid(vector, 1, 1, control_strengths=())
    suite = sk.load_suite("ITEMS.JSONL")
    few = sk.Suite(suite.name, suite.split("choose").items[:2])
    run = sk.sweep(lm, grid, few, out="run")
    assert run.protocol.suite == "ITEMS"
    assert sk.Measurement(Path("ITEMS.JSONL")).whole == suite


def test_c43_latex_is_judged_in_a_thread() -> None:
    pytest.importorskip("math_verify")
    found: list[object] = []

    def judge() -> None:
        try:
            found.append(is_correct(r"\boxed{\frac{3}{1}}", ["3"], "latex"))
        except SteerkitError as error:
            found.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert found == [True]


# Specs, ranges, paths

AWKWARD = [
    "me@home.safetensors",
    "at@home/gate.safetensors",
    "a b/x  y.safetensors",
    "a,b.safetensors",
    "k=v.safetensors",
    "a@k=v.safetensors",
    'it\'s "so".safetensors',
    "你 é.safetensors",
    "a#b.safetensors",
    "a@layer=3,x.safetensors",
    "UPPER.SAFETENSORS",
    "[b]:x:.safetensors",
    "--x.safetensors",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_c24_a_path_in_a_spec_may_hold_anything(name: str, files: Path, tiny_vector: Path) -> None:
    digest = sk.load_vector(tiny_vector).digest
    (steering,) = sk.parse_all(f"{name}@layer=1,strength=2")
    assert (steering.tensors[0].digest, steering.layers, steering.strength) == (digest, (1,), 2.0)  # type: ignore[attr-defined]
    with pytest.raises(MisuseError, match="names no layer"):
        sk.parse(name if "@layer" not in name else f'"{name}"')


@pytest.mark.parametrize("name", AWKWARD)
def test_c23_a_path_of_a_gate_may_hold_anything(
    name: str, files: Path, tiny: LanguageModel, tiny_vector: Path
) -> None:
    probe = sk.fit_probe(tiny, sk.load_labelled("ITEMS.JSONL"), name="g")
    probe.save(name)
    quoted = sk.parse(f"{tiny_vector}@layer=1,gate={_in_quotes(name)}")
    assert quoted.gate.name == "g"  # type: ignore[union-attr]
    from steerkit.sweeps.axes import axis_values

    for text in (_in_quotes(name), *([] if "," in name else [name])):
        none, gate = axis_values("gate", f"none,{text}")
        assert (none, gate.name) == (None, "g")


def _in_quotes(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def test_c23_a_sweep_takes_a_gate_whose_path_holds_an_at(
    files: Path, tiny: LanguageModel, tiny_folder: Path
) -> None:
    sk.fit_probe(tiny, sk.load_labelled("ITEMS.JSONL"), name="g").save("at@home/gate.safetensors")
    grid = [
        "--vector",
        "me@home.safetensors",
        "--layers",
        1,
        "--strengths",
        1,
        "--limit",
        2,
        "--max-new-tokens",
        2,
    ]
    succeed(
        *("sweep", "--model", tiny_folder, *grid, "--axis", "gate=at@home/gate.safetensors"),
        *("--suite", "ITEMS.JSONL", "--out", "run"),
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("me@home.safetensors", "names no layer; write me@home.safetensors@layer=14"),  # C24
        ("v@layer=14,15", "write layer=14+15"),  # C25
        ("v@layer=14, 15 ,16", "write layer=14+15+16"),
        ("v@layer=[14,15]", "write layer=14+15"),
        ("v@14", "write layer=14"),
        ("v@14,15", "write layer=14+15"),
        ("v@layer=14 strength=1", "write layer=14,strength=1"),
        ("v@layer=14 15", "write 4+8+12 or start:stop:step"),
        ("v@layer=14-16", "write 4+8+12 or start:stop:step"),
        ("v@layer=all", "write 4+8+12 or start:stop:step"),
        ("v@layer=1,strength=1,2", "strength takes one value"),
        ("v@layer=1,strength=1:2:1", "is not a number"),
        ("v@layer=1e400", "is not a number"),
        ("v@layer=0:1:1e-99999", "is not a whole number"),
        ("v@layer=9999999999999999999999", "is out of range"),
        ("v@layer=1;strength=2", "no vector file 'strength=2'"),
    ],
)
def test_c25_a_spec_that_cannot_be_read_says_what_to_write(
    spec: str, said: str, files: Path, tiny_vector: Path
) -> None:
    Path("v").write_bytes(tiny_vector.read_bytes())
    assert said in refused(2, "generate", "--steer", spec, "Hi")


ENDLESS = [
    "0:1:1e-99999",
    "0:1:1e-999999999999999999",
    "0:1:1e-300",
    "-1e300:1e300:1e-5",
    "0:1e308",
    "1:0:-1e-9999",
]


@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("kind", [int, float])
def test_c26_an_endless_range_is_one_line(text: str, kind: type[int] | type[float]) -> None:
    with pytest.raises(MisuseError, match=r"too many values|whole number"):
        parse_range(text, kind)


@pytest.mark.parametrize(
    "text",
    [
        "0:1:0",
        "nan",
        "inf",
        "-inf:1",
        "1e400",
        "0:inf",
        "0:1:nan",
        "1e-99999:x",
        "1::2",
        ":",
        "1:2:3:4",
        "0x10",
        "1;2",
    ],
)
def test_c26_a_range_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(MisuseError, match="range"):
        parse_range(text)


def test_n_a_tiny_number_is_a_number() -> None:
    assert parse_range("1e-99999") == (0.0,)
    assert parse_range("1e-300:1e-300") == (1e-300,)


def test_c28_suffixes_are_read_in_any_case(files: Path, tiny_folder: Path) -> None:
    grid = [
        "--vector",
        "UPPER.SAFETENSORS",
        "--layers",
        1,
        "--strengths",
        1,
        "--limit",
        2,
        "--max-new-tokens",
        2,
    ]
    succeed("sweep", "--model", tiny_folder, *grid, "--suite", "ITEMS.JSONL", "--out", "run")
    succeed("extract", "--model", tiny_folder, "--pairs", "PAIRS.JSONL", "--out", "OUT.SAFETENSORS")
    assert sk.load_suite("ITEMS.JSONL").name == "ITEMS"
    torch.save(torch.ones(32), "vec_layer_1.PT")
    succeed("import", "vec_layer_1.PT", "--model", tiny_folder, "--out", "x.safetensors")
    succeed("export", "x.safetensors@layer=1,scope=all", "--to", "gguf", "--out", "X.GGUF")
    succeed("import", "X.GGUF", "--model", tiny_folder, "--out", "y.safetensors")
    assert "GGUF" in steerkit("generate", "--model", "X.GGUF", "Hi").err.splitlines()[-1]


def test_c27_two_vectors_of_one_name_are_told_apart(
    files: Path, tiny: LanguageModel, tiny_folder: Path
) -> None:
    random_vector(tiny, seed=5).save("other.safetensors")
    vectors = [
        "--vector",
        "me@home.safetensors",
        "--vector",
        "other.safetensors",
        "--vector",
        "a,b.safetensors",
    ]
    grid = [
        "--layers",
        1,
        "--strengths",
        1,
        "--control-strengths",
        "none",
        "--limit",
        2,
        "--max-new-tokens",
        2,
    ]
    outcome = succeed("sweep", "--model", tiny_folder, *vectors, *grid, "--out", "run")
    cells = {cell.vector for cell in sk.open_run("run").directory.cells.values() if cell.role == "steered"}
    digests = (sk.load_vector("me@home.safetensors").digest, sk.load_vector("other.safetensors").digest)
    assert cells == {f"random-{digest[:6]}" for digest in digests}  # a copy is the same vector
    assert "2 vectors are called 'random'" in outcome.err
    assert "1 of the 3 vectors given is a copy of another" in outcome.err


# Standard input, chat


def test_c33_a_dash_is_standard_input(files: Path, tiny_folder: Path) -> None:
    short = ["--model", tiny_folder, "--max-new-tokens", 2]
    expected = succeed("generate", *short, "Why?\nTwo lines").out
    assert succeed("generate", *short, "-", stdin="Why?\nTwo lines\n").out == expected
    assert "the prompt is empty" in refused(2, "generate", *short, "-")
    assert "give - once" in refused(2, "generate", *short, "-", "-", stdin="x")
    assert "UTF-8" in refused(1, "generate", *short, "-", stdin="a\udcff")
    pairs, suite = Path("PAIRS.JSONL").read_text(), Path("ITEMS.JSONL").read_text()
    succeed("extract", "--model", tiny_folder, "--pairs", "-", "--out", "a.safetensors", stdin=pairs)
    succeed("extract", "--model", tiny_folder, "--pairs", "PAIRS.JSONL", "--out", "b.safetensors")
    assert sk.load_vector("a.safetensors").digest == sk.load_vector("b.safetensors").digest
    grid = ["--vector", "a.safetensors", "--layers", 1, "--limit", 2, "--max-new-tokens", 2, "--out", "run"]
    succeed("sweep", "--model", tiny_folder, *grid, "--suite", "-", stdin=suite)
    assert sk.open_run("run").protocol.suite == "stdin"
    found = steerkit("pairs", "lint", "-", stdin=pairs).out
    assert found.replace("stdin", "PAIRS") == steerkit("pairs", "lint", "PAIRS.JSONL").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "--out", "-"],
        ["sweep", "--vector", "me@home.safetensors", "--layers", 1, "--out", "-"],
        ["export", "me@home.safetensors@layer=1", "--to", "gguf", "--out", "-"],
        ["import", "-", "--out", "x.safetensors"],
        ["report", "-"],
        ["generate", "--steer", "-", "Hi"],
    ],
)
def test_n_where_a_dash_makes_no_sense_it_is_one_line(arguments: list[object], files: Path) -> None:
    refused(2, *arguments)
    assert not Path("-").exists()


def test_c34_two_slashes_send_a_line_that_begins_with_one(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def reply(_engine: object, _conversation: object, line: str, *_: object) -> None:
        asked.append(line)

    monkeypatch.setattr("steerkit.cli.chat._reply", reply)
    lines = ["//etc/hosts has what?", "/etc/hosts has what?", "///x", "a/b", "//", "/help"]
    outcome = steerkit("chat", "--model", tiny_folder, stdin="\n".join(lines))
    assert asked == ["/etc/hosts has what?", "//x", "a/b", "/"]
    (error,) = (line for line in outcome.err.splitlines() if line.startswith("error:"))
    assert "//" in error
    assert any(line.startswith("//text") for line in outcome.err.splitlines())


@pytest.mark.parametrize("value", ["12,13", "1;2", "nan", "1e400", "0:1:1e-9999", "-1", "x" * 500, "é", "+"])
@pytest.mark.parametrize("command", ["/layer", "/strength"])
def test_n_a_chat_goes_on_after_a_number_that_is_none(
    command: str, value: str, tiny_folder: Path, tiny_vector: Path
) -> None:
    if (command, value) == ("/strength", "-1"):
        pytest.skip("that is a strength")
    chat = ["chat", "--model", tiny_folder, "--steer", f"{tiny_vector}@layer=1", "--max-new-tokens", 2]
    outcome = steerkit(*chat, stdin=f"{command} {value}\n/strength 2\n")
    assert outcome.code == 0
    assert sum(line.startswith("error:") for line in outcome.err.splitlines()) == 1
    assert "strength=2" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", 10**30),
        ("--seed", -5),
        ("--limit", 10**30),
        ("--max-new-tokens", 10**30),
        ("--samples", 10**30),
    ],
)
def test_n_huge_numbers_of_options_are_taken_or_one_line(
    option: str, value: int, files: Path, tiny_folder: Path
) -> None:
    if option == "--samples":
        pytest.skip("so many completions are what is asked for")
    verb = [
        "sweep",
        "--vector",
        "me@home.safetensors",
        "--layers",
        1,
        "--suite",
        "ITEMS.JSONL",
        "--out",
        "run",
    ]
    bounds = [] if option == "--limit" else ["--limit", 2]
    tokens = [] if option == "--max-new-tokens" else ["--max-new-tokens", 2]
    outcome = steerkit(*verb, "--model", tiny_folder, *bounds, *tokens, option, value)
    assert outcome.code in (0, 2)
    assert "Traceback" not in outcome.err


def test_n_fractions_are_no_numbers_here_and_it_is_said(vector: SteeringVector) -> None:
    with pytest.raises(MisuseError, match="finite number"):
        vector.at(1, Fraction(1, 2))  # type: ignore[arg-type]
