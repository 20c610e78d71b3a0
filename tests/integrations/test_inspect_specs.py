"""How the spec strings in Inspect's `steer` are told apart: without Inspect."""

from __future__ import annotations

import pytest

from steerkit.core.errors import MisuseError
from steerkit.integrations.inspect_specs import specs

QUOTED = 'prompt@system="Be brief, please: a=b, or ask me@x.org, dont"'


@pytest.mark.parametrize(
    "whole",
    [
        [],
        ["v@layer=1"],
        ["v@layer=1,strength=2", "w.safetensors@layer=3,scope=all"],
        ["dont-know-system", "v@layer=1,strength=2", "thinking-budget@tokens=128"],
        [QUOTED],
        ["v@layer=1,strength=2", QUOTED, "w@layer=2,scope=all"],
        [f'{QUOTED},suffix="Why, then?"', "dont-know-system"],
        [r'prompt@system="Say \"yes, a@b=c\", or no"', "v@layer=1"],
    ],
)
def test_specs_are_told_apart_whichever_way_they_come(whole: list[str]) -> None:
    together = ",".join(whole)
    assert specs(together) == whole
    assert specs(together.split(",")) == whole  # as Inspect's command line splits it
    assert specs(whole) == whole


def test_a_quote_that_is_never_closed_is_an_error() -> None:
    with pytest.raises(MisuseError, match="never closed"):
        specs('v@layer=1,prompt@system="Be brief, please')
