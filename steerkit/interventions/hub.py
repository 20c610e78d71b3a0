"""Vectors on the Hugging Face hub: how they are named, and how they are fetched and checked.

1. A vector's repository holds `vector.safetensors` and a card, `README.md`, whose front matter says under `steerkit`
   which file it is, its SHA-256, and the fingerprint of the model that it is for. Both go up in one commit.
2. `owner/name[@revision]` names one. A file of that name wins, and says so; `hf://owner/name` means the hub alone.
3. Card and file are taken from one commit. The file's bytes are held against the card's hash, its header against the
   card's fingerprint. Nothing is read that could run code: no pickle, only safetensors.
4. What is in huggingface_hub's cache is read without a network; there, too, it is checked each time.

A hash in the card tells damage and mix-ups, not a forger who may write to the repository: name a commit as revision to
hold on to what was looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerkit.core.characters import one_line
from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.files import LARGEST_TENSORS, fault_of, read_tensors

CARD, FILE = "README.md", "vector.safetensors"
KEY = "steerkit"  # of the front matter, and of a vector's header
SCHEME = "hf://"
_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
_FILES = (".safetensors", ".gguf", ".pt", ".pth", ".bin", ".npz", ".json", ".jsonl", ".md")


class CardEntry(BaseModel):
    """What a card says of the vector beside it."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may say more

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: str

    def check(self, path: Path, where: str) -> None:
        """Raise InputError unless the file at `path` is the one that the card describes. `where` names it."""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise InputError(
                f"{where} is not the file that its card describes: SHA-256 {found[:12]}…, the card says "
                f"{self.sha256[:12]}…; one of them was changed or damaged: do not use it"
            )
        made_for = _fingerprint_of(path)
        if made_for != self.fingerprint:
            raise InputError(
                f"{where} is another model's vector: it is for {made_for or 'an unknown one'}, and its card says "
                f"{self.fingerprint}; do not use it"
            )


@dataclass(frozen=True)
class HubName:
    """A repository on the hub and, where one is named, a revision: a branch, a tag or a commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Pulled:
    """A vector's file and card as they lie in huggingface_hub's cache, checked. `name` has the commit as revision."""

    name: HubName
    file: Path
    card: Path
    entry: CardEntry


def hub_name(reference: object) -> HubName | None:
    """Return what `owner/name[@revision]` or `hf://owner/name[@revision]` names on the hub; None for any other text.

    Raises MisuseError for a text that begins with `hf://` and is no such name.
    """
    text = str(reference)
    found = _NAME.fullmatch(text.removeprefix(SCHEME))
    if found is None and text.startswith(SCHEME):
        raise MisuseError(
            f"{text!r} is no name on the hub: write hf://owner/name or hf://owner/name@revision"
        )
    if found is None or found["repo"].lower().endswith(_FILES):
        return None
    return HubName(found["repo"], found["revision"])


def pull(name: HubName) -> Pulled:
    """Fetch a vector and its card from the hub, or from the cache where it cannot be asked, and check them.

    Raises MisuseError where there is no such repository or revision, InputError where card and file do not belong
    together, SteerkitError where the hub cannot be reached and the cache does not hold it.
    """
    from huggingface_hub import hf_hub_download  # heavy, and for names on the hub alone

    with explained(str(name)):
        card = Path(hf_hub_download(name.repo, CARD, revision=name.revision))
    entry = read_card(card, f"the card of {name}")
    if entry is None:
        raise InputError(
            f"the card of {name} says nothing of a steerkit vector: it was not put there by push_to_hub; fetch its "
            "files yourself, and make a vector of them with `steerkit import`"
        )
    commit = card.parent.name  # the cache keeps a folder a commit
    with explained(f"{entry.file} of {name}"):
        size = hf_hub_download(name.repo, entry.file, revision=commit, dry_run=True).file_size
        if size is not None and size > LARGEST_TENSORS:
            raise InputError(f"{entry.file} of {name} is larger than 1 GiB: that is no vector")
        file = Path(hf_hub_download(name.repo, entry.file, revision=commit))
    entry.check(file, f"{entry.file} of {name}")
    return Pulled(HubName(name.repo, commit), file, card, entry)


def read_card(card: Path, where: str) -> CardEntry | None:
    """Return what a card says of its vector; None where it says nothing. Raises InputError for a damaged one."""
    from huggingface_hub import metadata_load

    try:
        front = metadata_load(card) or {}
    except (ValueError, OSError) as error:
        raise InputError(f"{where} cannot be read: {one_line(str(error))}") from None
    except Exception as error:  # the YAML reader's own
        raise InputError(f"{where} has front matter that is no YAML: {one_line(str(error))}") from None
    if KEY not in front:
        return None
    try:
        entry = CardEntry.model_validate(front[KEY])
    except ValidationError as error:
        raise InputError(f"{where} is {fault_of(error, KEY)}") from None
    if Path(entry.file).name != entry.file or not entry.file.endswith(".safetensors"):
        raise InputError(
            f"{where} names {entry.file!r} as the vector: only a .safetensors file beside the card is read, since "
            "another kind, such as a pickle, can run code"
        )
    return entry


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what huggingface_hub raises inside the block into one line about `what`."""
    from huggingface_hub import errors

    try:
        yield
    except SteerkitError:
        raise
    except errors.GatedRepoError:
        raise MisuseError(
            f"{what} is on the hub for those who accepted its conditions: do so on its page, and log in with "
            "`hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise MisuseError(
            f"the hub has no model repository for {what}, or it is private: check the spelling, or log in with "
            "`hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise MisuseError(
            f"the hub has the repository of {what}, but not that revision: name a branch, a tag or a commit"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise InputError(
            f"the hub does not have {what}: the repository was not filled by push_to_hub, or not whole"
        ) from None
    except errors.HFValidationError as error:
        raise MisuseError(f"{what} is no name on the hub: {one_line(str(error))}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        log_in = ": log in with `hf auth login`, as somebody who may" if status in (401, 403) else ""
        raise SteerkitError(f"the hub refused {what} ({_first_line(error)}){log_in}") from None
    except (errors.LocalEntryNotFoundError, OSError) as error:
        raise SteerkitError(
            f"the hub cannot be asked for {what}, and the cache does not hold it ({_reason(error)}): check the "
            "network, HF_HUB_OFFLINE and HF_ENDPOINT, or name a file"
        ) from None
    except (
        Exception
    ) as error:  # the HTTP client's own kinds, which are no part of huggingface_hub's interface
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore"):
            raise
        raise SteerkitError(
            f"the hub cannot be reached for {what} ({_first_line(error)}): check the network"
        ) from None


def _fingerprint_of(path: Path) -> str:
    """The fingerprint in a vector file's header, empty without one. Raises InputError for another kind of file."""
    header: Mapping[str, Any] = read_tensors(path, "vector")[0]
    try:
        return str(json.loads(header.get(KEY, ""))["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return ""


def _reason(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # one of them is there
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
