"""The options that say how tokens are chosen, in every verb that has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from tests.command_line import steerkit

OPTIONS = ["--temperature", 1, "--top-k", 9, "--min-p", 0.02, "--repetition-penalty", 1.3, "--seed", 3]
HOW = Decoding(12, 1.0, seed=3, top_k=9, min_p=0.02, repetition_penalty=1.3)


@pytest.fixture(scope="module")
def sampling_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a generation config that samples."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "sampling"))
    own = {"do_sample": True, "temperature": 0.8, "top_k": 7, "repetition_penalty": 1.2, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(own))
    return folder


def completions(*arguments: object) -> list[dict[str, Any]]:
    outcome = steerkit("generate", *arguments, "--max-new-tokens", 12, "--json")
    assert outcome.code == 0, outcome.err
    found: list[dict[str, Any]] = json.loads(outcome.out)
    return found


def expected(tiny: LanguageModel, how: Decoding, prompt: str = "Why?") -> dict[str, Any]:
    [done] = TransformersEngine(tiny).generate([Request(prompt, (), how)])
    return {"completion": done.text, "tokens": done.tokens, "finish": done.finish}


def test_generate_decodes_as_it_is_told(tiny: LanguageModel, tiny_folder: Path) -> None:
    [found] = completions("Why?", "--model", tiny_folder, *OPTIONS)
    assert expected(tiny, HOW).items() <= found.items()
    plain = expected(tiny, Decoding(12))["completion"]
    stop = next(letter for letter in plain[1:] if letter.isascii() and not letter.isspace())
    [found] = completions("Why?", "--model", tiny_folder, "--stop", "never there", "--stop", stop)
    assert found["completion"] == plain[: plain.index(stop)].strip()
    assert found["finish"] == "stop"


def test_the_models_own_decoding_is_used_on_request_and_options_stand_before_it(
    tiny: LanguageModel, sampling_folder: Path
) -> None:
    asked = ["Why?", "--model", sampling_folder]
    own = Decoding(12, 0.8, top_k=7, repetition_penalty=1.2)
    assert expected(tiny, Decoding(12)).items() <= completions(*asked)[0].items()
    assert expected(tiny, own).items() <= completions(*asked, "--decoding", "model")[0].items()
    changed = Decoding(12, 0.8, 0.5, 3, top_k=0, repetition_penalty=1.2)
    options = ["--decoding", "model", "--top-k", 0, "--top-p", 0.5, "--seed", 3]
    assert expected(tiny, changed).items() <= completions(*asked, *options)[0].items()


def test_a_setting_of_the_models_that_we_have_not_is_refused_in_one_line(
    sampling_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sampling_folder, tmp_path / "beams"))
    (folder / "generation_config.json").write_text(json.dumps({"num_beams": 4, "eos_token_id": 2}))
    outcome = steerkit("generate", "Why?", "--model", folder, "--decoding", "model", "--max-new-tokens", 3)
    assert outcome.code == 2
    assert "num_beams to 4" in outcome.err


def test_a_sweep_records_its_whole_decoding(sampling_folder: Path, tiny_vector: Path, tmp_path: Path) -> None:
    sweep = ["sweep", "--model", sampling_folder, "--vector", tiny_vector, "--layers", 1, "--strengths", 1]
    sweep += ["--limit", 2, "--control-strengths", "none", "--max-new-tokens", 4]
    told = ["--decoding", "model", "--min-p", 0.1, "--stop", "e", "--stop", "\n"]
    outcome = steerkit(*sweep, *told, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    own = Decoding(4, 0.8, top_k=7, min_p=0.1, repetition_penalty=1.2, stop=("e", "\n"))
    run = RunDirectory(tmp_path / "run")
    assert run.protocol.decoding == own
    assert all("e" not in record.completion for record in run.records())
    again = steerkit(*sweep, *told, "--out", tmp_path / "run")
    assert again.code == 0, again.err
    other = steerkit(*sweep, *told, "--top-k", 3, "--out", tmp_path / "run")
    assert other.code == 2
    assert "decoding.top_k was 7, now 3" in other.err
    report = steerkit("report", tmp_path / "run")
    assert report.code == 0, report.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "temperature 0.8, top-k 7, top-p 1, min-p 0.1, seed 0, repetition penalty 1.2, stopping at" in page


def test_chat_stops_where_it_is_told(tiny: LanguageModel, tiny_folder: Path) -> None:
    plain = expected(tiny, Decoding(12), "hello")["completion"]
    stop = next(letter for letter in plain[1:] if letter.isascii() and not letter.isspace())
    chat = ["chat", "--model", tiny_folder, "--max-new-tokens", 12, "--stop", stop]
    outcome = steerkit(*chat, stdin="hello\n")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == plain[: plain.index(stop)].strip()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stop", ""], "none of them empty"),
        (["--repetition-penalty", 0], "repetition_penalty is above 0"),
        (["--temperature", 1e-9], "temperature is 0"),
        (["--top-k", -1], "top-k"),
        (["--min-p", 2], "min-p"),
        (["--decoding", "mine"], "decoding"),
    ],
)
def test_a_bad_value_is_refused_before_the_model_is_loaded(options: list[object], said: str) -> None:
    for verb in (["generate", "Why?"], ["chat"], ["sweep", "--out", "never"]):
        outcome = steerkit(*verb, "--model", "no/such/model", *options)
        assert outcome.code == 2
        assert said in outcome.err
