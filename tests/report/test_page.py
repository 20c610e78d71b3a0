from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markupsafe import escape

from steerkit.analysis.choosing import Choice, write_choice
from steerkit.analysis.judging import judge_run
from steerkit.analysis.run import open_run
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.base import GateReading
from steerkit.interventions.gate import DetectorGate
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.report.examples import pick_examples, verdict
from steerkit.runs.cells import Cell
from tests.report.conftest import BEST, CELLS, record, write_run


class Contrary:
    """A judge that says the opposite of what a completion looks like."""

    base_url, model, instruction_digest = "http://host/v1", "critic <3", "ab" * 6

    def verdicts(self, examples, _progress=None, **_):
        return ["don't know" not in completion for _, completion in examples]


class Tags(HTMLParser):
    """Collects start tags with their attributes, and whether every element was closed."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(path) -> str:
    return open_run(path).report().read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=[True, False], ids=["abstention", "brevity"])
def page(request, tmp_path_factory) -> str:
    return page_of(write_run(tmp_path_factory.mktemp("page") / "run", request.param))


def test_the_page_asks_nothing_of_the_network(page):
    tags = Tags(page)
    assert not tags.open
    sources = [
        value for _, attributes in tags.seen for name, value in attributes.items() if name in ("src", "href")
    ]
    assert len(sources) >= 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "script" not in {tag for tag, _ in tags.seen}
    assert not re.search(r"url\(|@import|https?://", page)


def test_texts_of_models_and_suites_are_escaped(page):
    assert "<script>" not in page
    assert "tiny &lt;model&gt;" in page


def test_the_page_says_what_was_run_and_what_to_beware_of(page):
    for text in (
        "boats",
        "float32",
        "greedy",
        "split choose",
        "steerkit sweep --strengths=-1:1:2",
        "batch size 8",
    ):
        assert text in page
    assert "4 steered cells were compared" in page
    assert "cut off at" in page
    assert "measure it once on report" in page


def test_every_image_has_a_text(page):
    assert all(attributes["alt"] for tag, attributes in Tags(page).seen if tag == "img")


def test_the_report_leaves_summary_and_plots_beside_it(make_run):
    run = make_run()
    open_run(run).report()
    assert {path.name for path in run.iterdir()} >= {
        "summary.csv",
        "report.html",
        "plots",
        "run.json",
        "records.jsonl",
    }
    assert not list(run.glob("*.tmp"))


def test_a_run_can_be_reported_while_it_has_only_the_unsteered_cell(make_run):
    assert "No steered cell is clearly better" in page_of(make_run(cells=[Cell()]))


def test_a_run_without_records_says_so(make_run):
    with pytest.raises(SteerkitError, match="no records yet"):
        page_of(make_run(cells=[]))


def test_no_run_is_a_misuse(tmp_path):
    with pytest.raises(MisuseError, match="holds no run"):
        page_of(tmp_path)


def test_examples_are_the_items_whose_verdicts_differ_then_those_whose_words_do(make_run):
    records = list(open_run(make_run()).records())
    cells = [Cell().id, BEST.id]
    examples = pick_examples(records, cells, per_kind=3)
    assert [example.expected[:10] for example in examples] == ["should abs"] * 3 + ["answerable"] * 3
    assert all(example.verdicts[0] != example.verdicts[1] for example in examples)
    assert [e.item for e in examples[:3]] == sorted(e.item for e in examples[:3])
    assert pick_examples(records, [cells[0], cells[0]]) == []


def test_a_verdict_is_an_outcome_and_remarks_that_do_not_tell_items_apart():
    made = record(CELLS[0], 0, abstention=True)
    scores = {"abstained": False, "correct": False, "truncated": True, "degenerate": True}
    wrong = verdict(replace(made, scores=scores))
    assert (wrong.outcome, str(wrong)) == ("wrong", "wrong, cut off, degenerate")
    cut = [replace(made, cell=cell, completion=cell, scores={"truncated": cell == "b"}) for cell in "ab"]
    longer = [replace(each, item="z", scores={"correct": each.cell == "b"}) for each in cut]
    found = pick_examples([*cut, *longer], ["a", "b"])
    assert [example.item for example in found] == ["z", made.item]


def test_on_report_the_page_picks_nothing(make_run):
    page = page_of(make_run(cells=[Cell(), BEST, CELLS[-1], CELLS[5]], split="report"))
    assert "none is picked on the split report" in page
    assert "Best cell" not in page
    assert "best cell" not in page
    assert page.count('<div class="card steered">') == 2 * 2  # both cells, for both questions
    assert 'class="steered best"' not in page


def test_on_report_the_page_marks_the_cell_that_was_chosen_elsewhere(make_run):
    run = make_run(cells=[Cell(), BEST, CELLS[-1]], split="report")
    rule = "abstention_recall s.t. over_abstention<=0.05"
    write_choice(run, Choice(rule=rule, cell=BEST.id, spec="abstain@layer=8"))
    page = page_of(run)
    assert "Chosen cell" in page
    assert "<code>abstention_recall s.t. over_abstention&lt;=0.05</code>" in page
    assert page.count('class="steered best"') == 1


def test_what_a_judge_says_stands_beside_the_phrase_rules(make_run):
    run = make_run()
    judge_run(open_run(run).directory, Contrary())
    page = page_of(run)
    assert "A second opinion" in page
    assert "critic &lt;3" in page
    assert "They agree on 0.00 of them" in page


GATED = Cell(
    (
        PromptEdit(system="Be <sure>.", name="sure"),
        replace(BEST.interventions[0], gate=DetectorGate("entropy", 0.25)),
    )
)


def gate_read(cell, made):
    """The record with what the gate of a gated cell read."""
    if cell is not GATED:
        return made
    read = 0.9 if made.should_abstain else 0.1
    return replace(made, gates=(GateReading(1, "entropy", read, read >= 0.25),))


def test_a_gate_gets_its_areas(make_run):
    page = page_of(make_run(cells=[*CELLS, GATED], change=gate_read))
    assert "Refusing by a gate" in page
    assert 'alt="risk, coverage"' in page


def test_gates_and_edits_of_a_cell_are_shown_with_what_goes_behind_steer(make_run):
    edited = Cell((OpenerBias(bias=2.0),))
    run = make_run(cells=[*CELLS, GATED, edited], change=gate_read)
    page = page_of(run)
    assert "abstain + sure, gated by entropy ≥ 0.25" in page
    assert "opener-bias@bias=2" in page
    for cell in (GATED, edited):
        assert escape(f"--steer '{run}#{cell.id}'") in page
        assert str(escape(open_run(run).cell(cell.id).spec)) in page
    assert "<th>gate</th>" in page
    assert "Be &lt;sure&gt;." in page


def test_a_run_without_abstention_shows_no_column_of_it(make_run):
    page = page_of(make_run(abstention=False))
    assert "abstention recall" not in page
    assert "Whether to answer" not in page
    assert "accuracy" in page
