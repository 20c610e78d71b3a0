from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from steerkit.analysis.choosing import Choice, write_choice
from steerkit.analysis.judging import judge_run
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.report.examples import pick_examples
from steerkit.report.page import write_report
from steerkit.runs.directory import RunDirectory


class Contrary:
    """A judge that says the opposite of what a completion looks like."""

    base_url, model, instruction_digest = "http://host/v1", "critic <3", "ab" * 6

    def verdicts(self, examples, _progress=None):
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


@pytest.fixture(params=[True, False], ids=["abstention", "brevity"])
def page(request, make_run) -> str:
    return write_report(make_run(request.param)).read_text(encoding="utf-8")


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
    write_report(run)
    assert {path.name for path in run.iterdir()} >= {
        "summary.csv",
        "report.html",
        "plots",
        "run.json",
        "records.jsonl",
    }
    assert not list(run.glob("*.tmp"))


def test_a_run_can_be_reported_while_it_has_only_the_unsteered_cell(make_run):
    assert (
        "No steered cell is clearly better" in write_report(make_run(places=[(None, None, 0.0)])).read_text()
    )


def test_a_run_without_records_says_so(make_run):
    with pytest.raises(SteerkitError, match="no records yet"):
        write_report(make_run(places=[]))


def test_no_run_is_a_misuse(tmp_path):
    with pytest.raises(MisuseError, match="holds no run"):
        write_report(tmp_path)


def test_examples_are_the_items_whose_verdicts_differ_then_those_whose_words_do(make_run):
    records = list(RunDirectory(make_run()).records())
    cells = ["None-None-0.0", "abstain-8-1.0"]
    examples = pick_examples(records, cells, per_kind=3)
    assert [example.expected[:10] for example in examples] == ["should abs"] * 3 + ["answerable"] * 3
    assert all(example.verdicts[0] != example.verdicts[1] for example in examples)
    assert [e.item for e in examples[:3]] == sorted(e.item for e in examples[:3])
    assert pick_examples(records, [cells[0], cells[0]]) == []


def test_on_report_the_page_picks_nothing(make_run):
    run = make_run(
        places=[(None, None, 0.0), *((role, 8, 1.0) for role in (0, 1)), (0, 8, -1.0)], split="report"
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert "none is picked on the split report" in page
    assert "Best cell" not in page
    assert "best cell" not in page
    assert page.count('<div class="card steered">') == 2 * 2  # both cells, for both questions
    assert 'class="steered best"' not in page


def test_on_report_the_page_marks_the_cell_that_was_chosen_elsewhere(make_run):
    run = make_run(places=[(None, None, 0.0), (0, 8, 1.0), (1, 8, 1.0)], split="report")
    rule = "abstention_recall s.t. over_abstention<=0.05"
    write_choice(run, Choice(rule=rule, cell="abstain-8-1.0", steering="abstain@layer=8"))
    page = write_report(run).read_text(encoding="utf-8")
    assert "Chosen cell" in page
    assert "<code>abstention_recall s.t. over_abstention&lt;=0.05</code>" in page
    assert page.count('class="steered best"') == 1


def test_what_a_judge_says_stands_beside_the_phrase_rules(make_run):
    run = make_run()
    judge_run(RunDirectory(run), Contrary())
    page = write_report(run).read_text(encoding="utf-8")
    assert "A second opinion" in page
    assert "critic &lt;3" in page
    assert "They agree on 0.00 of them" in page


def test_a_gate_gets_its_areas(make_run):
    def gated(record):
        if record["role"] == "steered":
            record["scores"]["gate_probability"] = 0.9 if record["should_abstain"] else 0.1

    page = write_report(make_run(change=gated)).read_text(encoding="utf-8")
    assert "Refusing by a gate" in page
    assert 'alt="risk, coverage"' in page
