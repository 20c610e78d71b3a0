"""A session: requests that come and go at any time share one batch, and are answered token by token.

1. `submit` and `cancel` may be called from any thread; one thread calls `step`, which lets waiting requests in and
   writes one token of every row. Requests of different steerings, decodings, readers, rules and gates share the batch.
2. Requests that are let in together and come to the same completion are one row, and are told the same.
3. What an event says is final: a row that had to start again for want of memory takes the tokens again that it had.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from steerkit.core.errors import ModelInUseError, QueueFullError, SteerkitError
from steerkit.core.numbers import check_whole
from steerkit.core.sites import SITES, SiteName
from steerkit.engines.base import Completion, Request
from steerkit.engines.text_stream import TextStream
from steerkit.engines.transformers.batch import Row
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.gates import Readings
from steerkit.engines.transformers.logprobs import TokenLogprobs
from steerkit.engines.transformers.stepping import Stepping
from steerkit.interventions.readers import Reader
from steerkit.models import LanguageModel

MOST_WAITING = 1024


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request that was submitted. Unless it `streams`, its only event is the last one.

    With `top_logprobs` its events have the log-probability of each token, and so many of the likeliest ones in its
    place.
    """

    request: Request
    streams: bool = True
    top_logprobs: int | None = None


@dataclass(frozen=True, eq=False)
class Event:
    """What there is to say of a ticket behind a step.

    `text` and `token_ids` are new ones: joined over a ticket's events they are its completion's. `text` holds whole
    characters only, and neither it nor the tokens hold anything that a stop text may still cut off. `logprobs` are
    those of `token_ids`. `readings` are further values of each reader, joined those of the completion's tokens; those
    of states come a step after the token. The last event has the `completion`, or the `error` for which there is none,
    and all tokens that the row has `written`, those of a stop text among them; its `logprobs` go on to the last of
    these.
    """

    ticket: Ticket
    text: str = ""
    token_ids: tuple[int, ...] = ()
    readings: Mapping[Reader, tuple[float | None, ...]] = field(default_factory=dict)
    logprobs: tuple[TokenLogprobs, ...] = ()
    completion: Completion | None = None
    error: SteerkitError | None = None
    written: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether no other follows for its ticket."""
        return self.completion is not None or self.error is not None


class _Told:
    """What the askers of one row have been told of it: so many tokens, and so many readings of each reader."""

    def __init__(self, lm: LanguageModel, row: Row, tickets: Sequence[Ticket]) -> None:
        self.row = row
        self.tickets = list(tickets)
        self.streams = any(ticket.streams for ticket in tickets)
        asked = [ticket.top_logprobs for ticket in tickets if ticket.top_logprobs is not None]
        row.top_logprobs = max(asked, default=None)
        self._text = TextStream(lm, row.prompt_ids, row.decoding.stop)
        self._tokens = 0
        self._read = dict.fromkeys(row.readers, 0)

    def news(self) -> list[Event]:
        """Events of what the row wrote since the last time."""
        row, start = self.row, self._tokens
        text = self._text.take(row.generated)
        stop = self._tokens = self._text.tokens
        read = {r: row.read.of_completion(r, n, stop) for r, n in self._read.items()}
        self._read = {reader: n + len(read[reader]) for reader, n in self._read.items()}
        read = {reader: values for reader, values in read.items() if values}
        ids = tuple(row.generated[start:stop])
        if not (text or ids or read):
            return []
        return [
            Event(ticket, text, ids, read, self._logprobs(ticket, start, stop))
            for ticket in self.tickets
            if ticket.streams
        ]

    def end(self, ticket: Ticket, completion: Completion) -> Event:
        """The last event of one of its tickets."""
        whole = replace(completion, request=ticket.request)
        start, text = (self._tokens, self._text.rest(whole.text)) if ticket.streams else (0, whole.text)
        read = {
            each.reader: each.completion[self._read[each.reader] if ticket.streams else 0 :]
            for each in whole.readings
        }
        written = tuple(self.row.generated)
        logprobs = self._logprobs(ticket, start, len(written))
        return Event(ticket, text, whole.token_ids[start:], read, logprobs, whole, written=written)

    def _logprobs(self, ticket: Ticket, start: int, stop: int) -> tuple[TokenLogprobs, ...]:
        if ticket.top_logprobs is None:
            return ()
        return tuple(replace(p, top=p.top[: ticket.top_logprobs]) for p in self.row.logprobs[start:stop])


class Session:
    """The requests under way on one engine's model.

    At most `most_waiting` requests wait at a time. Raises MisuseError where the model is no longer what was loaded.
    """

    def __init__(self, engine: TransformersEngine, *, most_waiting: int = MOST_WAITING) -> None:
        self.engine = engine
        self.most_waiting = check_whole("most_waiting", most_waiting, 1)
        engine.lm.check_state()
        self._stepping = Stepping(engine.lm, engine.capacity, one_by_one=True)
        self._readings = Readings(engine.lm)
        self._sites = {site for site in SITES if _is_seen(engine, site)}
        self._changed = threading.Condition()
        # Guarded by it, as any thread may change them:
        self._submitted: list[Ticket] = []
        self._cancelled: set[Ticket] = set()
        self._poked = False
        # Of the stepping thread:
        self._told: dict[Row, _Told] = {}
        self._rows: dict[Ticket, Row] = {}

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._submitted and not self._rows and not self._cancelled

    @property
    def waiting(self) -> int:
        """How many requests wait for their first token."""
        return len(self._submitted) + len(self._stepping.waiting)

    @property
    def running(self) -> int:
        """How many requests are under way, those that wait left out."""
        return max(0, len(self._rows) - len(self._stepping.waiting))

    def check(self, request: Request) -> None:
        """Raise what `submit` would raise for this request."""
        if self._tells_without_model(request):
            self.engine.check(request)

    def submit(self, request: Request, *, streams: bool = True, top_logprobs: int | None = None) -> Ticket:
        """Let a request wait to be let in; its events come out of `step`. See `Ticket` for the options.

        Raises MisuseError for what the engine refuses, QueueFullError where too many wait. What only the model can tell
        (of a site that was never read so far) comes as the ticket's error.
        """
        if top_logprobs is not None:
            check_whole("top_logprobs", top_logprobs, 0)
        self.check(request)
        ticket = Ticket(request, streams, top_logprobs)
        with self._changed:
            if self.waiting >= self.most_waiting:
                raise QueueFullError(f"{self.most_waiting} requests wait already: try again later")
            self._submitted.append(ticket)
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Let a ticket go: it has no further event, and its row's place is free from the next step on."""
        with self._changed:
            if ticket in self._submitted:
                self._submitted.remove(ticket)
            else:
                self._cancelled.add(ticket)
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until there is something to do, or somebody calls `poke`; false where `timeout` seconds ran out."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._poked or not self.idle, timeout)
            self._poked = False
            return found

    def poke(self) -> None:
        """Let `wait` return."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def step(self) -> list[Event]:
        """Let requests in, write one token of every row, and return what there is to say; nothing when idle.

        Raises ModelInUseError where another thread steers the model; nothing is changed then.
        """
        self.engine.lm.check_owner()
        with self._changed:
            submitted, self._submitted = self._submitted, []
            cancelled, self._cancelled = self._cancelled, set()
        for ticket in cancelled:
            self._let_go(ticket)
        events = self._let_in([ticket for ticket in submitted if ticket not in cancelled])
        if not self._rows:
            self._stepping.rest()
            return events
        try:
            finished = self._stepping.step()
        except ModelInUseError:
            if not events:
                raise
            return events
        except (
            Exception
        ) as error:  # of the model or of what somebody registered: it ends those rows, nobody else's
            return events + self._failed(error)
        if any(told.streams and told.row.readers for told in self._told.values()):
            self._stepping.fetch()
        for told in self._told.values():
            if told.streams and told.row.finish is None:
                events += told.news()
        for row in finished:
            events += self._ended(row)
        if not self._rows:
            self._stepping.rest()
        return events

    def _let_in(self, tickets: Sequence[Ticket]) -> list[Event]:
        """Make the rows of tickets; the events of those of which none can be made."""
        if not tickets:
            return []
        try:
            self.engine.lm.check_state()
            self._add(tickets)
        except ModelInUseError:
            with self._changed:
                self._submitted[:0] = tickets
            raise
        except Exception as error:
            if len(tickets) == 1:
                return [Event(tickets[0], error=_as_ours(error))]
            return [event for ticket in tickets for event in self._let_in([ticket])]
        return []

    def _add(self, tickets: Sequence[Ticket]) -> None:
        asked = [replace(ticket.request, key=ticket) for ticket in tickets]
        rows = self.engine.maker.rows(asked, self._readings)
        for row in rows:
            askers = [request.key for request, _ in row.asked]
            mine = [ticket for ticket in askers if isinstance(ticket, Ticket)]
            self._told[row] = _Told(self.engine.lm, row, mine)
            self._rows |= dict.fromkeys(self._told[row].tickets, row)
        self._stepping.add(rows)

    def _ended(self, row: Row) -> list[Event]:
        if (told := self._told.pop(row, None)) is None:
            return []
        events = []
        for completion in row.completions(self.engine.lm):
            ticket = completion.request.key
            if isinstance(ticket, Ticket) and self._rows.pop(ticket, None) is not None:
                events.append(told.end(ticket, completion))
        return events

    def _failed(self, error: Exception) -> list[Event]:
        events = []
        for row in self._stepping.give_up():
            if (told := self._told.pop(row, None)) is not None:
                events += [Event(ticket, error=_as_ours(error)) for ticket in told.tickets]
                for ticket in told.tickets:
                    del self._rows[ticket]
        return events

    def _let_go(self, ticket: Ticket) -> None:
        if (row := self._rows.pop(ticket, None)) is None:
            return
        told = self._told[row]
        told.tickets.remove(ticket)
        if not told.tickets:
            del self._told[row]
            self._stepping.drop(row)

    def _tells_without_model(self, request: Request) -> bool:
        """Whether no pass of the model is needed to check a request, as all sites that it names are known."""
        acting = (each.tensors for each in request.interventions)
        reading = (reader.tensors for reader in request.readers)
        sites = {part.site for parts in (*acting, *reading) for part in parts}
        sites |= {reader.place.site for reader in request.readers if reader.place is not None}
        return sites <= self._sites


def _is_seen(engine: TransformersEngine, site: SiteName) -> bool:
    """Whether the states at a site are known from now on, without another pass of the model."""
    with suppress(SteerkitError):
        engine.lm.width(site)
        return True
    return False


def _as_ours(error: Exception) -> SteerkitError:
    """An error in one line, what it came of behind it."""
    if isinstance(error, SteerkitError):
        return error
    lines = str(error).strip().splitlines() or [""]
    ours = SteerkitError(f"the model could not go on: {type(error).__name__}: {lines[0]}")
    ours.__cause__ = error
    return ours
