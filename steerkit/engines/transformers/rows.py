"""From requests to rows: what a request asks for is checked, its gates are read, its prompt and rules become tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Request, ScoreRequest, steerings_of
from steerkit.engines.forward import alone
from steerkit.engines.transformers.batch import Row
from steerkit.engines.transformers.gates import PromptIds, Readings
from steerkit.engines.transformers.sampling import row_uniforms
from steerkit.engines.transformers.table import Program
from steerkit.interventions.base import Intervention
from steerkit.interventions.logit_rules import BoundRule, ForcedBeginning, LogitRule
from steerkit.interventions.prompt_edit import PromptEdit, edited_prompt
from steerkit.interventions.readers import Reader
from steerkit.models import LanguageModel

KEPT_PROMPTS = 4096
KEPT_PARTS = 4096  # vectors known to fit, and rules: a server's clients can name any number of either


class RowMaker:
    """Makes the rows of one engine, and keeps what requests have in common: rendered prompts, rules, vectors checked.

    `refuse` raises for interventions that the engine does not support. Unless `exact`, vectors of other weights pass.
    """

    def __init__(
        self, lm: LanguageModel, refuse: Callable[[Iterable[Intervention]], None], *, exact: bool
    ) -> None:
        self._lm = lm
        self._refuse = refuse
        self._exact = exact
        self._checked: set[str] = set()
        self._rules: dict[str, BoundRule] = {}  # by the intervention's digest, without its gate
        self._prompts: dict[str, PromptIds] = {}

    def check(self, request: Request) -> None:
        """Raise what `rows` would raise for this request."""
        self.check_acting(request.interventions, request.readers)
        plain, edited = self.plain_ids(request), self._edited_ids(request, request.interventions)
        self.check_length(max(len(plain), len(edited)) + request.decoding.max_new_tokens)

    def check_acting(self, acting: Sequence[Intervention], readers: Sequence[Reader] = ()) -> None:
        """Raise MisuseError for what the engine does not support, or what was made for another model."""
        self._refuse(acting)
        for reader in readers:
            if reader.place is not None:
                self._lm.like(*reader.place)  # refuses a place that the model does not have
        needed = [*(each.tensors for each in acting), *(reader.tensors for reader in readers)]
        for part in chain.from_iterable(needed):
            if part.digest not in self._checked:
                part.check(self._lm, exact=self._exact)
                if len(self._checked) >= KEPT_PARTS:
                    self._checked.clear()
                self._checked.add(part.digest)

    def check_length(self, tokens: int) -> None:
        """Raise MisuseError for a text of more tokens than the model reads."""
        if tokens > self._lm.context_length:
            raise MisuseError(
                f"prompt and completion need {tokens} tokens, but {self._lm.name} reads {self._lm.context_length}: "
                "shorten the prompt or lower max_new_tokens"
            )

    def rows(self, requests: Sequence[Request], readings: Readings) -> list[Row]:
        """One row for all requests that come to the same completion, in order of the first of them."""
        plain = list(map(self.plain_ids, requests))
        for request, ids in zip(requests, plain, strict=True):
            self.check_acting(request.interventions, request.readers)
            self.check_length(len(ids) + request.decoding.max_new_tokens)
        self.read(readings, requests, plain)
        rows: dict[object, Row] = {}
        for request, ids in zip(requests, plain, strict=True):
            acting, decoding = readings.opened(request.interventions, ids), request.decoding
            program, rules = Program.of(steerings_of(acting)), self._bound(acting)
            uniforms = row_uniforms(decoding, ids, request.sample) if decoding.temperature > 0 else None
            verdicts = readings.verdicts(request.interventions, ids)
            ids = self._edited_ids(request, acting)
            self.check_length(len(ids) + decoding.max_new_tokens)
            drawn = None if uniforms is None else uniforms.tobytes()
            read = request.readers, request.reads_prompt
            key = ids, program.key, decoding, drawn, rules, read
            row = rows.get(key) or rows.setdefault(key, Row([], ids, program, uniforms, rules, *read))
            row.asked.append((request, verdicts))
        return list(rows.values())

    def read(
        self, readings: Readings, requests: Sequence[Request | ScoreRequest], prompts: Sequence[PromptIds]
    ) -> None:
        """Read all row gates of these requests, whose unedited prompts are `prompts`."""
        asked = [(r.prompt, ids, r.interventions) for r, ids in zip(requests, prompts, strict=True)]
        with alone(self._lm):
            readings.read(asked)
        readings.ask(asked)

    def plain_ids(self, request: Request | ScoreRequest) -> PromptIds:
        """The tokens of a request's prompt as it would be without edits, which row gates read."""
        return request.prompt_ids or self._prompt_ids(request.prompt, request.system)

    def _edited_ids(self, request: Request, acting: Sequence[Intervention]) -> PromptIds:
        return request.prompt_ids or self._prompt_ids(*edited_prompt(request.prompt, request.system, acting))

    def _prompt_ids(self, prompt: Prompt, system: str | None) -> PromptIds:
        """The rendered prompt's tokens, kept: a grid asks for the same prompt once a cell, and before to check it."""
        key = json.dumps([prompt, system])
        known = self._prompts.get(key)
        if known is None:
            if len(self._prompts) >= KEPT_PROMPTS:
                self._prompts.clear()
            known = self._prompts[key] = tuple(self._lm.renderer.encode_prompt(prompt, system))
        return known

    def _bound(self, acting: Sequence[Intervention]) -> tuple[BoundRule, ...]:
        """The rules on logits, as tokens of this model; a forced beginning goes before all others."""
        begin = "".join(each.begin or "" for each in acting if isinstance(each, PromptEdit))
        rules: list[BoundRule] = []
        if begin:
            text = self._lm.renderer.encode_pair("?", begin)
            rules.append(ForcedBeginning(text.ids[text.prompt_length :]))
        for each in acting:
            if isinstance(each, LogitRule):
                if each.digest not in self._rules:
                    if len(self._rules) >= KEPT_PARTS:
                        self._rules.clear()
                    self._rules[each.digest] = each.bind(self._lm)
                rules.append(self._rules[each.digest])
        return tuple(rules)
