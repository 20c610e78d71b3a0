"""KL(unsteered ‖ steered) per token: one text under many steerings in one pass.

1. It is measured, in nats over the whole vocabulary, at every position from whose output a completion token is
   predicted: the last prompt token and each completion token but the last. The completion is given
   (teacher-forced); whose roll-out it is, the caller decides (see `roll_outs`).
2. The rows of a pass are one text under many programs, so nothing is padded. A program that does not act on
   prompt positions starts behind the unsteered prompt's keys and values; one that does runs the whole text.
3. A text runs unsteered once, which gives the reference distribution and those keys and values together.
4. Sums run in float64 where the device has it: steering this weak moves a log-probability by less than the
   last bit of a float32, and a difference of two roundings would pass for a divergence.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.engines.base import Request
from steerkit.engines.forward import Rows, alone, in_passes, logits, right_padded
from steerkit.engines.row_states import RowStates, empty_cache
from steerkit.engines.shortcuts import shortcuts
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.layout import point_at_text
from steerkit.engines.transformers.table import Program, RowTable
from steerkit.models import LanguageModel

Shared = tuple[RowStates, Cache]  # a prompt's keys and values, and how they are taken apart

LOGIT_BYTES = 1 << 29  # what the logits of one pass may take; a vocabulary of 262k at 64 positions: 8 rows
POSITIONS_AT_ONCE = 8  # bounds the float64 copies


def divergences(
    lm: LanguageModel,
    texts: Sequence[EncodedText],
    programs: Sequence[Program],
    *,
    rows_per_pass: int | None = None,
) -> Iterator[Tensor]:
    """KL(unsteered ‖ steered) in nats for every text in turn: `[program, position]`, float64, on the CPU.

    Positions are those of the module's contract, one a completion token: `text.ids[text.prompt_length:]` are
    predicted, so the last of them is never read. `rows_per_pass` (default: as many as the logits' budget
    holds) changes speed and memory, nothing else. Raises MisuseError for a text without a prompt or without a
    completion, SteerkitError where the logits are not finite.
    """
    for text in texts:
        if text.prompt_length < 1 or text.completion_length < 1:
            raise MisuseError(
                "a divergence needs a text of at least one prompt token and one completion token"
            )
    if not texts:
        return
    lm.check_state()
    with alone(lm):
        taken = shortcuts(lm, max(len(text.ids) for text in texts))
    for text in texts:
        with alone(lm), torch.inference_mode():
            table = _of_text(lm, text, programs, rows_per_pass, taken.states if taken.continues else None)
        yield table


def roll_outs(engine: TransformersEngine, requests: Sequence[Request]) -> list[EncodedText]:
    """Return the completion of each request behind its prompt, as texts on which a divergence is measured.

    An end-of-sequence token that closed a completion is one of its tokens: whether the model stops is something that
    steering changes.
    """
    texts: dict[Hashable, EncodedText] = {}
    for done in engine.generate([replace(request, key=i) for i, request in enumerate(requests)]):
        prompt = engine.lm.renderer.encode_prompt(done.request.prompt, done.request.system)
        stop = engine.lm.stop_ids[:1] if done.finish == "stop" else ()
        texts[done.request.key] = EncodedText((*prompt, *done.token_ids, *stop), len(prompt))
    return [texts[i] for i in range(len(requests))]


def _of_text(
    lm: LanguageModel,
    text: EncodedText,
    programs: Sequence[Program],
    rows_per_pass: int | None,
    states: RowStates | None,
) -> Tensor:
    """`states` takes the prompt's keys and values out of the reference's; None: every row runs the whole text."""
    cache = empty_cache(lm) if states else None
    reference = logits(lm, right_padded([text.ids[:-1]], lm), text.completion_length, cache)[0]
    before, length = text.prompt_length - 1, len(text.ids)
    prompt = None if cache is None or states is None else (states, states.first(cache, before))
    at_once = rows_per_pass or max(1, LOGIT_BYTES // (reference.numel() * reference.element_size()))
    measured = torch.empty(len(programs), text.completion_length, dtype=torch.float64)
    # Programs that change the prompt's own keys and values cannot share them.
    shares = [prompt is not None and not program.prompt_key for program in programs]
    behind_prompt = [i for i, shared in enumerate(shares) if shared]
    whole = [i for i, shared in enumerate(shares) if not shared]
    for indices, shared in ((behind_prompt, prompt), (whole, None)):

        def of(some: Sequence[int], shared: Shared | None = shared) -> Tensor:
            steered = _steered_logits(lm, text, [programs[i] for i in some], shared)
            return _divergence(reference, steered).to("cpu", torch.float64)

        for some, found in in_passes(indices, lambda _: length, at_once * length, of):
            measured[list(some)] = found
    if not measured.isfinite().all():
        raise SteerkitError(
            f"{lm.name} gives logits that are not finite under the strongest steering asked for: lower the strength, "
            "or use a wider number format"
        )
    return measured.clamp_min(0.0)  # what lies below is the last bit of a float64


def _steered_logits(
    lm: LanguageModel, text: EncodedText, programs: Sequence[Program], prompt: Shared | None
) -> Tensor:
    """Logits `[row, position, vocabulary]` of one text, a row a program, behind `prompt` or from its start."""
    device, rows = lm.device, len(programs)
    start = 0 if prompt is None else text.prompt_length - 1
    read = torch.tensor([text.ids[:-1]], device=device).expand(rows, -1)
    first = torch.tensor([text.prompt_length - 1], device=device).expand(rows)
    table = RowTable(lm, programs)
    mask = torch.ones_like(read, dtype=torch.bool)
    point_at_text(table, lm, read, mask, first, read.shape[1] - start)
    cache = None
    if prompt is not None:
        states, keys_and_values = prompt
        cache = states.packed([(keys_and_values, torch.zeros(rows, dtype=torch.long, device=device))], start)
    places = torch.arange(start, read.shape[1], device=device).expand(rows, -1)
    with table.one_pass():
        return logits(lm, Rows(read[:, start:], mask, places), text.completion_length, cache)


def _divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL of `reference` `[position, vocabulary]` from each row of `logits`, `[row, position]`.

    As Σ p·log p − Σ p·z + log Σ exp z, which needs one exponential of the steered logits z and no copy of them
    beyond a few positions.
    """
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    blocks = []
    for p_logits, z in zip(
        torch.split(reference, POSITIONS_AT_ONCE), torch.split(logits, POSITIONS_AT_ONCE, dim=1), strict=True
    ):
        log_p = p_logits.to(exact).log_softmax(-1)
        p = log_p.exp()
        negative_entropy = (p * log_p).sum(-1)
        rows = [negative_entropy - (p * row).sum(-1) + row.logsumexp(-1) for row in (r.to(exact) for r in z)]
        blocks.append(torch.stack(rows))
    return torch.cat(blocks, dim=1)
