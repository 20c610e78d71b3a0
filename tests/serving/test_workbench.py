"""The workbench without a browser: names of files, drafts, several streams at once, errors in a line, and the key."""

from __future__ import annotations

import asyncio
import inspect
import os
from dataclasses import replace
from pathlib import Path

import pytest

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.session import Session
from steerkit.extraction.lint import lint
from steerkit.extraction.pairs import load_pairs
from steerkit.serving.scheduler import Scheduler
from tests.sweeps.synthetic import grid, items, write_run
from tests.tiny import random_vector, tiny_model

pytest.importorskip("gradio")

from steerkit.serving.workbench import mount
from steerkit.serving.workbench.context import PAIRS, VECTOR, Context
from steerkit.serving.workbench.controls import OWN_PROBE, Settings, recommended
from steerkit.serving.workbench.drafts import Draft, findings_html, list_html
from steerkit.serving.workbench.gridding import cells_of
from steerkit.serving.workbench.opened import opened
from steerkit.serving.workbench.page import blocks
from steerkit.serving.workbench.streams import write
from steerkit.serving.workbench.told import in_one_line
from steerkit.serving.workbench.trying import Turn, prompt_of


@pytest.fixture(scope="module")
def scheduler(tiny):
    with Scheduler(Session(TransformersEngine(tiny))) as scheduler:
        yield scheduler


@pytest.fixture
def context(tiny, scheduler, tmp_path: Path) -> Context:
    random_vector(tiny).save(tmp_path / "mine.safetensors")
    random_vector(tiny, name="hidden").save(tmp_path / ".hidden.safetensors")
    write_run(tmp_path / "runs" / "deep" / "boats", grid([4], [1]), items(4))
    return Context(tiny, scheduler, tmp_path, tmp_path / "runs")


def test_vectors_of_other_weights_are_there_where_that_is_allowed(context, tmp_path):
    other = random_vector(tiny_model(seed=1), name="other")
    other.save(tmp_path / "other.safetensors")
    assert "other" not in context.vector_names()
    with pytest.raises(MisuseError):
        context.vector("other")
    allowing = replace(context, exact=False)
    assert "other" in allowing.vector_names()
    assert allowing.vector("other").name == "other"


def test_what_is_over_at_once_is_not_queued(context):
    # Gradio's client may lose an event that is queued while the one before it ends: a question asked at once after a
    # vector was chosen was never answered.
    events = [event for event in blocks(context).fns.values() if event.fn is not None]
    slow = [event for event in events if inspect.isasyncgenfunction(event.fn)]
    assert [event for event in events if event.queue] == slow
    assert len(slow) == 4  # ask, ask again, fill the grid, extract


def test_vectors_and_runs_are_found_by_name(context):
    assert context.vector_names() == ["mine"]  # published ones are for other models
    assert context.run_names() == ["deep/boats"]
    assert context.run_path("deep/boats").is_dir()
    for name in ("../secret", "/etc", "deep/../deep/boats"):
        with pytest.raises(MisuseError, match="no run"):
            context.run_path(name)


def test_further_interventions_name_served_vectors_alone(context, tiny, tmp_path):
    elsewhere = tmp_path.parent / "elsewhere.safetensors"
    random_vector(tiny, name="elsewhere").save(elsewhere)
    (steering,) = Settings(more="mine@layer=1").interventions(context)
    assert steering.layers == (1,)
    for named in (str(elsewhere), "owner/name"):
        with pytest.raises(MisuseError):
            Settings(more=f"{named}@layer=1").interventions(context)


@pytest.mark.parametrize("name", ["", " ", "../out", "a/b", ".hidden", "a\0b", "a\nb"])
def test_a_name_that_is_none_is_refused(context, name):
    with pytest.raises(MisuseError, match="no name for a file"):
        context.place(name, VECTOR)


def test_a_name_may_have_its_ending(context):
    assert context.place("mine.jsonl", PAIRS) == context.place("mine", PAIRS)


def test_settings_are_a_steering_and_what_stands_beside_it(context):
    vector = context.vector("mine")
    acting = Settings("mine", 2, 1.5, half_life=8, more='prompt@system="Be brief."').interventions(context)
    assert acting[0] == vector.at(2, 1.5, half_life=8)
    assert str(acting[1]) == 'prompt@system="Be brief."'
    assert Settings().interventions(context) == ()
    with pytest.raises(MisuseError, match="brings no probe"):
        Settings("mine", 2, gate=OWN_PROBE).interventions(context)
    assert recommended(vector) == Settings(vector.name, context.lm.n_layers // 2)


def test_cells_are_as_many_as_make_sense(context):
    cells = cells_of(Settings("mine"), "1:3", "0.5,1", context)
    assert [*cells] == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0), (3, 0.5), (3, 1.0)]
    with pytest.raises(MisuseError, match="400 cells"):
        cells_of(Settings("mine"), "0:3", "0.01:1:0.01", context)
    with pytest.raises(MisuseError, match="needs a vector"):
        cells_of(Settings(), "1", "1", context)


def test_requests_that_are_written_together_are_as_alone_and_one_may_fail(context):
    vector = context.vector("mine")
    requests = {strength: Request("Hi?", (vector.at(2, strength),), Decoding(12)) for strength in (0.5, 1.0)}
    long = Request("Hi?", (), Decoding(10_000))

    async def written():
        last = {}
        async for each in write(context.scheduler, {**requests, "long": long}):
            last = each
        return last

    found = asyncio.run(written())
    alone = {c.request.interventions: c for c in TransformersEngine(context.lm).generate(requests.values())}
    for strength, request in requests.items():
        assert found[strength].completion.token_ids == alone[request.interventions].token_ids
        assert found[strength].text == alone[request.interventions].text
    assert "10" in str(found["long"].error)


def test_each_side_goes_on_from_its_own_answers():
    answer = {side: Completion(Request("Hi"), side, (1,), "stop", 1) for side in ("a", "b")}
    turns = (Turn("Hi?", answer["a"], answer["b"], ""),)
    said = [message["content"] for message in prompt_of(turns, "steered", "And?", chat=True)]
    assert said == ["Hi?", "b", "And?"]
    assert prompt_of(turns, "steered", "And?", chat=False) == "And?"


def test_an_error_changes_one_line_alone():
    def fails():
        raise SteerkitError("first\nsecond <b>")

    async def fails_later():
        yield {"other": 1}
        raise ValueError("inside")

    assert in_one_line("line", fails)() == {
        "line": '<p class="sk-wrong" role="alert">first second &lt;b&gt;</p>'
    }

    async def told():
        return [each async for each in in_one_line("line", fails_later)()]

    first, last = asyncio.run(told())
    assert first == {"other": 1}
    assert "something failed inside (ValueError: inside)" in last["line"]


def test_what_is_in_the_boxes_is_kept_when_the_draft_goes_on():
    draft = Draft().edited("a prompt", "yes", "no")
    assert draft.boxes == ("a prompt", "yes", "no")
    draft = draft.added().edited("another", "1", "2").moved(0).edited("a prompt", "yes!", "no")
    assert [pair.positive for pair in draft.pairs] == ["yes!", "1"]
    assert len(draft.without().pairs) == 1
    assert len({pair.id for pair in draft.added().added().pairs}) == 4
    with pytest.raises(MisuseError, match="lacks its prompt"):
        draft.added().whole()
    assert draft.moved(-5).at == 0
    assert draft.moved(99).at == 1


def test_what_lint_found_leads_to_its_pair():
    pairs = load_pairs("abstention").pairs[:3]
    draft = Draft("mine", pairs).moved(1)
    draft = draft.edited(draft.boxes[0], "<b>same</b>", "<b>same</b>")
    findings = lint(draft.whole())
    assert 'data-at="1"' in findings_html(findings, draft)
    assert '<b class="sk-error">error</b>' in list_html(draft, findings)
    assert "<b>same" not in findings_html(findings, draft)


def test_a_run_is_read_again_only_once_it_has_grown(context):
    path = context.run_path("deep/boats")
    first = opened(path)
    assert opened(path) is first
    os.utime(path / "records.jsonl", (1, 1))
    assert opened(path) is not first


def test_with_a_key_the_page_asks_for_it(context, tmp_path):
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    mount(app, context.lm, context.scheduler, tmp_path, key="sesame")
    client = TestClient(app)
    assert client.get("/", follow_redirects=False).headers["location"] == "/workbench/"
    assert client.get("/workbench/config").status_code == 401
    wrong = client.post("/workbench/login", data={"username": "x", "password": "open"})
    assert wrong.status_code == 400
    right = client.post("/workbench/login", data={"username": "x", "password": "sesame"})
    assert right.status_code == 200
    with pytest.raises(MisuseError, match="no folder"):
        mount(FastAPI(), context.lm, context.scheduler, tmp_path / "nowhere")
