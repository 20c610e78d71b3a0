"""Labels: a person's verdicts on a run's completions, and how far the scorers agree with them.

They are the scores of the scorer `label`, kept beside the run's records as a judge's are (`scores/label.jsonl`, see
`steerkit.runs.scores`): `labelled_abstained` is what the person says of what the score `abstained` says. Whether the
scorers' verdicts were out of sight when a label was given stands beside it as evidence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from steerkit.core.errors import MisuseError
from steerkit.runs.directory import RunDirectory
from steerkit.runs.record import Key, Record
from steerkit.runs.scores import Added, read_added, write_scores
from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.label import LABEL, LABELLED_SCORES, PREFIX


class Labels:
    """The labels of a run, those of its file and those given since; each is written as it is given.

    Threads may share it; processes may not. Raises InputError where the file is damaged.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.scores_folder
        found = read_added(self._folder, LABEL)
        self._given: dict[Key, Added] = {} if found is None else {added.key: added for added in found[1]}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._given)

    @property
    def path(self) -> Path:
        """Its file, there once a label is."""
        return self._folder / f"{LABEL}.jsonl"

    def of(self, key: Key, score: str) -> bool | None:
        """Return the label of a record on a score; None where there is none."""
        added = self._given.get(key)
        verdict = None if added is None else added.scores.get(PREFIX + score)
        return None if verdict is None else bool(verdict)

    def give(self, key: Key, score: str, verdict: bool | None, *, blind: bool) -> Path:
        """Label a record on a score, or take its label back (None), write the file and return its path.

        `blind`: the scorers' verdicts were out of sight. Raises MisuseError for a score that is not labelled,
        SteerkitError where the file cannot be written; the label is then as it was.
        """
        if score not in LABELLED_SCORES:
            raise MisuseError(f"labels are on {' or '.join(LABELLED_SCORES)}, got {score!r}")
        with self._lock:
            before = self._given.get(key, Added(key, {}))
            scores = {name: value for name, value in before.scores.items() if name != PREFIX + score}
            evidence = {name: value for name, value in before.evidence.items() if name != score}
            if verdict is not None:
                scores[PREFIX + score] = verdict
                evidence[score] = {"blind": blind}
            given = {other: added for other, added in self._given.items() if other != key}
            if scores:
                given[key] = Added(key, scores, evidence)
            path = write_scores(self._folder, LABEL, {"labelled": list(LABELLED_SCORES)}, given.values())
            self._given = given
            return path

    def agreement(self, records: Iterable[Record], score: str) -> Agreement:
        """Return how far a score of these records agrees with their labels: the scorer first, the person second."""
        said = ((record.scores.get(score), self.of(record.key, score)) for record in records)
        return agreement((None if rule is None else bool(rule), label) for rule, label in said)
