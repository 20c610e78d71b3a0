"""Places of a table, lent to whoever needs what stands in them."""

from __future__ import annotations

from collections import Counter

from steerkit.core.errors import SteerkitError


class Pool:
    """Numbers from 1 to `size`, each lent under a key and given back when nobody needs the key any more."""

    def __init__(self, size: int, what: str) -> None:
        self._free = list(range(size, 0, -1))
        self._number: dict[object, int] = {}
        self._users: Counter[object] = Counter()
        self._what = what

    def take(self, key: object) -> tuple[int, bool]:
        """Return the number of `key`, and whether it is new. Raises SteerkitError where none is left."""
        new = key not in self._number
        if new:
            if not self._free:
                raise SteerkitError(
                    f"no {self._what} is free; admission control should have refused the request"
                )
            self._number[key] = self._free.pop()
        self._users[key] += 1
        return self._number[key], new

    def drop(self, key: object) -> int | None:
        """Count one user less, and return the number that became free thereby, if it did."""
        self._users[key] -= 1
        if self._users[key]:
            return None
        del self._users[key]
        number = self._number.pop(key)
        self._free.append(number)
        return number
