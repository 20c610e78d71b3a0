"""`python -m steerkit.checks FAMILY…`: check tiny models of families; without one, all."""

from __future__ import annotations

import sys

from steerkit.checks.check import Report
from steerkit.checks.table import check_families

for name, found in check_families(sys.argv[1:] or None):
    if isinstance(found, Report):
        print(f"{name}: {found.packing or '–'}, {found.seconds:.1f} s", flush=True)
    else:
        print(f"{name:24} {found[0]:8} {found[1]}", flush=True)
