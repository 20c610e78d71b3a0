"""The workbench over the bundled model: a steered, coloured answer in three actions, with what its gate read."""

from __future__ import annotations

import pytest

from tests.browser.conftest import served

pytestmark = [pytest.mark.browser, pytest.mark.models]


def test_three_actions(smollm, visit, tmp_path):
    with served(smollm, tmp_path) as bench:
        page = visit(bench)
        page.click("#try-vector input")
        page.get_by_role("option", name="abstain-smollm2-135m-instruct").click()  # one
        page.fill("#try-question textarea", "What did Napoleon say to his barber on 3 May 1809?")  # two
        page.keyboard.press("Enter")  # three
        page.wait_for_function("document.querySelector('#try-line').innerText.startsWith('done')")
        steered = page.locator('section[aria-label="steered"]')
        assert steered.locator(".sk-t").count() > 5
        assert "gate should-abstain read" in steered.inner_text()
        assert "strength=1.25" in steered.inner_text()
