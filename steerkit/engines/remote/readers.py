"""What of readers travels to vLLM, and what comes back: from a request's extra arguments to an answer's readings.

    "steerkit_readers": ["entropy", "abstain@layer=14", "doubt@as=probe"]      spec strings, one or several
    "steerkit_readers": ["{\\"kind\\": \\"probe\\", \\"probe\\": \\"doubt\\", …}"]     JSON forms, as texts

Vectors and probes are named as in `wire`. The answer has the readings in `kv_transfer_params`, the one field of free
form that vLLM takes from its engine core to its HTTP answers and `RequestOutput`s, KV connector or not:

    "steerkit": {"readings": [{"reader": "entropy", "prompt": [null, 2.25, …], "completion": [0.5, …]}, …]}

1. A token is read when vLLM computes it, and it never computes the last one that it samples: a client that wants the
   last token's readings too asks for one token more, and drops it (the engines do).
2. A prompt that is read is computed, all of it, and takes nothing from vLLM's prefix cache.
3. Readings come with a whole answer of one choice: streams, several choices and several prompts are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.sites import RESID_POST
from steerkit.engines.remote.arguments import ARGUMENT, READERS
from steerkit.engines.remote.wire import LONGEST_MESSAGE, LONGEST_SPEC, named_part, read_json
from steerkit.interventions.readers import (
    FeatureReader,
    NamedReader,
    ProbeReader,
    Reader,
    Reading,
    VectorReader,
    as_readers,
)
from steerkit.interventions.spec import parse_reader
from steerkit.interventions.store import Store

MOST_READERS = 16
ONE_CHOICE = f"{READERS!r} is read of one prompt and one choice a request: send one request each"
WHOSE = "a reader's 'vector' or 'probe'"


def supports_reader(reader: Reader) -> str | None:
    """Return why vLLM cannot read a reader; None where it can."""
    if reader.place is not None and reader.place.site != RESID_POST:
        return f"'site' {reader.place.site!r} is not supported in vLLM, which reads {RESID_POST} alone"
    if isinstance(reader, NamedReader) and reader.place is not None:
        return f"{reader.name!r} is a function of states, of which vLLM reads along vectors and with probes alone"
    if isinstance(reader, FeatureReader):
        return f"{str(reader)!r} is a feature's activation, of which vLLM reads the probe alone: read it as a probe"
    if not isinstance(reader, VectorReader | ProbeReader | NamedReader):
        return f"a {type(reader).__name__} is not supported in vLLM"
    return None


def refuse_readers(engine: str, readers: Sequence[Reader]) -> None:
    """Raise MisuseError for readers that vLLM cannot read, with the reason, and for too many."""
    for reader in readers:
        if (reason := supports_reader(reader)) is not None:
            raise MisuseError(f"the {engine} engine cannot read {str(reader)!r}: {reason}")
    _check_count(len(readers))


def to_reader_argument(readers: Iterable[Reader]) -> list[str]:
    """Return what the extra argument `steerkit_readers` holds over HTTP, whose values are flat: JSON forms as texts."""
    return [json.dumps(each.to_json()) for each in readers]


def read_reader_argument(value: Any, parts: Store) -> tuple[Reader, ...]:
    """Return the readers that a request's `steerkit_readers` names, their vectors and probes taken from `parts`.

    Raises SteerkitError saying what is wrong, in a bounded message. What an engine cannot read is for it to refuse.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = read_json(value, READERS)
    entries = value if isinstance(value, list) else [value]
    _check_count(len(entries))
    try:
        return as_readers([_read(entry, parts) for entry in entries])
    except SteerkitError as error:
        raise MisuseError(str(error)[:LONGEST_MESSAGE]) from error


def readings_from(
    answer: Mapping[str, Any] | None, readers: Sequence[Reader], prompt: int, completion: int
) -> tuple[Reading, ...]:
    """Return the readings in an answer's `kv_transfer_params`, of so many tokens of the prompt and the completion.

    Tokens that were not read have None. Raises SteerkitError where the answer has no readings of these readers.
    """
    if not readers:
        return ()
    entries = ((answer or {}).get(ARGUMENT) or {}).get("readings")
    if not isinstance(entries, list) or len(entries) != len(readers):
        raise SteerkitError(
            "vLLM answered without the readings that were asked for: is its plugin this version's?"
        )
    return tuple(
        Reading(reader, _of_length(entry["prompt"], prompt), _of_length(entry["completion"], completion))
        for reader, entry in zip(readers, entries, strict=True)
    )


def parted_at(readings: Iterable[Reading], length: int) -> tuple[Reading, ...]:
    """Return readings of a text that vLLM took for a prompt, of which `length` tokens are one."""
    return tuple(Reading(each.reader, each.prompt[:length], each.prompt[length:]) for each in readings)


def _of_length(values: Sequence[float | None], length: int) -> tuple[float | None, ...]:
    return (*values[:length], *[None] * (length - len(values)))


def _check_count(count: int) -> None:
    if count > MOST_READERS:
        raise MisuseError(f"{count} readers in one request: at most {MOST_READERS}")


def _read(entry: Any, parts: Store) -> Reader:
    if isinstance(entry, str) and entry.lstrip().startswith("{"):
        entry = read_json(entry, READERS)
    if isinstance(entry, dict):
        return _from_form(entry, parts)
    if not isinstance(entry, str):
        raise MisuseError(
            f"a reader is a spec string such as 'abstain@layer=14' or a JSON object, got {type(entry).__name__}"
        )
    if len(entry) > LONGEST_SPEC:
        raise MisuseError(f"a spec has {len(entry)} characters: at most {LONGEST_SPEC}")
    return parse_reader(entry, parts)


def _from_form(form: Mapping[str, Any], parts: Store) -> Reader:
    """A reader of its JSON form; the vector or probe that it names is fetched by name, and held against its digest."""
    fields = dict(form)
    kind = fields.pop("kind", None)
    try:
        if kind == "registered":
            return NamedReader(fields.pop("reader"), **fields)
        if kind == "vector":
            return VectorReader(named_part(fields.pop("vector"), parts.vector, WHOSE), **fields)
        if kind == "probe":
            return ProbeReader(named_part(fields.pop("probe"), parts.gate, WHOSE), **fields)
        if kind == "feature":
            return FeatureReader(named_part(fields.pop("probe"), parts.gate, WHOSE), **fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise MisuseError(f"a reader's JSON form is incomplete or has other fields: {error}") from error
    raise MisuseError(f"a reader is of kind vector, probe, feature or registered, got {str(kind)[:80]!r}")
