"""Vectors on the hub: pushed with a card, pulled and checked, against a fake hub behind the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.interventions.hub import CARD, FILE, HubName, hub_name
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.report.publish import front_matter
from tests.command_line import steerkit
from tests.fake_hub import TOKEN, Hub, fake_hub
from tests.tiny import random_vector, tiny_model

NASTY = "<b>it's: [red]'\"#\n--- #"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the real one, an empty cache, and the token of somebody who may write."""
    from huggingface_hub import constants

    with fake_hub() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        (tmp_path / "cache").mkdir()
        monkeypatch.chdir(tmp_path)
        yield made


@pytest.fixture
def vector(tiny: LanguageModel) -> SteeringVector:
    """A vector for the tiny model with a recommended use."""
    made = random_vector(tiny, name="doubt")
    return made.recommending(made.at(2, 1.5))


def put(hub: Hub, files: dict[str, bytes], repo: str = "me/doubt") -> None:
    """Put files into a repository by other means than ours."""
    hub.repos.setdefault(repo, [])
    hub.commit(repo, files)


def files_of(vector: SteeringVector, tmp_path: Path) -> dict[str, bytes]:
    """What a push of the vector would put there."""
    contents = vector.save(tmp_path / "made" / FILE).read_bytes()
    card = front_matter(vector, hashlib.sha256(contents).hexdigest()).encode()
    return {FILE: contents, CARD: card}


def refused(reference: str, code: int) -> str:
    """What is said where a name is loaded, pulled and verified; the same line each time, and nothing is written."""
    before = sorted(Path().iterdir())
    with pytest.raises(sk.SteerkitError) as raised:
        sk.load_vector(reference)
    for verb in ("pull", "verify"):
        done = steerkit("vectors", verb, reference)
        assert (done.code, done.out) == (code, "")
        assert done.err == f"error: {raised.value}\n"
    assert sorted(Path().iterdir()) == before
    assert raised.value.exit_code == code
    return done.err


def test_names_on_the_hub_are_told_from_files() -> None:
    assert hub_name("me/doubt") == HubName("me/doubt")
    assert hub_name("me/doubt@v1.2") == HubName("me/doubt", "v1.2")
    assert hub_name("hf://me/doubt@refs/pr/3") == HubName("me/doubt", "refs/pr/3")
    for text in (
        "doubt",
        "a/b/c",
        "me/doubt.safetensors",
        "./doubt",
        "/me/doubt",
        "me/doubt@layer=3",
        "me/",
        "~/x",
    ):
        assert hub_name(text) is None, text
    with pytest.raises(sk.SteerkitError, match="hf://owner/name"):
        hub_name("hf://doubt")


def test_a_vector_goes_up_and_comes_back(hub: Hub, vector: SteeringVector, tiny: LanguageModel) -> None:
    pushed = vector.push_to_hub("me/doubt", licence="apache-2.0")
    assert pushed == f"me/doubt@{hub.repos['me/doubt'][-1][0]}"
    assert len(hub.repos["me/doubt"]) == 1  # card and file in one commit
    for name in ("me/doubt", pushed, "hf://me/doubt"):
        back = sk.load_vector(name)
        assert back.digest == vector.digest
        assert back.metadata == vector.metadata
    assert sk.parse("me/doubt@layer=1").tensors[0].digest == vector.digest
    [use] = sk.parse_all(f"{pushed}@strength=2")
    assert (use.layers, use.strength) == ((2,), 2.0)  # type: ignore[attr-defined]
    back.check(tiny)


def test_a_card_says_what_it_is_and_how_it_is_used(hub: Hub, vector: SteeringVector) -> None:
    from huggingface_hub import ModelCard

    vector.renamed(NASTY).push_to_hub("me/doubt", licence="mit")
    files = hub.repos["me/doubt"][-1][1]
    card = ModelCard(files[CARD].decode())
    data = card.data.to_dict()
    assert data["steerkit"] == {
        "file": FILE,
        "sha256": hashlib.sha256(files[FILE]).hexdigest(),
        "fingerprint": vector.metadata.fingerprint,
    }
    assert (data["license"], data["library_name"]) == ("mit", "steerkit")
    assert "layer=2,strength=1.5" in card.text
    assert "Nothing was measured of it" in card.text


def test_a_card_states_effect_and_price_from_a_run(
    hub: Hub, vector: SteeringVector, tiny: LanguageModel, tmp_path: Path
) -> None:
    measurement = sk.Measurement("abstention", split="report", limit=6, decoding=sk.Decoding(3))
    run = sk.sweep(tiny, sk.Grid(vector, layers=[2], strengths=[1.5]), measurement, out=tmp_path / "run")
    vector.push_to_hub("me/doubt", run=run)
    card = hub.repos["me/doubt"][-1][1][CARD].decode()
    assert "Suite abstention, split `report`, 6 items; greedy" in card
    for heading in ("unsteered", "recommended use", "a random direction of its norm"):
        assert f" {heading} |" in card
    row = next(row for row in run.summary() if row.role == "steered")
    level, change = row.levels["over_abstention"], row.changes["over_abstention"]
    assert f"{level.value:.2f} ({change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}])" in card
    with pytest.raises(sk.SteerkitError, match="no records of the vector's recommended use"):
        vector.recommending(vector.at(1)).push_to_hub("me/doubt", run=run)
    with pytest.raises(sk.SteerkitError, match="has no recommended use"):
        vector.recommending().push_to_hub("me/doubt", run=tmp_path / "run")


def test_the_command_line_pushes_pulls_and_verifies(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    vector.save(tmp_path / "doubt.safetensors")
    (tmp_path / "own.md").write_text("---\nlicense: mit\n---\n\n# My own words\n")
    pushed = steerkit("vectors", "push", "doubt.safetensors", "me/other", "--card", "own.md", "--json")
    assert pushed.code == 0
    name = json.loads(pushed.out)["pushed"]
    assert b"# My own words" in hub.repos["me/other"][-1][1][CARD]
    pulled = steerkit("vectors", "pull", name, "--json")
    assert pulled.code == 0, pulled.err
    facts = json.loads(pulled.out)
    assert (facts["source"], facts["file"]) == (name, "other.safetensors")
    assert Path("other.safetensors").read_bytes() == hub.repos["me/other"][-1][1][FILE]
    checked = steerkit("vectors", "verify", "other.safetensors")
    assert checked.code == 0
    assert "other.md agrees" in checked.out
    assert facts["sha256"] in checked.out
    assert steerkit("vectors", "pull", name).code == 0  # the same contents may be there


def test_what_is_pulled_overwrites_no_other_file(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    put(hub, files_of(vector, tmp_path))
    Path("doubt.safetensors").write_text("mine")
    done = steerkit("vectors", "pull", "me/doubt")
    assert (done.code, Path("doubt.safetensors").read_text()) == (2, "mine")
    assert "is there already with other contents" in done.err
    assert steerkit("vectors", "pull", "me/doubt", "--out", "new/mine.safetensors").code == 0
    assert sk.load_vector("new/mine.safetensors").digest == vector.digest


def test_a_tampered_file_is_refused(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    files = files_of(vector, tmp_path)
    put(hub, files | {FILE: files[FILE][:-1] + bytes([files[FILE][-1] ^ 1])})
    assert "is not the file that its card describes: SHA-256" in refused("me/doubt", 1)


def test_a_card_with_a_wrong_hash_is_refused(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    files = files_of(vector, tmp_path)
    put(hub, files | {CARD: front_matter(vector, "0" * 64).encode()})
    assert "the card says 000000000000…" in refused("me/doubt", 1)
    put(hub, files | {CARD: front_matter(vector, "short").encode()})
    assert "damaged at 'sha256'" in refused("me/doubt", 1)


def test_another_models_vector_is_refused(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    other = random_vector(tiny_model(1), name="doubt")
    contents = other.save(tmp_path / "made" / FILE).read_bytes()
    put(hub, {FILE: contents, CARD: front_matter(vector, hashlib.sha256(contents).hexdigest()).encode()})
    said = refused("me/doubt", 1)
    assert f"it is for {other.metadata.fingerprint}, and its card says {vector.metadata.fingerprint}" in said


def test_a_vector_for_another_model_than_the_given_one_is_refused(
    hub: Hub, vector: SteeringVector, tmp_path: Path, plain_folder: Path, tiny_folder: Path
) -> None:
    put(hub, files_of(random_vector(tiny_model(1, width=16, layers=2)), tmp_path), "me/narrow")
    put(hub, files_of(vector, tmp_path))
    done = steerkit("vectors", "pull", "me/narrow", "--model", plain_folder)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "width 16" in done.err
    assert not Path("narrow.safetensors").exists()
    for name in ("narrow", "me/nothing"):  # refused before a model would be looked for
        assert "no-such-model" not in steerkit("vectors", "pull", name, "--model", "no-such-model").err
    assert steerkit("vectors", "verify", "me/doubt", "--model", tiny_folder).code == 0


def test_a_pickle_is_refused_unread(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    poison = pickle.dumps(Evil())
    files = files_of(vector, tmp_path)
    named = files[CARD].replace(b'"vector.safetensors"', b'"vector.pt"')
    put(hub, {CARD: named, "vector.pt": poison})
    assert "can run code" in refused("me/doubt", 1)
    for contents in (poison, _torch_file(tmp_path)):
        digest = hashlib.sha256(contents).hexdigest()
        put(hub, {FILE: contents, CARD: front_matter(vector, digest).encode()})
        assert "no safetensors file" in refused("me/doubt", 1)
    assert not (tmp_path / "ran").exists()


def _torch_file(tmp_path: Path) -> bytes:
    torch.save({"direction": torch.ones(4, 32)}, tmp_path / "made" / "x.pt")
    return (tmp_path / "made" / "x.pt").read_bytes()


@pytest.mark.parametrize("file", ["../vector.safetensors", "/etc/x.safetensors", "a/b.safetensors"])
def test_a_card_names_no_other_place(hub: Hub, vector: SteeringVector, tmp_path: Path, file: str) -> None:
    files = files_of(vector, tmp_path)
    put(hub, files | {CARD: files[CARD].replace(b"vector.safetensors", file.encode())})
    assert "only a .safetensors file beside the card" in refused("me/doubt", 1)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (b"# A model\n", "says nothing of a steerkit vector"),
        (b"---\nsteerkit: [\n---\n", "front matter that is no YAML"),
        (b"---\nsteerkit: 3\n---\n", "damaged at 'steerkit'"),
        (b"---\n- a\n---\n", "cannot be read"),
        (b"---\nsteerkit: !!python/object/apply:os.system ['true']\n---\n", "no YAML"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_damaged_card_is_one_line(
    hub: Hub, vector: SteeringVector, tmp_path: Path, card: bytes, said: str
) -> None:
    put(hub, files_of(vector, tmp_path) | {CARD: card})
    assert said in refused("me/doubt", 1)


def test_what_is_not_there_is_one_line(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    assert "no model repository for me/nothing" in refused("me/nothing", 2)
    put(hub, files_of(vector, tmp_path))
    assert "but not that revision" in refused("me/doubt@v9", 2)
    put(hub, {"weights.bin": b"x"}, "me/model")
    assert "the hub does not have me/model" in refused("me/model", 1)
    hub.gated.add("me/doubt")
    assert "accepted its conditions" in refused("me/doubt", 2)
    assert "is no name on the hub" in steerkit("vectors", "pull", "doubt").err


def test_a_network_that_fails_is_one_line_and_the_cache_serves(
    hub: Hub, vector: SteeringVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda _seconds: None)  # between its own tries
    put(hub, files_of(vector, tmp_path))
    assert sk.load_vector("me/doubt").digest == vector.digest
    put(hub, files_of(vector, tmp_path), "me/later")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert sk.load_vector("me/doubt").digest == vector.digest
    assert "the cache does not hold it" in refused("me/later", 1)
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.broken = True
    assert "me/later" in refused("me/later", 1)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    assert "the hub cannot be asked for me/later" in refused("me/later", 1)


def test_who_may_not_write_is_told_to_log_in(
    hub: Hub, vector: SteeringVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(sk.SteerkitError, match="hf auth login"):
        vector.push_to_hub("me/doubt")
    for name in ("doubt", "me/doubt@v1", "me/doubt.safetensors"):
        with pytest.raises(sk.SteerkitError, match="owner/name"):
            vector.push_to_hub(name)
    assert not hub.repos


def test_a_file_of_that_name_wins_and_says_so(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    put(hub, files_of(vector, tmp_path))
    here = vector * 2.0
    here.save(tmp_path / "here.safetensors").rename(Path("me").mkdir() or tmp_path / "me" / "doubt")
    with pytest.warns(UserWarning, match=r"me/doubt is a file here, and is read; hf://me/doubt is the hub's"):
        assert sk.load_vector("me/doubt").digest == here.digest
    assert not hub.asked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sk.load_vector("hf://me/doubt").digest == vector.digest


def test_a_cached_file_is_checked_again(hub: Hub, vector: SteeringVector, tmp_path: Path) -> None:
    put(hub, files_of(vector, tmp_path))
    sk.load_vector("me/doubt")
    [cached] = (tmp_path / "cache").glob("models--me--doubt/snapshots/*/vector.safetensors")
    target = cached.resolve()
    target.chmod(0o644)
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    assert "is not the file that its card describes" in refused("me/doubt", 1)
