"""The one HTTP client against servers that answer, refuse, stall, send rubbish and ask for patience."""

from __future__ import annotations

import datetime
import email.utils
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.http import LONGEST_WAIT, Client, RefusedError, retry_after, spread
from tests.scoring.endpoint import Endpoint, Reply, serving

KEY = "A_KEY_FOR_TESTS"
FINE: Reply = (200, {}, b'{"fine": true}')


class Patient(threading.Event):
    """Passes over every wait, and remembers how long it was to be."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return self.is_set()


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def client(*servers: Endpoint, **options: Any) -> Client:
    defaults: dict[str, Any] = {"key_variable": KEY, "timeout": 5.0, "tries": 3, "backoff": 0.01}
    return Client([server.url for server in servers], **defaults | options)


def ask(one: Client, gone: threading.Event | None = None) -> dict[str, Any]:
    return one.tried(lambda replica: one.exchange(replica, "/ask", {"a": 1}), gone or threading.Event())


def first(*replies: Reply) -> Callable[[int, dict[str, Any]], Reply]:
    """These replies one after the other, then a good one."""
    return lambda number, _body: replies[number] if number < len(replies) else FINE


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with serving(first((status, {}, b"not now"))) as server:
        assert ask(client(server)) == {"fine": True}
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "rubbish",
    [
        (200, {}, b"<html>busy</html>"),
        (200, {}, b"[1, 2]"),
        (200, {}, b"[" * 100_000),
        (200, {"Content-Length": "999"}, b"{"),
        (200, {}, b" " * 3000 + b"{}"),
        (200, {}, b"\xff\xfe"),
    ],
    ids=["html", "a list", "deep", "cut off", "too large", "no text"],
)
def test_rubbish_is_asked_for_again_and_in_the_end_one_line(rubbish: Reply) -> None:
    with serving(first(rubbish)) as server:
        assert ask(client(server, largest_answer=2000)) == {"fine": True}
    with serving(lambda *_: rubbish) as server:
        with pytest.raises(SteerkitError, match="after 2 tries") as error:
            ask(client(server, largest_answer=2000, tries=2, timeout=0.5))
        assert len(server.bodies) == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 422])
def test_what_will_not_pass_is_final_and_in_the_servers_words(status: int) -> None:
    answer = b'{"error": {"message": "no such thing", "param": "x"}}'
    with serving(lambda *_: (status, {"Location": "http://127.0.0.1:1/"}, answer)) as server:
        with pytest.raises(RefusedError, match=rf"answers {status} \(no such thing\)") as error:
            ask(client(server))
        assert len(server.bodies) == 1
    assert (error.value.status, error.value.error["param"]) == (status, "x")
    assert (KEY in str(error.value)) == (status in (401, 403))


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_server_that_asks_for_patience_gets_it(status: int) -> None:
    gone = Patient()
    with serving(first((status, {"Retry-After": "7"}, b""))) as server:
        ask(client(server), gone)
    assert 7 <= sum(gone.waits) <= 1.5 * 7 + 1


def test_waits_double_and_none_is_longer_than_the_longest() -> None:
    gone = Patient()
    with serving(first(*[(429, {}, b"")] * 9)) as server:
        ask(client(server, tries=10, backoff=1.0), gone)
    waits = [wait for wait in gone.waits if wait]
    assert len(waits) == 9
    for number, wait in enumerate(waits):
        assert min(LONGEST_WAIT / 2, 2**number) / 2 <= wait <= LONGEST_WAIT / 2


def test_nobody_waits_a_day() -> None:
    with serving(lambda *_: (429, {"Retry-After": "86400"}, b"quota")) as server:
        with pytest.raises(SteerkitError, match=r"429 \(quota\)"):
            ask(client(server))
        assert len(server.bodies) == 1


def test_retry_after_is_a_number_of_seconds_or_a_date() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    assert retry_after("2.5") == 2.5
    assert retry_after(email.utils.format_datetime(soon, usegmt=True)) == pytest.approx(3600, abs=60)
    past = "Mon, 01 Jan 2024 00:00:00 GMT"
    assert [retry_after(value) for value in (None, "", "nonsense", "-3", past)] == [0.0] * 5


def test_a_server_that_stalls_is_given_up_and_another_try_made() -> None:
    release = threading.Event()
    stalls = iter([True])
    with serving(lambda *_: (next(stalls, False) and release.wait(20), FINE)[1]) as server:
        assert ask(client(server, timeout=0.2)) == {"fine": True}
        assert len(server.bodies) == 2
        release.set()


def test_a_server_that_sends_drop_by_drop_is_given_up() -> None:
    def drops() -> Iterator[bytes]:
        while True:
            time.sleep(0.05)
            yield b" "

    with (
        serving(lambda *_: (200, {}, drops())) as server,
        pytest.raises(SteerkitError, match=r"no answer within 0\.3 s after 1 tries"),
    ):
        ask(client(server, timeout=0.3, tries=1))


def test_the_key_is_sent_and_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, " secret-key\n")
    with serving(lambda *_: (401, {}, b"no such key: secret-key")) as server:
        with pytest.raises(RefusedError, match=f"put its key into {KEY}") as error:
            ask(client(server))
        assert server.headers[0]["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in str(error.value)
    monkeypatch.setenv(KEY, "two\nlines")
    with pytest.raises(MisuseError, match=KEY):
        client(server)


def test_requests_of_a_server_that_fails_go_to_another() -> None:
    with serving(lambda *_: (500, {}, b"broken")) as ill, serving(lambda *_: FINE) as well:
        both = client(ill, well, backoff=60.0)
        assert [ask(both) for _ in range(5)] == [{"fine": True}] * 5
    assert (len(ill.bodies), len(well.bodies)) == (1, 5)


def test_who_is_gone_asks_no_more() -> None:
    gone = threading.Event()

    def leaves(*_: object) -> Reply:
        gone.set()
        return 503, {}, b""

    with serving(leaves) as server:
        with pytest.raises(SteerkitError, match="stopped"):
            ask(client(server), gone)
        assert len(server.bodies) == 1


def test_jobs_are_drawn_as_they_are_needed_and_never_more_at_once_than_workers() -> None:
    drawn, busy, most, lock = 0, 0, 0, threading.Lock()

    def jobs() -> Iterator[int]:
        nonlocal drawn
        for number in range(30):
            drawn += 1
            yield number

    def work(number: int, _gone: threading.Event) -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.005)
        with lock:
            busy -= 1
        return number

    found = spread(jobs(), work, 3)
    seen = [next(found)]
    assert drawn <= 6
    assert sorted(seen + list(found)) == list(range(30))
    assert most == 3


def test_an_error_is_raised_after_what_ended_before_it_and_nothing_begins_behind_it() -> None:
    begun = []

    def work(number: int, _gone: threading.Event) -> int:
        begun.append(number)
        if number == 3:
            raise SteerkitError("no")
        return number

    found = spread(range(100), work, 1)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SteerkitError, match="no"):
        next(found)
    assert begun == [0, 1, 2, 3]
