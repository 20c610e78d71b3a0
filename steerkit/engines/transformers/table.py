"""The row-bound table: what happens to a row of a batch is bound to the row, never to its place in a list.

The contract, which every engine shares:

1. A row's *program* says which ordered composition of steerings acts on it at each place in each phase of its
   text. Phases are: prompt (every real prompt position before the last), thinking (completion positions while a
   thinking block is open), tool (those while a call of a tool is open, of a model that calls any) and answer (the other
   completion positions); the last three are told apart by whether the text read so far ends in an empty line or a line,
   and whether the position is the last prompt token, where a program asks for that. Padding has no phase and no
   steering.
2. A table is compiled from the programs of the rows at hand. Each hooked place, a site of a layer, gets a bank of
   slots; slot 0 does nothing; equal compositions share a slot. Splitting, sorting, retiring or refilling a batch
   means compiling a table from other rows, so no row can inherit another row's steering. Constants are computed then.
3. Before a forward pass, outside the hooks, the slot maps `[hooked place, row, position]` are written from the
   phase of each position, and for a single position a row its constants are gathered there too. A hook gathers
   its place's constants by slot, where that is not done yet, and applies them. Where a steering fades, its
   constants are gathered times what is left of them at each position's age.
4. Steerings that meet at one place apply in the listed order, each to the result of the one before it.
5. Nothing in a hook synchronises with the host, copies between devices, changes a number format, or recomputes
   a constant: constants, maps and counts of a place are where its states are. Hooks come off when the block that
   installed them ends, whatever ended it, and a pass in which a hook was not called once is an error, not an
   unsteered result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor

from steerkit.core.errors import SteerkitError
from steerkit.core.sites import Place
from steerkit.engines.transformers.following import FollowedStrengths
from steerkit.engines.transformers.stages import Acting, Gathered, Stage
from steerkit.interventions.following import Following
from steerkit.interventions.gate import RowGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.sites import Site, on_sites, one_pass

NOWHERE, PROMPT, THINKING, ANSWER, TOOL = range(5)
OF_COMPLETION = (THINKING, ANSWER, TOOL)
PHASE_OF_KIND = {"thinking": THINKING, "answer": ANSWER, "tool": TOOL}
LINE_END, STEP_END = 3, 6  # added to a phase of the completion where a position ends a line, or a step too
LAST = 9  # added besides at the last prompt token, the completion's first position
PHASES = 20
ENDS = (0, LINE_END, STEP_END)
PHASES_OF_SCOPE = {
    "prompt": (PROMPT,),
    "completion": (THINKING, ANSWER),
    "all": (PROMPT, THINKING, ANSWER),
    "thinking": (THINKING,),
    "answer": (ANSWER,),
    "tool": (TOOL,),
}
Composition = tuple[Steering, ...]


@dataclass(frozen=True)
class Program:
    """What one row does: by place and phase, an ordered composition of steerings. Empty means unsteered.

    `key` is equal for equal programs, `prompt_key` for programs that act alike on prompt positions.
    """

    compositions: dict[Place, dict[int, Composition]]
    key: tuple[str, ...]
    prompt_key: tuple[str, ...]

    @classmethod
    def of(cls, steerings: Sequence[Steering]) -> Program:
        """The program of an ordered list of steerings; those of strength 0 act on nothing and are left out."""
        acting = [s for s in steerings if s.acts]
        if any(isinstance(s.gate, RowGate) for s in acting):
            raise SteerkitError("a row gate is read before a program is made: see engines.transformers.gates")
        compositions: dict[Place, dict[int, Composition]] = {}
        for steering in acting:
            phases = _phases(steering)
            for layer in steering.layers:
                there = compositions.setdefault(Place(layer, steering.site), {})
                for phase in phases:
                    there[phase] = (*there.get(phase, ()), steering)
        key = tuple(s.digest for s in acting)
        prompt_key = tuple(s.digest for s in acting if PROMPT in PHASES_OF_SCOPE[s.scope])
        return cls(compositions, key, prompt_key)

    @property
    def places(self) -> set[Place]:
        """Sites of layers that this row is steered at."""
        return set(self.compositions)

    @property
    def of_prompt(self) -> Program:
        """What of it acts on the prompt but for its last token."""
        there = {place: {PROMPT: by[PROMPT]} for place, by in self.compositions.items() if PROMPT in by}
        return Program(there, self.prompt_key, self.prompt_key)

    @property
    def followings(self) -> Iterator[Following]:
        """What its strengths follow."""
        return (steering.follows for steering in self.steerings if steering.follows is not None)

    def last_block_before(self, phase: int) -> int | None:
        """The last block whose output is the unsteered one in a phase, but for an edit of that very output.

        -1 where there is none, None where nothing acts in the phase.
        """
        there = [(place, by[phase]) for place, by in self.compositions.items() if phase in by]
        followed = [
            steering.follows.reader.place for _, some in there for steering in some if steering.follows
        ]
        depends = [place for place, _ in there] + [place for place in followed if place is not None]
        return min((place.last_block_before for place in depends), default=None)

    @property
    def tells_thinking_apart(self) -> bool:
        """Whether thinking and answer positions are steered differently."""
        return any(self._differ(THINKING + end + at, ANSWER + end + at) for end in ENDS for at in (0, LAST))

    @property
    def tells_tools_apart(self) -> bool:
        """Whether positions in a call of a tool are steered otherwise than those of the answer."""
        return any(self._differ(TOOL + end + at, ANSWER + end + at) for end in ENDS for at in (0, LAST))

    @property
    def tells_steps_apart(self) -> bool:
        """Whether positions that end a step or a line are steered differently from the others."""
        if any(following.renewed != "every" for following in self.followings):
            return True
        phases = [phase + at for phase in OF_COMPLETION for at in (0, LAST)]
        return any(self._differ(phase, phase + end) for phase in phases for end in ENDS)

    @property
    def tells_last_apart(self) -> bool:
        """Whether the last prompt token is steered otherwise than the rest of the completion."""
        if any(following.renewed != "every" for following in self.followings):
            return True
        return any(self._differ(base + end, base + end + LAST) for base in OF_COMPLETION for end in ENDS)

    @property
    def fades(self) -> bool:
        """Whether a steering depends on how many tokens were generated."""
        return any(steering.half_life is not None for steering in self.steerings)

    @property
    def steerings(self) -> Iterator[Steering]:
        """All that act, once for each place and phase."""
        return (s for by_phase in self.compositions.values() for c in by_phase.values() for s in c)

    def _differ(self, phase: int, other: int) -> bool:
        return any(by_phase.get(phase) != by_phase.get(other) for by_phase in self.compositions.values())


def _phases(steering: Steering) -> tuple[int, ...]:
    """The phases in which a steering acts: everywhere in its scope, or at the ends of lines or steps alone."""
    phases = PHASES_OF_SCOPE[steering.scope]
    completion = [phase for phase in phases if phase != PROMPT]
    ends = {"boundaries": (STEP_END,), "lines": (LINE_END, STEP_END)}.get(steering.positions, ENDS)
    last = tuple(phase + end + LAST for phase in completion for end in ends)
    if steering.positions == "last":
        return last
    ordinary = tuple(phase + end for phase in completion for end in ends)
    return (*phases[: len(phases) - len(completion)], *ordinary, *last)


class RowTable:
    """Banks and slots for the rows of one batch; see the module's contract.

    `programs` holds one program per row, in row order; constants take the device and number format of the states at
    their place. Raises MisuseError where the model has no such place.
    """

    def __init__(self, lm: LanguageModel, programs: Sequence[Program], *, counts_gates: bool = False) -> None:
        self._lm = lm
        self._counts_gates = counts_gates
        followed = (following.reader.place for following in _followings(programs))
        read = {place for place in followed if place is not None}
        self.places = sorted(read.union(*(program.places for program in programs)))
        self._likes = [lm.like(*place) for place in self.places]
        self._sites = [lm.sites.at(place) for place in self.places]
        self.ran = dict.fromkeys(
            range(len(self.places)), 0
        )  # how often each place has run, suspended passes apart
        self.bind(programs)

    def bind(self, programs: Sequence[Program]) -> None:
        """Compile the table for these rows instead; they may steer no place that the table does not hook."""
        by_key = {program.key: program for program in programs}
        distinct = by_key.values()
        self._following = FollowedStrengths(self._lm, _followings(distinct), len(programs))
        self.tells_thinking_apart = any(p.tells_thinking_apart for p in distinct)
        self.tells_tools_apart = self._lm.calls_tools and any(p.tells_tools_apart for p in distinct)
        self.tells_steps_apart = any(p.tells_steps_apart for p in distinct)
        self.tells_last_apart = any(p.tells_last_apart for p in distinct)
        self.fades = any(p.fades for p in distinct)
        gated = (s for p in distinct for s in p.steerings if s.gate is not None)
        self._gates = {digest: i for i, digest in enumerate(dict.fromkeys(s.digest for s in gated), start=1)}
        self._counts: dict[torch.device, Tensor] = {}
        if self._gates and self._counts_gates:
            shape = 2, len(programs), 1 + len(self._gates)
            devices = {like.device for like in self._likes}
            self._counts = {device: torch.zeros(shape, dtype=torch.long, device=device) for device in devices}
        self._stages: list[list[Stage]] = []
        number = {key: i for i, key in enumerate(by_key)}
        slots = []
        for place, like in zip(self.places, self._likes, strict=True):
            bank: dict[tuple[str, ...], int] = {(): 0}
            compositions: list[Composition] = [()]
            per_program = []
            for program in distinct:
                phase_slots = [0]
                by_phase = program.compositions.get(place, {})
                for phase in range(1, PHASES):
                    composition = by_phase.get(phase, ())
                    key = tuple(s.digest for s in composition)
                    if key not in bank:
                        bank[key] = len(compositions)
                        compositions.append(composition)
                    phase_slots.append(bank[key])
                per_program.append(phase_slots)
            slots.append([per_program[number[program.key]] for program in programs])
            self._stages.append(_stages(compositions, place.layer, like, self._gates, self._following.number))
        # [hooked place, row, phase]
        table = torch.tensor(slots, device=self._lm.device)
        self._slots = table.reshape(len(self.places), len(programs), PHASES)
        self._maps: list[Tensor] = self._placed(self._slots[..., :1])
        self._ages: list[Tensor | None] = [None] * len(self.places)
        self._ready: list[list[Gathered]] = []

    @property
    def changes_as_it_goes(self) -> bool:
        """Whether a completion position's steering depends on its place among them, or on what is read of it."""
        return self.tells_steps_apart or self.fades or self.tells_last_apart or self.follows

    @property
    def follows(self) -> bool:
        """Whether a strength follows a reader."""
        return bool(self._following)

    @property
    def keeps_state(self) -> bool:
        """Whether what a row does depends on what was read of it in passes before."""
        return any(f.keeps_state or f.reader.place is None for f in self._following.number)

    def take_logits(self, nats: Tensor, chosen: Tensor) -> None:
        """Take the logits `[row, vocabulary]` that chose the tokens `[row]` of the next pass."""
        self._following.take_logits(nats, chosen)

    def carry(self, before: RowTable, rows: Sequence[int | None]) -> None:
        """Go on for each row from where another table left it: its place there, None for a row that was not in it."""
        self._following.carry(before._following, rows)

    @property
    def follows_kinds(self) -> bool:
        """Whether it depends on what the text there is: thinking, answer or a call of a tool."""
        return self.tells_thinking_apart or self.tells_tools_apart

    @property
    def needs_text(self) -> bool:
        """Whether it cannot be told without the text read so far."""
        return self.tells_thinking_apart or self.tells_steps_apart

    def point(self, phases: Tensor, ages: Tensor | None = None) -> None:
        """Write the slot maps for the coming pass from the phase of each position, `[row, position]`.

        `ages` of the same shape count the tokens generated before each position, which only a table that `fades`
        reads; None: none were, as in a prompt.

        A table of one row serves a batch of any size, a table of R rows a batch of k·R (each row's expansions
        lying together, as beams and returned sequences do).
        """
        rows = phases.shape[0]
        slots = self._slots
        if slots.shape[1] != rows:
            if rows % slots.shape[1]:
                raise SteerkitError(
                    f"steering was given for {slots.shape[1]} rows, but the batch has {rows}: give one list a row"
                )
            slots = slots.repeat_interleave(rows // slots.shape[1], dim=1)
        self._maps = self._placed(slots.gather(2, phases[None].expand(len(self.places), -1, -1)))
        if self._following:
            self._following.begin(phases)
        if self.fades:
            self._ages = [None if ages is None else ages.to(like.device) for like in self._likes]
        # A decoding step's constants are few and serve until rows change, so they are gathered ahead of the hooks.
        self._ready = self._gathered() if phases.shape[1] == 1 else []

    @property
    def counts_gates(self) -> bool:
        """Whether position gates are in the table and counted."""
        return bool(self._counts)

    def gate_counts(self, row: int) -> Counter[tuple[str, bool]]:
        """Return how many of a row's positions asked each position gate, by its steering's digest, and fired it.

        Keys are (digest, False) for asked and (digest, True) for fired. Waits for the device.
        """
        if not self._counts:
            return Counter()
        by_device = [counts[:, row].cpu() for counts in self._counts.values()]
        asked, fired = torch.stack(by_device).sum(dim=0).tolist()
        found = {(digest, False): asked[i] for digest, i in self._gates.items()}
        return Counter(found | {(digest, True): fired[i] for digest, i in self._gates.items()})

    def _gathered(self) -> list[list[Gathered]]:
        return [
            [stage.gathered(slots, ages) for stage in stages]
            for stages, slots, ages in zip(self._stages, self._maps, self._ages, strict=True)
        ]

    def _placed(self, maps: Tensor) -> list[Tensor]:
        """Slot maps `[hooked place, row, position]`, each where the states at its place are."""
        return [slots.to(like.device) for slots, like in zip(maps, self._likes, strict=True)]

    def installed(self) -> AbstractContextManager[object]:
        """Hooks at the places while the block runs; they come off whatever happens."""
        return on_sites(self._edits)

    def one_pass(self) -> AbstractContextManager[None]:
        """Hooks for exactly one forward pass, in which each must be called exactly once."""
        return one_pass(self._edits)

    @property
    def _edits(self) -> dict[Site, Callable[[Tensor], Tensor | None]]:
        return {site: partial(self._edit, index) for index, site in enumerate(self._sites)}

    def _edit(self, index: int, hidden: Tensor) -> Tensor | None:
        if self._lm.is_suspended:
            return None
        self._lm.check_owner()
        self.ran[index] += 1
        counts = self._counts.get(hidden.device) if self._counts else None
        if self._following:
            self._following.read(self.places[index], hidden)
        newest = hidden.shape[
            1
        ]  # blocks that keep nothing of their own may be shown the last positions alone
        for constants in self._ready[index] if self._ready else self._gathered_at(index, newest):
            if constants.follows is not None:
                constants = constants.times(self._following.of(constants.follows, newest, hidden))
            hidden = constants.edit(hidden, counts)
        return hidden

    def _gathered_at(self, index: int, newest: int) -> Iterator[Gathered]:
        """The constants of a place's last `newest` positions, a stage after the other."""
        slots, ages = self._maps[index][:, -newest:], self._ages[index]
        ages = None if ages is None else ages[:, -newest:]
        return (stage.gathered(slots, ages) for stage in self._stages[index])


def _followings(programs: Iterable[Program]) -> Iterator[Following]:
    return (following for program in programs for following in program.followings)


def _stages(
    compositions: Sequence[Composition],
    layer: int,
    like: Tensor,
    gates: Mapping[str, int],
    followings: Mapping[Following, int],
) -> list[Stage]:
    """The k-th steerings of all compositions, for every k: what a shorter one has no k-th of does nothing there."""

    def acting(steering: Steering | None) -> Acting | None:
        if steering is None:
            return None
        follows = 0 if steering.follows is None else followings[steering.follows]
        return Acting.of(steering, layer, gates.get(steering.digest, 0), follows)

    return [Stage.stack(list(map(acting, kth)), like) for kth in zip_longest(*compositions)]
