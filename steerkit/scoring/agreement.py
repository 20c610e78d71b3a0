"""How far two judges agree on the same completions: raw agreement and Cohen's kappa."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Agreement:
    """Counts of a yes-or-no question put to two judges, over the completions that both have a verdict on."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def n(self) -> int:
        """Completions compared."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def raw(self) -> float | None:
        """Share of the completions on which the two say the same; None without any."""
        return (self.both + self.neither) / self.n if self.n else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (Cohen 1960): agreement beyond what each one's own rate of yes would give by chance.

        1 is agreement throughout, 0 that of chance. None where chance alone agrees throughout, because both
        judges only ever said one and the same thing, and without any completions.
        """
        if self.raw is None:
            return None
        yes = (self.both + self.first_only) * (self.both + self.second_only)
        no = (self.neither + self.second_only) * (self.neither + self.first_only)
        chance = (yes + no) / self.n**2
        return None if yes + no == self.n**2 else (self.raw - chance) / (1 - chance)

    @property
    def precision(self) -> float | None:
        """Share of the first judge's yes that the second confirms; None where it never said yes."""
        said = self.both + self.first_only
        return self.both / said if said else None

    @property
    def recall(self) -> float | None:
        """Share of the second judge's yes that the first found; None where there is none."""
        there = self.both + self.second_only
        return self.both / there if there else None

    def summary(self) -> dict[str, float | int | None]:
        """Counts and rates as a flat object, for a file or for machines."""
        return {"n": self.n, "raw": self.raw, "kappa": self.kappa, **asdict(self)}


def agreement(verdicts: Iterable[tuple[bool | None, bool | None]]) -> Agreement:
    """Compare (first, second) verdicts; a pair in which one is None is left out."""
    pairs = [(bool(first), bool(second)) for first, second in verdicts if None not in (first, second)]
    return Agreement(*(pairs.count((one, other)) for one in (True, False) for other in (True, False)))
