"""The abstention suite: questions that can be answered beside ones that cannot, most of them as twins."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from steerkit.suites.items import SuiteItem, load_items
from steerkit.suites.suite import suite


@suite("abstention")
def abstention() -> Iterable[SuiteItem]:
    """Questions of six scenarios, half of which cannot be answered."""
    data = resources.files("steerkit") / "data" / "suites" / "abstention.jsonl"
    with resources.as_file(data) as path:
        return load_items(path)
