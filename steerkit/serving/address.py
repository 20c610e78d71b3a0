"""Where a server listens, and whom that lets in."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from steerkit.core.errors import MisuseError, SteerkitError


@dataclass(frozen=True)
class Address:
    """Where a server listens. Raises MisuseError for a host that others reach, without a key."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.key is not None and not (self.key and self.key.isascii() and self.key.isprintable()):
            raise MisuseError("a key is a text of printable ASCII characters: set another")
        if self.key is None and not is_loopback(self.host):
            raise MisuseError(
                f"--host {self.host} lets other machines in: give --api-key, or set STEERKIT_SERVER_API_KEY, as well"
            )

    @contextmanager
    def bound(self) -> Iterator[socket.socket]:
        """A socket at this address, which does not listen yet; port 0 takes a free one.

        Raises SteerkitError where it cannot be had.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                made.bind((self.host, self.port))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                raise SteerkitError(
                    f"{self.host}:{self.port} cannot be listened at ({reason}): give another --port or --host"
                ) from error
            yield made

    def url(self, port: int) -> str:
        """The URL by which a client on this machine finds the server."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "") else "::1" if self.host == "::" else self.host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
