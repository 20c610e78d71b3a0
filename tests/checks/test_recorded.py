"""What was exact for an architecture stays exact: a third of them a run, each held against tests/checks/recorded.json.

`ARCHITECTURES` says which third: 0 (the default), 1, 2, or all. `make test` takes the next with every commit.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

from steerkit.checks import table
from steerkit.checks.page import REVIEWED, page
from steerkit.checks.table import Entry

RECORDED = Path(__file__).with_name("recorded.json")
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
PART = os.environ.get("ARCHITECTURES") or "0"
# One of each kind, for `make fast`: plain, linear attention, state space, convolution, windows, chunks.
FEW = ("llama", "qwen3_5_text", "mamba2", "lfm2", "gemma3_text", "llama4_text")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* cannot share:UserWarning"),  # said once a model; it is on record
    pytest.mark.skipif(
        version("transformers") != table.read_packages(RECORDED)["transformers"],
        reason="the record was made with another version of transformers",
    ),
]
record = table.read_record(RECORDED)
in_part = list(record) if PART == "all" else list(record)[int(PART) :: 3]


def checked(name: str) -> Entry:
    *_, entry = table.check_family(table.chosen([name])[name])
    assert isinstance(entry, Entry)
    return entry


def check(name: str) -> None:
    assert table.worse(checked(name), record[name]) == []


@pytest.mark.parametrize("name", FEW)
def test_one_architecture_of_each_kind_is_as_recorded(name: str) -> None:
    check(name)


@pytest.mark.architectures
@pytest.mark.parametrize("name", [name for name in in_part if name not in FEW])
def test_an_architecture_is_as_recorded(name: str) -> None:
    check(name)


def test_every_family_of_the_installed_transformers_is_on_record() -> None:
    assert list(record) == list(table.chosen([]))


def test_no_cell_on_record_is_wrong() -> None:
    wrong = {
        (name, column): entry.details[column]
        for name, entry in record.items()
        for column, mark in entry.cells.items()
        if mark in ("wrong", "crash")
    }
    assert wrong == {}


def test_why_a_decoder_is_not_exact_everywhere_was_looked_into() -> None:
    decoders = {name: entry for name, entry in record.items() if entry.kind == "decoder"}
    short = {name for name, entry in decoders.items() if set(entry.cells.values()) != {"ok"}}
    assert short == REVIEWED.keys()


def test_what_the_house_promises_of_decoders_holds() -> None:
    decoders = [entry for entry in record.values() if entry.kind == "decoder"]
    loaded = [entry for entry in decoders if entry.cells["load"] == "ok"]
    assert len(decoders) > 150
    assert len(loaded) >= 0.95 * len(decoders)
    assert sum(entry.cells["packed"] == "ok" for entry in loaded) >= 0.85 * len(loaded)
    assert sum(entry.tied for entry in loaded) <= 0.01 * sum(entry.rows for entry in loaded)


def test_the_page_is_made_from_the_record() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(record, table.read_packages(RECORDED))


ENTRY = Entry("LlamaForCausalLM", "decoder", cells={"load": "ok", "packed": "refused"})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Entry("LlamaForCausalLM", "decoder", cells={"load": "ok", "packed": "refused"}), ""),
        (Entry("LlamaForCausalLM", "decoder", cells={"load": "ok", "packed": "ok"}), ""),
        (Entry("LlamaForCausalLM", "decoder", cells={"load": "refused"}), "load was ok and is refused"),
        (
            Entry("LlamaForCausalLM", "decoder", cells={"load": "ok", "packed": "wrong"}),
            "packed was refused and is wrong",
        ),
        (
            Entry("LlamaForCausalLM", "decoder", cells={"packed": "refused"}),
            "load was ok and was not reached",
        ),
        (
            Entry("LlamaForCausalLM", "not built", "ImportError: timm"),
            "was decoder and is not built: ImportError: timm",
        ),
    ],
)
def test_only_what_got_worse_is_told(found: Entry, said: str) -> None:
    told = table.worse(found, ENTRY)
    assert (said in told[0]) if said else told == []


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table.write_record(tmp_path / "record.json", {"llama": ENTRY})
    assert table.read_record(tmp_path / "record.json") == {"llama": ENTRY}
