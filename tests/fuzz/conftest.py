"""What all runs of the fuzz share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.files import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Models and sound files, below a folder that has the cache too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz")
        patch.setenv("STEERKIT_CACHE", str(folder / "cache"))
        patch.setenv("MPLCONFIGDIR", str(folder / "cache" / "matplotlib"))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache" / "inductor"))
        yield World(folder)
