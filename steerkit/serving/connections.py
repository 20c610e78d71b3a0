"""Connections on which nothing is asked do not stay: each takes one of the places that there are."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0  # for the first request's head to be there


class Impatient(H11Protocol):
    """uvicorn's protocol, which closes a connection that has asked for nothing after a while."""

    def connection_made(self, transport: Any) -> None:
        """Take a connection, for a while."""
        super().connection_made(transport)
        self._head_is_due = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let it go."""
        self._head_is_due.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None and isinstance(self.transport, asyncio.Transport):
            self.transport.close()
