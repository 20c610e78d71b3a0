from __future__ import annotations

import pytest

from steerkit.core.errors import MisuseError, ProtocolMismatchError
from steerkit.engines.base import Decoding
from steerkit.models.markers import ThinkingMarkers
from tests.sweeps.synthetic import environment, protocol


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"suite": "other"}, "suite was 'boats', now 'other'"),
        ({"suite_digest": "00"}, "suite_digest was"),
        ({"split": "report"}, "split was 'choose', now 'report'"),
        ({"model": "other"}, "model was 'synthetic', now 'other'"),
        ({"fingerprint": "other"}, "fingerprint was"),
        ({"template_digest": "00"}, "template_digest was"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', now 'bfloat16'"),
        ({"decoding": Decoding(max_new_tokens=8)}, "decoding.max_new_tokens was 64, now 8"),
        ({"decoding": Decoding(temperature=0.7)}, "decoding.temperature was 0.0, now 0.7"),
        ({"decoding": Decoding(stop="\n")}, "decoding.stop was (), now ('\\n',)"),
        ({"samples": 3}, "samples was 1, now 3"),
        ({"system": "Be brief."}, "system was None, now 'Be brief.'"),
        ({"markers": ThinkingMarkers("[", "]")}, "markers.opening was '<think>', now '['"),
        ({"scorers": ("lengths",)}, "scorers was"),
    ],
)
def test_another_protocol_is_refused_by_the_name_and_both_values_of_what_differs(changed, named):
    with pytest.raises(ProtocolMismatchError) as caught:
        protocol(**changed).check_continues(protocol())
    assert named in str(caught.value)
    assert str(caught.value).count(", now ") == len(changed) + ("markers" in changed)
    assert "\n" not in str(caught.value)


def test_versions_that_differ_are_named():
    newer = environment(versions={"steerkit": "0.2.0", "torch": "2.13.0", "new": "1"}, batch_size=64)
    assert newer.version_changes(environment()) == ["steerkit was 0.1.0, now 0.2.0"]


def test_no_sample_is_no_protocol():
    with pytest.raises(MisuseError, match="at least 1"):
        protocol(samples=0)
