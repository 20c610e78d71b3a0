"""The workbench in Chromium, through all four tabs; the fixture `visit` sees to it that nothing leaves the machine."""

from __future__ import annotations

import json
import time

import pytest

from steerkit.interventions.vector import load_vector
from tests.browser.conftest import served
from tests.tiny import random_vector

pytest.importorskip("gradio")

from steerkit.serving.workbench import controls
from steerkit.serving.workbench.controls import recommended

pytestmark = pytest.mark.browser

QUESTION = "Who wrote the letter of 4 June 1641?"


def go(page, tab):
    page.get_by_role("tab", name=tab, exact=True).click()


def answers(page):
    """The texts of the newest turn, by side."""
    sides = {}
    for side in ("unsteered", "steered"):
        sides[side] = page.locator(
            f'#try-conversation section[aria-label="{side}"] .sk-text'
        ).last.inner_text()
    return sides


def asked(page, question=QUESTION):
    """Ask and wait for both answers."""
    page.fill("#try-question textarea", question)
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#try-line').innerText.startsWith('done')")


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1440, True), (390, False)])
def test_every_tab_fits_the_page(bench, visit, width, dark):
    page = visit(bench, width=width, dark=dark)
    for tab, inside in (
        ("Try", "#try-ask"),
        ("Grid", "#grid-fill"),
        ("Runs", "#runs-run"),
        ("Pairs", "#pairs-lint"),
    ):
        go(page, tab)
        page.wait_for_selector(inside)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(",")[:3])) < 200) is dark


def test_a_steered_coloured_answer_in_three_actions(bench, visit):
    page = visit(bench)
    page.fill("#try-question textarea", QUESTION)  # the vector is chosen already
    page.click("#try-ask")
    page.wait_for_function("document.querySelector('#try-line').innerText.startsWith('done')")
    for side in ("unsteered", "steered"):
        assert page.locator(f'section[aria-label="{side}"] .sk-t').count() > 50
    token = page.locator('section[aria-label="steered"] .sk-t').first
    assert "random at" in token.get_attribute("title")
    assert "random@layer=2,strength=1" in page.locator(".sk-spec").last.inner_text()
    assert page.input_value("#try-question textarea") == ""


def test_a_question_asked_before_the_controls_are_set_means_the_recommended_use(
    tiny, visit, tmp_path, monkeypatch
):
    (tmp_path / "vectors").mkdir()
    for name, use in (("first", {"layer": 0}), ("second", {"layer": 3, "strength": 1.25, "scope": "all"})):
        vector = random_vector(tiny, size=0.5, name=name)
        vector.recommending(vector.at(**use)).save(tmp_path / "vectors" / f"{name}.safetensors")
    with served(tiny, tmp_path) as bench:
        page = visit(bench)

        def set_slowly(vector):
            time.sleep(0.5)
            return recommended(vector)

        monkeypatch.setattr(controls, "recommended", set_slowly)
        page.click("#try-vector input")
        page.get_by_role("option", name="second").click()
        asked(page)
        assert "second@layer=3,strength=1.25,scope=all" in page.locator(".sk-spec").last.inner_text()
        page.wait_for_function("document.querySelector('#try-layer input').value === '3'")
        page.fill("#try-layer input[type=number]", "1")
        page.keyboard.press("Tab")
        page.click("#try-again")  # what was changed since holds
        page.wait_for_function(
            "document.querySelector('.sk-spec:last-of-type').innerText.includes('layer=1')"
        )


def test_another_strength_changes_the_steered_answer_alone(bench, visit):
    page = visit(bench)
    asked(page)
    before = answers(page)
    page.fill("#try-strength input[type=number]", "3")
    page.keyboard.press("Tab")
    page.click("#try-again")
    page.wait_for_function("document.querySelector('.sk-spec:last-of-type').innerText.includes('strength=3')")
    page.wait_for_function("document.querySelector('#try-line').innerText.startsWith('done')")
    after = answers(page)
    assert after["unsteered"] == before["unsteered"]
    assert after["steered"] != before["steered"]
    assert page.locator("#try-conversation h3").count() == 1


def test_an_error_is_one_line_and_nothing_typed_is_lost(bench, visit):
    page = visit(bench)
    page.fill("#try-question textarea", QUESTION)
    page.click("#try-more button")
    # Key by key: Gradio makes the box as the accordion opens, and misses a text that is there within milliseconds.
    specs = page.locator("#try-specs textarea, #try-specs input")
    specs.press_sequentially("nonsense@layer=99", delay=30)
    page.click("#try-ask")
    line = page.wait_for_selector("#try-line .sk-wrong").inner_text()
    assert "\n" not in line
    assert "nonsense" in line
    for tab in ("Grid", "Pairs", "Try"):
        go(page, tab)
    assert page.input_value("#try-question textarea") == QUESTION
    assert page.input_value("#try-specs textarea, #try-specs input") == "nonsense@layer=99"


def test_a_text_of_the_model_or_the_user_is_never_markup(bench, visit):
    page = visit(bench)
    asked(page, "<img src=x onerror=alert(1)><b>bold</b>")
    assert page.locator("#try-conversation img, #try-conversation h3 b").count() == 0
    assert "<b>bold</b>" in page.locator("#try-conversation h3").inner_text()


def test_a_grid_fills_and_a_cell_goes_to_try(bench, visit):
    page = visit(bench)
    go(page, "Grid")
    page.fill("#grid-prompt textarea", QUESTION)
    page.fill("#grid-layers input, #grid-layers textarea", "1:3")
    page.fill("#grid-strengths input, #grid-strengths textarea", "0.25:2.5:0.25")
    page.click("#grid-fill")
    page.wait_for_function("document.querySelector('#grid-line').innerText.startsWith('31 of 31')")
    assert page.locator("#grid-table td").count() == 30
    assert all(text.strip() for text in page.locator("#grid-table td .sk-text").all_inner_texts())
    page.click('#grid-table [data-place="3,1.5"]')
    page.wait_for_selector("#try-question textarea", state="visible")
    assert page.input_value("#try-question textarea") == QUESTION
    assert page.input_value("#try-layer input[type=number]") == "3"
    assert page.input_value("#try-strength input[type=number]") == "1.5"


def test_a_grid_that_cannot_be_says_why(bench, visit):
    page = visit(bench)
    go(page, "Grid")
    page.fill("#grid-prompt textarea", QUESTION)
    page.fill("#grid-layers input, #grid-layers textarea", "1,99")
    page.click("#grid-fill")
    assert "layer" in page.wait_for_selector("#grid-line .sk-wrong").inner_text()
    assert page.input_value("#grid-prompt textarea") == QUESTION


def open_boats(page):
    go(page, "Runs")
    page.click("#runs-run input")
    page.get_by_role("option", name="boats").click()
    page.wait_for_selector("#runs-chart .mark")


def test_a_run_says_its_numbers_and_shows_completions_beside_the_unsteered(bench, visit):
    page = visit(bench)
    open_boats(page)
    assert page.locator("#runs-chart .mark").count() == 41
    mark = page.locator("#runs-chart .mark").last
    mark.hover()
    tip = page.locator("#runs-chart .tip").inner_text()
    assert "abstain" in tip
    assert "over-abstention" in tip
    assert "[" in tip
    assert "122 items" in tip
    mark.click()
    page.wait_for_selector("#runs-completions article")
    assert page.locator("#runs-completions article").count() == 10
    assert "122 of 122" in page.locator("#runs-title").inner_text()
    page.locator("#runs-change").get_by_label("verdict").check()
    page.wait_for_function("!document.querySelector('#runs-title').innerText.includes('122 of 122')")
    articles = page.locator("#runs-completions article")
    assert articles.count()
    assert articles.count() == page.locator("#runs-completions .sk-new").count()
    page.fill("#runs-text input, #runs-text textarea", "harbour 12?")
    page.wait_for_function(
        "[...document.querySelectorAll('#runs-completions h4')].every(h => h.innerText.includes('harbour 12?'))"
    )


def test_the_keyboard_alone_reaches_a_mark(bench, visit):
    page = visit(bench)
    open_boats(page)
    page.locator('#runs-chart .mark[tabindex="0"]').focus()
    page.keyboard.press("End")
    assert page.locator("#runs-chart .tip").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert page.locator("#runs-chart .tip").is_hidden()
    page.keyboard.press("Enter")
    page.wait_for_selector("#runs-completions article")
    assert page.locator('#runs-chart .mark[aria-pressed="true"]').count() == 1


def test_labels_are_written_as_they_are_given(bench, visit):
    page = visit(bench)
    open_boats(page)
    page.locator("#runs-chart .mark").last.click()
    page.wait_for_selector("#runs-completions article")
    page.locator("#runs-blind input").check()
    page.wait_for_function("!document.querySelector('#runs-completions .sk-verdict')")
    group = page.locator("#runs-completions .sk-labels").nth(1)
    group.get_by_role("button", name="abstains").click()
    page.wait_for_function("document.querySelector('#runs-agreement').innerText.includes('1 labels on')")
    head, line = map(json.loads, (bench.runs / "boats" / "scores" / "label.jsonl").read_text().splitlines())
    assert head["scorer"] == "label"
    assert line["scores"] == {"labelled_abstained": True}
    assert line["evidence"] == {"abstained": {"blind": True}}
    assert group.get_by_role("button", name="abstains").get_attribute("aria-pressed") == "true"
    group.get_by_role("button", name="abstains").click()
    page.wait_for_function("document.querySelector('#runs-agreement').innerText.includes('no labels')")


def test_pairs_are_edited_linted_extracted_and_saved(bench, visit):
    page = visit(bench)
    go(page, "Pairs")
    page.click("#pairs-set input")
    page.get_by_role("option", name="abstention").click()
    page.wait_for_function("document.querySelectorAll('#pairs-list li').length === 50")
    page.click('#pairs-list [data-at="2"]')
    page.wait_for_function(
        "document.querySelector('#pairs-prompt textarea').value.startsWith('A train leaves')"
    )
    same = page.input_value("#pairs-positive textarea")
    page.fill("#pairs-negative textarea", same)
    page.click("#pairs-lint")
    found = page.wait_for_selector("#pairs-findings .sk-error").evaluate("e => e.parentElement.innerText")
    assert "identical-sides" in found
    page.click("#pairs-delete")
    page.wait_for_function("document.querySelectorAll('#pairs-list li').length === 49")
    page.fill("#pairs-name input, #pairs-name textarea", "mine")
    page.click("#pairs-save")
    page.wait_for_function("document.querySelector('#pairs-line').innerText.startsWith('wrote 49 pairs')")
    page.click("#pairs-extract")
    page.wait_for_selector("#pairs-plot svg")
    page.click("#pairs-keep")
    page.wait_for_function("document.querySelector('#pairs-line').innerText.includes('Try and Grid have it')")
    assert len((bench.vectors / "mine.jsonl").read_text().splitlines()) == 49
    assert load_vector(bench.vectors / "mine.safetensors").metadata.pairs_count == 49
    go(page, "Try")
    page.click("#try-vector input")
    page.get_by_role("option", name="mine").click()


def test_a_name_that_leaves_the_folder_is_refused_and_the_pair_stays(bench, visit):
    page = visit(bench)
    go(page, "Pairs")
    for box in ("prompt", "positive", "negative"):
        page.fill(f"#pairs-{box} textarea", f"some {box}")
    page.fill("#pairs-name input, #pairs-name textarea", "../../outside")
    page.click("#pairs-save")
    assert "no name for a file" in page.wait_for_selector("#pairs-line .sk-wrong").inner_text()
    go(page, "Try")
    go(page, "Pairs")
    assert page.input_value("#pairs-positive textarea") == "some positive"
