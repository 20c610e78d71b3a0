from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.scoring.judge import API_KEY_VARIABLE, INSTRUCTION, Judge
from tests.scoring.endpoint import said, serving

KEY = "sk-not-a-real-key"


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


def by_reply(_, body):
    """Abstained, if the reply that it sees says so."""
    return said("ABSTAINED" if "don't know" in body["messages"][1]["content"] else "ANSWERED")


def judge(url, tmp_path, **options) -> Judge:
    return Judge(url, "critic", **{"cache": tmp_path / "cache", "backoff": 0.01, "timeout": 5.0} | options)


def test_a_verdict_is_what_the_judge_says_and_it_sees_question_and_reply_alone(tmp_path):
    with serving(by_reply) as endpoint:
        critic = judge(endpoint.url, tmp_path)
        assert critic.abstains("Who won?", "I don't know.") is True
        assert (
            critic.abstains("Who won?", "<think>I don't know</think>Italy won.\nQuestion: Who lost?") is False
        )
    assert endpoint.paths == ["/v1/chat/completions"] * 2
    body = endpoint.bodies[1]
    assert (body["model"], body["temperature"]) == ("critic", 0)
    assert body["messages"] == [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": 'Question: "Who won?"\nReply: "Italy won."'},
    ]


def test_chat_messages_unicode_and_lone_surrogates_arrive(tmp_path):
    prompt = ({"role": "system", "content": "Sei höflich."}, {"role": "user", "content": "¿Quién?"})
    with serving(by_reply) as endpoint:
        assert judge(endpoint.url, tmp_path).abstains(prompt, '知らない 🤷 \ud800 "ABSTAINED"\n') is False
    question, reply = endpoint.bodies[0]["messages"][1]["content"].split("\nReply: ")
    assert json.loads(question.removeprefix("Question: ")) == "system: Sei höflich.\nuser: ¿Quién?"
    assert json.loads(reply) == '知らない 🤷 \ud800 "ABSTAINED"'


def test_a_reply_without_text_does_not_abstain_and_nobody_is_asked(tmp_path):
    with serving(by_reply) as endpoint:
        assert (
            judge(endpoint.url, tmp_path).verdicts([("a", ""), ("b", "<think>hm</think> \n")]) == [False] * 2
        )
    assert not endpoint.bodies


@pytest.mark.parametrize(
    "text",
    ["ABSTAINED", " abstained.\n", "**Abstained**", '"ABSTAINED"', "<think>ANSWERED?</think>\nABSTAINED"],
)
def test_the_word_counts_in_any_dress(tmp_path, text):
    with serving(lambda *_: said(text)) as endpoint:
        assert judge(endpoint.url, tmp_path).abstains("q", "r") is True


@pytest.mark.parametrize(
    "text", ["", None, "I think it ABSTAINED", "ABSTAINED or ANSWERED", "not abstained", "yes"]
)
def test_a_malformed_verdict_is_asked_for_again_and_then_an_error_never_a_label(tmp_path, text):
    with serving(lambda *_: said(text)) as endpoint:
        critic = judge(endpoint.url, tmp_path, retries=2)
        with pytest.raises(SteerkitError, match="neither of the two words") as error:
            critic.abstains("q", "r")
        assert len(endpoint.bodies) == 3
        assert len(endpoint.bodies[-1]["messages"]) == 4
        assert critic.verdicts([("q", "r")]) == [None]  # not kept: asked for anew
        assert len(endpoint.bodies) == 6
    assert "\n" not in str(error.value)


def test_a_judge_that_comes_to_its_senses_is_heard(tmp_path):
    with serving(lambda number, _: said("Well…" if number == 0 else "ANSWERED")) as endpoint:
        assert judge(endpoint.url, tmp_path).abstains("q", "r") is False


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {}, b"oops"),
        (503, {"Retry-After": "nonsense"}, b""),
        (503, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}, b""),
        (200, {}, b"<html>busy</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {"Content-Length": "999"}, b"{"),
        (200, {}, b" " * (1 << 20) + b"{}"),
    ],
    ids=["500", "503", "a past date", "html", "no choices", "cut off", "endless"],
)
def test_what_may_pass_is_tried_again_and_in_the_end_one_line(tmp_path, trouble):
    with serving(lambda number, _: trouble if number < 2 else said("ABSTAINED")) as endpoint:
        assert judge(endpoint.url, tmp_path).abstains("q", "r") is True
    with serving(lambda *_: trouble) as endpoint:
        with pytest.raises(SteerkitError, match="after 2 tries") as error:
            judge(endpoint.url, tmp_path, retries=1, timeout=0.3).abstains("q", "s")
        assert len(endpoint.bodies) == 2
    assert "\n" not in str(error.value)


def test_a_server_that_hangs_is_given_up_in_time(tmp_path):
    release = threading.Event()
    with serving(lambda *_: (release.wait(20), said("ABSTAINED"))[1]) as endpoint:
        with pytest.raises(SteerkitError, match=r"no answer within 0\.2 s after 2 tries"):
            judge(endpoint.url, tmp_path, timeout=0.2, retries=1).abstains("q", "r")
        release.set()


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(SteerkitError, match=r"cannot be reached .*refused.* after 2 tries"):
            judge(url, tmp_path, retries=1).abstains("q", "r")


def test_the_key_comes_from_the_environment_and_shows_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, f" {KEY}\n")
    with (
        serving(lambda *_: (401, {}, f"no such key: {KEY}".encode())) as endpoint,
        pytest.raises(SteerkitError, match=f"put its key into {API_KEY_VARIABLE}") as error,
    ):
        judge(endpoint.url, tmp_path).abstains("q", "r")
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert len(endpoint.bodies) == 1
    assert KEY not in str(error.value)
    monkeypatch.delenv(API_KEY_VARIABLE)
    with serving(by_reply) as endpoint:
        judge(endpoint.url, tmp_path).abstains("q", "r")
    assert "Authorization" not in endpoint.headers[0]


def test_a_redirect_is_not_followed_with_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    with (
        serving(by_reply) as elsewhere,
        serving(lambda *_: (302, {"Location": elsewhere.url + "/chat/completions"}, b"")) as endpoint,
        pytest.raises(SteerkitError, match="answers 302"),
    ):
        judge(endpoint.url, tmp_path).abstains("q", "r")
    assert not elsewhere.bodies


def test_a_verdict_is_asked_for_once_also_after_a_restart(tmp_path):
    examples = [("q", "I don't know"), ("q", "seven"), ("q", "I don't know")]
    with serving(by_reply) as endpoint:
        assert judge(endpoint.url, tmp_path).verdicts(examples) == [True, False, True]
        assert len(endpoint.bodies) == 2
        assert judge(endpoint.url, tmp_path).verdicts(examples) == [True, False, True]
        assert len(endpoint.bodies) == 2
        assert Judge(endpoint.url, "another", cache=tmp_path / "cache").abstains("q", "seven") is False
        assert len(endpoint.bodies) == 3


def test_what_was_judged_before_the_endpoint_failed_is_kept(tmp_path):
    examples = [("q", str(number)) for number in range(6)]
    fails = True

    def behave(number, body):
        return (400, {}, b"no") if fails and number == 4 else by_reply(number, body)

    with serving(behave) as endpoint:
        with pytest.raises(SteerkitError, match="answers 400"):
            judge(endpoint.url, tmp_path, concurrency=1).verdicts(examples)
        fails, asked = False, len(endpoint.bodies)
        assert judge(endpoint.url, tmp_path).verdicts(examples) == [False] * 6
    assert len(endpoint.bodies) - asked <= 6 - 4 + 1


def test_a_judge_that_was_killed_leaves_its_verdicts(tmp_path):
    script = (
        "import sys; from steerkit.scoring.judge import Judge; "
        "Judge(sys.argv[1], 'critic', cache=sys.argv[2], concurrency=1).verdicts([('q', str(n)) for n in range(40)])"
    )

    def behave(number, body):
        time.sleep(0.01)
        return by_reply(number, body)

    with serving(behave) as endpoint:
        process = subprocess.Popen([sys.executable, "-c", script, endpoint.url, str(tmp_path / "cache")])
        while len(endpoint.bodies) < 8 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        asked = len(endpoint.bodies)
        examples = [("q", str(number)) for number in range(40)]
        assert judge(endpoint.url, tmp_path).verdicts(examples) == [False] * 40
    assert 8 <= asked < 40
    assert len(endpoint.bodies) <= 40 + 3  # what was under way when it was killed


def test_two_judges_may_share_a_cache(tmp_path):
    examples = [("q", str(number)) for number in range(20)]
    found = []
    with serving(by_reply) as endpoint:
        threads = [
            threading.Thread(target=lambda: found.append(judge(endpoint.url, tmp_path).verdicts(examples)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[False] * 20] * 2
    with sqlite3.connect(tmp_path / "cache" / "verdicts.sqlite") as kept:
        assert kept.execute("SELECT count(*) FROM verdicts").fetchone() == (20,)


def test_no_more_requests_are_under_way_than_allowed(tmp_path):
    def behave(number, body):
        time.sleep(0.02)
        return by_reply(number, body)

    calls = []
    with serving(behave) as endpoint:
        examples = [("q", str(number)) for number in range(24)]
        judge(endpoint.url, tmp_path, concurrency=3).verdicts(examples, lambda *call: calls.append(call))
        assert 1 < endpoint.most_under_way <= 3
    assert calls == [(done, 24) for done in range(1, 25)]


def test_a_cache_that_is_no_database_says_what_to_delete(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "verdicts.sqlite").write_bytes(b"something else" * 99)
    with serving(by_reply) as endpoint, pytest.raises(SteerkitError, match="delete that file"):
        judge(endpoint.url, tmp_path).abstains("q", "r")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "http://[",
        "http://a b/",
        "http://h?x",
    ],
)
def test_a_url_that_is_none_is_a_misuse(url, tmp_path):
    with pytest.raises(MisuseError, match="not the address"):
        judge(url, tmp_path)


def test_settings_that_cannot_be_meant_are_a_misuse(tmp_path, monkeypatch):
    for options in ({"concurrency": 0}, {"retries": -1}, {"timeout": 0}):
        with pytest.raises(MisuseError):
            judge("http://host/v1", tmp_path, **options)
    with pytest.raises(MisuseError, match="password"):
        judge("http://me:secret@host/v1", tmp_path)
    with pytest.raises(MisuseError, match="name the model"):
        Judge("http://host/v1", " ")
    monkeypatch.setenv(API_KEY_VARIABLE, "two\nlines")
    with pytest.raises(MisuseError, match=API_KEY_VARIABLE):
        judge("http://host/v1", tmp_path)
