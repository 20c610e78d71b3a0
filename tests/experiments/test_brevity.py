"""The brevity study's rules, pairs, problems and tables on records made by hand, and all of it on a tiny model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import steerkit as sk
from experiments.brevity import choice as choices
from experiments.brevity import grid as grids
from experiments.brevity import items, limits, publish, results, run, study, timing, twins, vectors
from experiments.brevity.grid import Family, Grid
from experiments.brevity.strengths import Strengths, confidence_ramp
from experiments.reasoning_tax.chains import END_OF_THINKING
from experiments.reasoning_tax.data import training_rows
from steerkit.analysis.summary import Row, summarise
from steerkit.core.bootstrap import Estimate
from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.interventions.store import recommended_use
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.record import Record
from steerkit.scoring.score import score_completion
from steerkit.suites import brevity
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import split_of
from steerkit.sweeps.runner import make_record
from tests.conftest import save_model
from tests.tiny import random_vector, tiny_model

ITEMS = tuple(
    SuiteItem(f"brevity-{1 + n % 2}-{n:04d}a", f"What is {n} and 1?", False, (str(n + 1),), "number")
    for n in range(20)
)
FAMILIES = (
    Family("ASC", "asc", 1, "completion", (1, 2), published=True),
    Family("own", "own", 2, "thinking", (2,), half_life=8),
    Family(grids.RANDOM, "own", 2, "thinking", (2,), random=True),
)


def records(
    right: Iterable[int], tokens: Sequence[int], cell: Cell | None = None, finish: str = "stop"
) -> Iterator[Record]:
    """Each item's record: the answer where its number is in `right`, else a wrong one, in `tokens[n]` tokens."""
    right = set(right)
    for n, (item, length) in enumerate(zip(ITEMS, tokens, strict=False)):
        text = f"The answer is {n + 1 if n in right else 999}."
        completion = Completion(Request(item.prompt), text, tuple(range(length)), finish, 5)  # type: ignore[arg-type]
        yield make_record(cell or Cell(), item, 0, completion, score_completion(item, completion))


@pytest.fixture
def pushes(tiny: sk.LanguageModel) -> dict[str, sk.SteeringVector]:
    """Two vectors by name."""
    return {name: random_vector(tiny, name=name, seed=seed) for seed, name in enumerate(("asc", "own"))}


def units(vector: sk.SteeringVector, _layer: int) -> tuple[float, float | None]:
    """A unit strength and a closed form for either vector."""
    return (0.5, 0.001) if vector.name == "asc" else (1.5, 0.002)


@pytest.fixture
def grid(pushes: dict[str, sk.SteeringVector]) -> Grid:
    """The families' cells and a prompt."""
    return grids.build(FAMILIES, pushes, units, {"prompt": ("concise-system", grids.CONCISE)})


def test_an_item_keeps_its_split_without_its_twin() -> None:
    whole = brevity.generate(levels=[1, 2])
    alone = {item.id: item for item in items.answerable(whole)}
    assert len(alone) == 300
    assert all(item.twin is None and item.should_abstain is False for item in alone.values())
    assert all(split_of(alone[item.id]) == split_of(item) for item in whole if item.id in alone)
    both = items.twins(whole)
    assert {item.id for item in both} == {item.twin for item in both}
    assert sum(bool(item.should_abstain) for item in both) == len(both) // 2


@pytest.mark.parametrize("levels", [[1], [1, 3]])
def test_a_grown_suite_reports_on_enough_and_begins_with_the_built_in_one(levels: list[int]) -> None:
    whole = items.grown(levels, 1000)
    alone = items.answerable(whole)
    assert sum(split_of(item) == "report" for item in alone) >= 1000
    built_in = brevity.generate(levels=levels)
    assert whole[: len(built_in)] == built_in
    assert len({item.prompt for item in whole}) == len({item.id for item in whole}) == len(whole)
    by_id = {item.id: item for item in whole}
    both = items.twins(whole)
    assert len(both) > len(items.twins(built_in))
    assert all(item.twin and by_id[item.twin].twin == item.id for item in both)
    assert {items.level_of(item.id) for item in whole} == set(levels)
    assert items.grown(levels, 10) == built_in


def test_more_problems_than_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MOST_SEEDS", 1)
    with pytest.raises(MisuseError, match="no 1000 problems"):
        items.grown([1], 1000)


def test_no_prompt_of_a_pair_is_a_problem_of_the_suite() -> None:
    problems = {item.prompt for item in items.grown([1, 2, 3, 4, 5], 2000)}
    pairs = [*vectors.style_pairs(50), *sk.load_pairs("brevity")]
    assert len(pairs) == 100
    assert problems.isdisjoint(pair.prompt for pair in pairs)


def test_levels_take_part_by_their_accuracy() -> None:
    some = items.accuracy_by_level(records(range(0, 20, 2), [5] * 20))
    assert some == {1: (1.0, 10), 2: (0.0, 10)}
    assert items.qualifying(some, 0.3) == (1,)
    assert items.qualifying({1: (0.3, 10), 2: (0.29, 10)}, 0.3) == (1,)
    assert items.qualifying({1: (0.1, 10)}, 0.3) == ()


def test_the_pairs_are_the_training_questions_in_both_styles() -> None:
    pairs = vectors.style_pairs(12)
    trained = {(row.prompt, row.completion) for row in training_rows("long", 40)}
    for pair in pairs:
        assert (pair.prompt, pair.negative) in trained
        assert len(pair.positive) < 0.5 * len(pair.negative)
        short, long = (side.split(END_OF_THINKING) for side in (pair.positive, pair.negative))
        assert len(short) == len(long) == 2
        assert short[1] == long[1]
    assert vectors.style_pairs(12) == pairs
    few = vectors.shortest(pairs, 4)
    assert [pair in pairs.pairs for pair in few] == [True] * 4
    assert [len(pair.negative) for pair in few] == sorted(len(pair.negative) for pair in pairs)[:4]


def test_own_lines_are_the_long_chains_lines_that_carry_the_solution() -> None:
    pairs = vectors.style_pairs(12)
    for pair, whole in zip(vectors.own_lines(pairs).pairs, pairs.pairs, strict=True):
        lines = pair.positive.splitlines()
        assert lines[0].startswith("First,")
        assert lines[-3].startswith("So the final answer")
        assert lines[-2:] == whole.negative.splitlines()[-2:]
        assert set(lines) < set(whole.negative.splitlines())
        assert not any("check" in line or "make sure" in line for line in lines)
        assert whole.negative.startswith(pair.negative)
        assert len(pair.positive) < 0.8 * len(whole.negative)


def test_the_grid_holds_multiples_of_the_unit_the_closed_form_and_random_directions(grid: Grid) -> None:
    asc = [RunCell.of(cell) for cell in grid.cells if grid.actuators.get(cell.id) == "ASC"]
    assert [cell.strength for cell in asc] == [0.001, 0.5, 1.0]
    (own,) = (RunCell.of(cell) for cell in grid.cells if grid.actuators.get(cell.id) == "own")
    assert (own.strength, own.scope, own.half_life) == (3.0, "thinking", 8.0)
    (random,) = (RunCell.of(cell) for cell in grid.cells if grid.actuators.get(cell.id) == grids.RANDOM)
    assert (random.role, random.controls, random.strength) == ("random", "own", 3.0)
    assert grid.cells[0].role == "unsteered"
    assert grid.cells[0].id not in grid.actuators
    assert len(grid.cells) == len(grid.actuators) + 1 == 8


def test_a_closed_form_that_breaks_down_makes_no_cell(pushes: dict[str, sk.SteeringVector]) -> None:
    made = grids.build(FAMILIES[:1], pushes, lambda _vector, _layer: (0.5, 0.0), {})
    assert [RunCell.of(cell).strength for cell in made.cells] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("families", [grids.REASONER, grids.SECOND_REASONER, grids.BASE])
def test_the_studies_grids_are_about_forty_cells_whose_vectors_there_are(families: Sequence[Family]) -> None:
    assert sum(len(family.multiples) + family.published for family in families) <= 52
    assert {family.vector for family in families} <= publish.METHODS.keys()
    assert sum(family.random for family in families) == 1


def test_the_second_reasoners_pairs_are_its_own_chains_and_their_lines_that_carry_the_solution() -> None:
    pairs = vectors.style_pairs(12, grids.SECOND)
    first = {pair.prompt for pair in vectors.style_pairs(12)}
    trained = {(row.prompt, row.completion) for row in training_rows("long-2", 60)}
    for pair in pairs:
        assert pair.prompt not in first
        assert (pair.prompt, pair.negative) in trained
        assert set(pair.positive.splitlines()) < set(pair.negative.splitlines())
        assert pair.positive.splitlines()[0].startswith("First,")
        assert not any(line.startswith(("- ", "I am asked")) for line in pair.positive.splitlines())
        assert pair.positive.splitlines()[-2:] == pair.negative.splitlines()[-2:]


def test_a_strength_that_follows_confidence_is_turned_by_the_ramp_and_no_other(
    pushes: dict[str, sk.SteeringVector], tiny: sk.LanguageModel, tmp_path: Path
) -> None:
    ramp = confidence_ramp(tiny, tmp_path / "ramp.json", [f"What is {n} and 2?" for n in range(80)])
    assert (ramp.least, ramp.most, ramp.renewed) == (-1.0, 1.0, "lines")
    assert confidence_ramp(tiny, tmp_path / "ramp.json", []) == ramp
    families = (*FAMILIES[:2], Family("ReBalance", "own", 2, "thinking", (2,), follows=True))
    made = grids.build(families, pushes, units, {}, ramp)
    for cell in made.cells[1:]:
        (steering,) = cell.interventions
        assert isinstance(steering, sk.Steering)
        assert steering.follows == (ramp if made.actuators[cell.id] == "ReBalance" else None)


def measured(grid: Grid, outcomes: Mapping[int, tuple[int, int]], cut: int = -1) -> list[Row]:
    """The summary of a run in which cell number i got (right, tokens); the others 20 right in 100 tokens."""

    def all_records() -> Iterator[Record]:
        for number, cell in enumerate(grid.cells):
            right, tokens = outcomes.get(number, (20, 100))
            yield from records(range(right), [tokens] * 20, cell, "length" if number == cut else "stop")

    return summarise(all_records(), {cell.id: RunCell.of(cell) for cell in grid.cells}, resamples=20)


def test_a_rule_picks_for_each_actuator_the_fewest_tokens_within_its_bounds(grid: Grid) -> None:
    rows = measured(grid, {1: (20, 80), 2: (19, 60), 3: (10, 10), 4: (10, 10), 6: (20, 70), 7: (20, 75)})
    choice = choices.chosen(grid, rows, rows, "tokens")
    assert choice.picked["strict"] == {"ASC": grid.cells[1], "own": None, "prompt": grid.cells[6]}
    assert choice.picked["loose"] == {"ASC": grid.cells[2], "own": None, "prompt": grid.cells[6]}
    assert (choice.headline, choice.rule) == (grid.cells[1], "strict")
    assert choice.best == {"strict": grid.cells[1], "loose": grid.cells[2]}


def test_the_headline_is_chosen_in_the_second_round_alone(grid: Grid) -> None:
    first = measured(grid, {1: (20, 80), 2: (20, 60)})
    second = measured(grid, {1: (20, 80), 2: (15, 60)})
    choice = choices.chosen(grid, first, second, "tokens")
    assert choice.picked["strict"]["ASC"] is grid.cells[2]
    assert choice.headline is grid.cells[1]


def test_the_finalists_are_the_vectors_frontier_near_the_unsteered_accuracy(grid: Grid) -> None:
    rows = measured(grid, {1: (20, 80), 2: (19, 60), 3: (19, 70), 4: (10, 10), 5: (20, 1), 6: (20, 2)})
    assert choices.finalists(grid, rows, "tokens") == [grid.cells[1], grid.cells[2]]
    lost = measured(grid, {1: (10, 80), 2: (9, 60), 3: (8, 70), 4: (1, 65)})
    assert choices.finalists(grid, lost, "tokens") == [grid.cells[1], grid.cells[2]]


def test_a_cell_that_is_cut_off_more_often_is_not_picked(grid: Grid) -> None:
    outcomes = {1: (20, 80), 2: (20, 60)}
    for cut, expected in ((-1, 2), (2, 1)):
        rows = measured(grid, outcomes, cut)
        assert choices.chosen(grid, rows, rows, "tokens").headline is grid.cells[expected]


def test_where_no_vector_keeps_to_a_rule_the_next_rule_or_the_nearest_cell_is_shown(grid: Grid) -> None:
    some = {1: (19, 80), 2: (5, 60), 3: (4, 10), 4: (3, 10), 5: (20, 1)}
    for outcomes, rule in ((some, "loose"), (some | {1: (8, 80)}, "nearest to strict")):
        rows = measured(grid, outcomes)
        choice = choices.chosen(grid, rows, rows, "tokens")
        assert (choice.headline, choice.rule) == (grid.cells[1], rule)


def test_another_choice_in_the_same_folder_is_refused(grid: Grid, tmp_path: Path) -> None:
    for outcomes in ({1: (20, 80)}, {1: (20, 80)}):
        rows = measured(grid, outcomes)
        choices.keep(tmp_path / "choice.json", choices.chosen(grid, rows, rows, "tokens"), "ASC", {})
    rows = measured(grid, {2: (20, 80)})
    with pytest.raises(MisuseError, match="chosen otherwise"):
        choices.keep(tmp_path / "choice.json", choices.chosen(grid, rows, rows, "tokens"), "ASC", {})


def test_a_control_is_a_random_direction_of_the_same_norm_in_the_same_place(grid: Grid) -> None:
    (chosen,) = (cell for cell in grid.cells if grid.actuators.get(cell.id) == "own")
    random = grids.control(chosen)
    where = ("layer", "strength", "scope", "half_life", "positions")
    for name in where:
        assert getattr(RunCell.of(random), name) == getattr(RunCell.of(chosen), name)
    assert (random.role, random.controls) == ("random", "own")
    assert random.id != chosen.id
    norms = [cell.interventions[0].vector.direction[2].norm().item() for cell in (chosen, random)]
    assert norms[0] == pytest.approx(norms[1])


def test_a_saving_is_the_share_of_all_tokens_on_the_items_that_both_have() -> None:
    plain = list(records(range(20), [100] * 10 + [300] * 10))
    third = results.saving(plain, records(range(20), [30] * 10 + [90] * 10), "tokens")
    assert third == Estimate(pytest.approx(0.7), pytest.approx(0.7), pytest.approx(0.7), 20)  # type: ignore[arg-type]
    mixed = results.saving(plain, records(range(20), [100] * 10 + [60] * 10), "tokens")
    assert mixed is not None
    assert mixed.value == pytest.approx(1 - 1600 / 4000)
    assert mixed.low < mixed.value < mixed.high < 0.8
    first_half = results.saving(plain, records(range(20), [50] * 10), "tokens")
    assert first_half is not None
    assert (first_half.value, first_half.n) == (pytest.approx(0.5), 10)
    assert results.saving(plain, plain, "thinking_tokens") is None


def test_a_target_is_met_only_where_the_whole_interval_is_said_to_meet_it() -> None:
    assert results.verdict(0.7, 0.68, 0.72, at_least=0.67) == "**met**"
    assert results.verdict(0.7, 0.66, 0.72, at_least=0.67).startswith("**met by the estimate**")
    assert results.verdict(0.66, 0.6, 0.72, at_least=0.67) == "**missed**"
    assert results.verdict(-0.01, -0.03, 0.01, at_most=0.01) == "**met**"
    assert results.verdict(0.0, -0.03, 0.02, at_most=0.01).startswith("**met by the estimate**")
    assert results.verdict(0.02, 0.0, 0.05, at_most=0.01) == "**missed**"


def test_the_targets_are_read_off_the_paired_records() -> None:
    turn = timing.Turn({"unsteered": 9.0, "steered": 3.0}, {"unsteered": 4000, "steered": 1000})
    timed = timing.Timing("cell", 20, 8, 1, (turn,))
    assert (timed.gain, timed.token_ratio, timed.share) == (3.0, 4.0, 0.75)
    some = {
        "unsteered": list(records(range(18), [200] * 20)),
        "brief": list(records(range(18), [50] * 20)),
        "short": list(records(range(19), [20] * 20)),
    }
    text = results.targets(some, "brief", "tokens", timed, True, "short")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    assert "75% [75%, 75%] | **met** |" in lines["≥ 67% fewer tokens"]
    assert "| 0.0 points [0.0, 0.0] | **met** |" in lines["accuracy drop ≤ 1 point"]
    assert "**met**" in lines["nothing truncated"]
    assert lines["n ≥ 1000 on `report`"].endswith("| 20 | **missed** |")
    assert "0.75 (turns 0.75) | **missed** |" in lines["time saved ≥ 0.85 × tokens saved"]
    assert "90% [90%, 90%] fewer, accuracy +5.0 points" in text
    assert "| 75% [75%, 75%] |" in results.report_table(some, "tokens").splitlines()[3]


def thought(right: Iterable[int], tokens: Sequence[int]) -> list[Record]:
    """Records of the first items that say they thought for so many tokens."""
    return [
        replace(record, scores={**record.scores, "thinking_tokens": spent})
        for record, spent in zip(records(right, tokens), tokens, strict=True)
    ]


def test_a_perfect_stop_ends_a_chain_where_the_reply_is_right_for_the_first_time() -> None:
    plain = thought([0, 1, 2], [100, 100, 100, 100])
    by_budget = {
        0: thought([3], [0, 0, 0, 0]),
        32: thought([1], [32, 32, 32, 32]),
        64: thought([0, 1], [64, 64, 64, 64]),
    }
    right, every = limits.perfect_stop(plain, by_budget)
    assert right is not None
    assert every is not None
    assert (right.value, right.n) == (
        pytest.approx(1 - (64 + 32 + 100) / 300),
        3,
    )  # the third needs all of it
    assert (every.value, every.n) == (
        pytest.approx(1 - (64 + 32 + 100) / 400),
        4,
    )  # the fourth is given up at once
    assert right.low <= right.value <= right.high
    assert limits.perfect_stop(thought([], [0, 0]), {}) == (None, None)


def test_what_a_chain_is_spent_on_is_read_off_its_lines(tiny: sk.LanguageModel) -> None:
    step = "Next, pears in all: pears and plums together. 3 + 4 = 7.\n"
    words, numbers = "Next, pears in all: pears and plums together. ", "3 + 4 = 7.\n"
    assert limits.parts(step) == [(limits.IN_WORDS, words), (limits.IN_NUMBERS, numbers)]
    lines = ["Let me see.\n", "- pears: 3\n", "I am asked: How many?\n", step, "So the final answer is 7.\n"]
    (record,) = records([0], [9])
    chain = replace(record, completion=f"{''.join(lines)}</think>\n- The answer is 7.")
    found = limits.spent_on([chain], tiny.tokenizer)
    count = [len(tiny.tokenizer.encode(line, add_special_tokens=False)) for line in (*lines, words, numbers)]
    assert list(found.values()) == [count[1], count[2], count[5], count[6], count[0] + count[4]]


def change(value: float, half: float) -> dict[str, Estimate]:
    """A change of recall with an interval of twice `half`."""
    return {"abstention_recall": Estimate(value, value - half, value + half, 40)}


def test_brevity_raises_or_lowers_abstention_only_where_both_comparisons_say_so() -> None:
    recall = Estimate(0.4, 0.3, 0.5, 40)
    assert "**raises**" in twins.answer("x", recall, change(0.2, 0.1), change(0.1, 0.05))
    assert "**lowers**" in twins.answer("x", recall, change(-0.2, 0.1), change(-0.1, 0.05))
    assert "no effect" in twins.answer("x", recall, change(0.2, 0.1), change(0.1, 0.2))
    assert "no effect" in twins.answer("x", recall, change(0.2, 0.1), change(-0.3, 0.1))
    assert "floor" in twins.answer("x", Estimate(0.0, 0.0, 0.04, 40), change(0.0, 0.0), change(0.0, 0.0))
    assert "floor" not in twins.answer("x", recall, change(0.2, 0.1), change(0.1, 0.05))


def test_a_timing_is_taken_once_for_a_cell(tiny: sk.LanguageModel, grid: Grid, tmp_path: Path) -> None:
    options = {"turns": 2, "batch_size": 2, "threads": 1, "path": tmp_path / "timing.json"}
    first = timing.timed(tiny, grid.cells[1], ["Why?", "How?"], Decoding(4), **options)  # type: ignore[arg-type]
    assert len(first.turns) == 2
    assert all(0 < turn.tokens["steered"] <= 8 and turn.gain > 0 for turn in first.turns)
    assert timing.timed(tiny, grid.cells[1], ["Why?"], Decoding(4), **options) == first  # type: ignore[arg-type]
    assert timing.timed(tiny, grid.cells[2], ["Why?"], Decoding(4), **options).problems == 1  # type: ignore[arg-type]


def test_a_strength_is_measured_once_and_kept_with_its_sign(
    tiny: sk.LanguageModel,
    pushes: dict[str, sk.SteeringVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "strengths.json"
    strengths = Strengths(tiny, path, ["What is 2 and 3?"])
    there = strengths.at(pushes["own"], 2, 0.05)
    away = strengths.at(pushes["own"], 2, 0.05, sign=-1)
    assert there.record.strength > 0 > away.record.strength
    assert there.record.measured_kl == pytest.approx(0.05, rel=0.06)
    assert there.published is not None
    monkeypatch.setattr(sk, "calibrate", None)  # nothing is measured again
    again = Strengths(tiny, path, [])
    assert again.at(pushes["own"], 2, 0.05) == there
    assert again.at(pushes["own"], 2, 0.05, sign=-1) == away
    assert "| own | 2 | completion | 0.05 |" in results.strengths_table(again)


def test_the_whole_study_runs_resumes_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096  # texts are bytes to it
    lm.tokenizer.chat_template = lm.tokenizer.chat_template.replace("[assistant]", "[assistant]<think>")
    model = save_model(lm, tmp_path / "reasoner")
    families = (
        Family("ASC", "asc", 1, "completion", (1,), published=True),
        Family("own style, mean", "style-mean", 2, "thinking", (2,)),
        Family("fading", "learned", 2, "thinking", (1,), half_life=8),
        Family(grids.RANDOM, "style-mean", 2, "thinking", (2,), random=True),
    )
    monkeypatch.setattr(grids, "REASONER", families)
    monkeypatch.setattr(study, "TOKENS", 6)
    for name, value in {"TOKENS": 6, "TIMED_TURNS": 1, "KL_PROMPTS": 2}.items():
        monkeypatch.setattr(run, name, value)
    for name, value in {"PAIRS": 6, "LEARNED_PAIRS": 2, "LEARNED_LAYER": 2}.items():
        monkeypatch.setattr(vectors, name, value)
    arguments = ["run", "--model", model, "--out", tmp_path / "runs", "--dtype", "float32", "--limit", 6]
    monkeypatch.setattr("sys.argv", [str(part) for part in (*arguments, "--threads", 1)])
    run.main()
    folder = tmp_path / "runs" / "trial"
    first = (folder / "results.md").read_text()
    assert "**No level qualifies.**" in first
    assert "no effect on abstention that both comparisons show" in first
    for heading in ("## Targets", "## On `report`, once", "## Twins at matched KL", "## Strengths"):
        assert heading in first
    run.main()
    assert (folder / "results.md").read_text() == first

    saved = publish.publish(folder, tmp_path)
    vector = sk.load_vector(saved)
    assert vector.name == "brief-smollm2-135m-reasoner"
    assert vector.metadata.calibration
    (recommended,) = recommended_use(vector)
    text = saved.with_suffix(".md").read_text()
    assert vector.metadata.fingerprint in text
    assert f"`{recommended}`" in text
    assert "a random direction of its norm" in text
