"""Scales: from a reading to a colour that colour-blind readers can tell apart, on light and on dark.

A vector's component is signed: blue below 0, orange above, as strong as it is far from it. Whatever else is read goes
from pale to deep blue: a probe's probability from 0 to 1, any other reading from the smallest that is shown to the
largest, unless it has both signs, which makes it signed too. What lies beyond a scale has the colour of its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerkit.interventions.readers import Reader
from steerkit.reading.reduction import Value

Colour = tuple[int, int, int]

SIGNED: tuple[Colour, ...] = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (253, 184, 99), (179, 88, 6))
SEQUENTIAL: tuple[Colour, ...] = ((247, 251, 255), (158, 202, 225), (66, 146, 198), (8, 48, 107))
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class Scale:
    """A range of readings; of a signed one `low` is `-high`."""

    low: float
    high: float
    signed: bool

    def at(self, value: Value) -> float | None:
        """Return where a value lies, -1 to 1 on a signed scale and 0 to 1 on another; None for one that is none."""
        if value is None or math.isnan(value):
            return None
        held = min(max(value, self.low), self.high)
        if self.signed:
            return held / self.high
        return (held - self.low) / (self.high - self.low)

    def colour(self, value: Value) -> Colour | None:
        """Return the background of a value, red, green and blue, or None for one that is none."""
        place = self.at(value)
        if place is None:
            return None
        return between(SIGNED, (place + 1) / 2) if self.signed else between(SEQUENTIAL, place)


def kind_of(reader: Reader) -> str:
    """Return the kind of a reader, as its JSON form has it: vector, probe, feature or registered."""
    return str(reader.to_json()["kind"])


def scale_of(kind: str, values: Iterable[Value]) -> Scale:
    """Return the scale of what a kind of reader read, over all values that are shown on it."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    if kind == "probe":
        return Scale(0.0, 1.0, signed=False)
    low, high = min(there, default=0.0), max(there, default=1.0)
    if kind == "vector" or low < 0 < high:
        most = max(abs(low), abs(high)) or 1.0
        return Scale(-most, most, signed=True)
    return Scale(low, high if high > low else low + 1.0, signed=False)


def between(stops: Sequence[Colour], share: float) -> Colour:
    """Return the colour at a share, 0 to 1, of the way along evenly spaced stops."""
    place = share * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    rest = place - first
    red, green, blue = (
        round(a + (b - a) * rest) for a, b in zip(stops[first], stops[first + 1], strict=True)
    )
    return red, green, blue


def ink_on(background: Colour) -> Colour:
    """Return black or white, whichever has the higher contrast (WCAG) with a background."""
    luminance = luminance_of(background)
    return BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else WHITE


def luminance_of(colour: Colour) -> float:
    """Return the relative luminance (WCAG 2) of an sRGB colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
