"""Registries: what is built in comes first and keeps its names; a stranger's things stand beside it."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from steerkit.core import registry
from steerkit.core.errors import MisuseError
from steerkit.core.registry import Registry, origin, summary_of


def stranger(name: str = "stranger") -> SimpleNamespace:
    """Something that a module outside the package declares."""
    return SimpleNamespace(__module__=name)


@pytest.fixture
def boats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[SimpleNamespace]]:
    """A registry whose home is a package of two modules, each of which declares a boat."""
    kept = dict(sys.modules)
    boats: Registry[SimpleNamespace] = Registry("boat", "boats", "harbour")
    monkeypatch.setattr(registry, "BOATS", boats, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    declares = (
        "from types import SimpleNamespace\n"
        "from steerkit.core import registry\n"
        "registry.BOATS.add('{0}', SimpleNamespace(__module__='steerkit.{0}'))\n"
    )
    (tmp_path / "harbour").mkdir()
    for file, text in (("__init__", ""), ("a", declares.format("ark")), ("b", declares.format("barge"))):
        (tmp_path / "harbour" / f"{file}.py").write_text(text)
    (tmp_path / "dinghies.py").write_text(
        "from types import SimpleNamespace\n"
        "from steerkit.core import registry\n"
        "assert 'barge' in registry.BOATS\n"
        "registry.BOATS.add('dinghy', SimpleNamespace(__module__='dinghies'))\n"
    )
    (tmp_path / "leaky.py").write_text("raise RuntimeError('it leaks')\n")
    monkeypatch.setattr(registry, "_asked", set())
    monkeypatch.setattr(registry, "plugins", lambda: ())
    yield boats
    for name in set(sys.modules) - set(kept):
        del sys.modules[name]


def installed(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    entries = tuple(importlib.metadata.EntryPoint(name, name, registry.PLUGINS) for name in modules)
    monkeypatch.setattr(registry, "plugins", lambda: entries)


def test_every_module_of_the_home_is_loaded_at_the_first_look(boats: Registry[SimpleNamespace]) -> None:
    assert "harbour.a" not in sys.modules
    assert [*boats] == ["ark", "barge"]
    assert len(boats) == 2
    assert [name for name, _ in boats.items()] == ["ark", "barge"]
    assert repr(boats) == "Registry(boats: ark, barge)"


def test_a_thing_is_had_by_name_or_stands_for_itself(boats: Registry[SimpleNamespace]) -> None:
    mine = stranger()
    assert boats.add("canoe", mine) is boats["canoe"] is boats.resolve("canoe") is boats.resolve(mine)
    assert "canoe" in boats


def test_a_name_that_is_not_there_is_answered_with_those_that_are(boats: Registry[SimpleNamespace]) -> None:
    with pytest.raises(MisuseError, match="no boat 'raft'; there are ark, barge"):
        _ = boats["raft"]


@pytest.mark.parametrize("name", ["", "7up", "a b", "-x", "é", "x/y"])
def test_a_name_that_cannot_be_typed_in_a_spec_is_refused(
    boats: Registry[SimpleNamespace], name: str
) -> None:
    with pytest.raises(MisuseError, match="is no name for a boat"):
        boats.add(name, stranger())


def test_what_is_built_in_keeps_its_name_even_before_the_first_look(
    boats: Registry[SimpleNamespace],
) -> None:
    with pytest.raises(MisuseError, match=r"there is a boat 'ark' already, from steerkit\.ark"):
        boats.add("ark", stranger())
    boats.add("canoe", stranger())
    assert [*boats] == ["ark", "barge", "canoe"]


def test_a_plugin_is_loaded_once_and_may_look_things_up(
    boats: Registry[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "dinghies")
    assert [*boats] == [*boats] == ["ark", "barge", "dinghy"]
    assert origin(boats["dinghy"]) == "dinghies"


def test_a_plugin_that_cannot_be_loaded_is_named_and_left_out(
    boats: Registry[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "leaky", "dinghies")
    with pytest.warns(UserWarning, match=r"the plugin 'leaky' \(leaky\) cannot be loaded: it leaks"):
        assert [*boats] == ["ark", "barge", "dinghy"]


def test_a_summary_is_the_first_line_of_what_a_thing_says_of_itself() -> None:
    def said() -> None:
        """Say it.

        And more.
        """

    assert summary_of(said) == "Say it."
    assert summary_of(SimpleNamespace(doc="Its own.\nMore.")) == "Its own."
