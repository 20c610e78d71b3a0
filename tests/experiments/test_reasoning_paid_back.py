"""The two shortcuts of "paid back" against the ordinary way, and what its rules choose."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

import steerkit as sk
from experiments.reasoning_tax import after_chains, learned
from experiments.reasoning_tax.actuators import (
    Way,
    acting_on,
    at_random,
    bias_on_answers,
    in_condition,
    on_answers,
    on_closed_thinking,
    on_completions,
    ways_of,
)
from experiments.reasoning_tax.after_chains import answered, chain_of, joined
from experiments.reasoning_tax.back import ANY_PRICE, BEST, TARGET, Place, choices
from experiments.reasoning_tax.data import dress, training_rows
from experiments.reasoning_tax.gates import BUDGETS, Reading, fitted, gated, reading, under_gate
from experiments.reasoning_tax.setting import TOLD, Setting, by_item
from steerkit.core.prompts import Renderer
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.pairs import ContrastPairs, labelled_prompts
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.scoring.abstention import abstains
from steerkit.scoring.score import score_completion
from steerkit.suites.suite import Suite, load_suite
from steerkit.sweeps.runner import make_record
from tests.experiments.sums import ITEMS, PLAIN, abstentions
from tests.tiny import byte_tokenizer, random_vector, tiny_hf

CHAIN = "So 1 + 1 = 2.\n</think>"
TOKENS = 12


@pytest.fixture(scope="module")
def thinker() -> LanguageModel:
    """A tiny model whose turn opens a thinking block, markers written out in bytes as the bundled model's are."""
    tokenizer = byte_tokenizer(markers=False)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    hf = tiny_hf()
    hf.config.max_position_embeddings = 4096  # texts are bytes to it
    return LanguageModel(hf, tokenizer, "thinker")


def completed(lm: LanguageModel, cell: Cell, chain: str, tokens: int = TOKENS) -> dict[str, Record]:
    """Whole completions that begin with a chain, made the ordinary way: the chain is forced, the rest decoded."""
    forced = sk.PromptEdit(begin=chain)
    given = len(lm.renderer.encode(chain))
    requests = [
        Request(item.prompt, (forced, *cell.interventions), Decoding(given + tokens), key=item)
        for item in ITEMS[:6]
    ]
    found = {}
    for completion in TransformersEngine(lm).generate(requests):
        item = completion.request.key
        found[item.id] = make_record(cell, item, 0, completion, score_completion(item, completion))
    return found


def reply(record: Record) -> str:
    return record.completion.partition("</think>")[2].strip()


def test_an_answer_steered_behind_its_chain_is_the_one_that_scope_answer_gives(
    thinker: LanguageModel, tmp_path: Path
) -> None:
    vector = random_vector(thinker, size=0.5)
    cells = [Cell((vector.at(layer, 1.0, scope="answer"),)) for layer in (0, 2)]
    plain = completed(thinker, PLAIN, CHAIN)
    setting = Setting(tmp_path, tmp_path, dtype="float32", tokens=TOKENS)
    suite = Suite("sums", ITEMS[:6])
    for split in ("fit", "choose", "report"):
        items = [item for item in suite if plain[item.id].split == split]
        if not items:
            continue
        some = Suite("sums", tuple(items))
        own = {item.id: plain[item.id] for item in items}
        found, agreeing = answered(setting, thinker, cells, some, own, (), split, tmp_path / split)
        assert agreeing == 1.0
        for cell in cells:
            whole = completed(thinker, cell, CHAIN)
            for item in items:
                got, expected = found[cell.id][item.id], whole[item.id]
                assert reply(got) == reply(expected)
                assert got.cell == expected.cell == cell.id
                for score in (
                    "tokens",
                    "thinking_tokens",
                    "abstained",
                    "correct",
                    "truncated",
                ):
                    assert got.scores[score] == expected.scores[score], score
    assert any(reply(whole[item]) != reply(plain[item]) for item in plain)  # it does steer


def test_the_told_model_is_asked_as_it_was_told(thinker: LanguageModel) -> None:
    told = (sk.PromptEdit(system="Be frank.", instruction="Or say so."),)
    plain = completed(thinker, PLAIN, CHAIN)
    suite = after_chains.with_chains(thinker, Suite("sums", ITEMS[:1]), plain, told)
    asked = thinker.renderer.render(f"{ITEMS[0].prompt}\n\nOr say so.", "Be frank.")
    assert suite.items[0].prompt == asked + CHAIN
    assert after_chains.passing_through(thinker).renderer.render(asked) == asked


def test_what_has_no_answer_to_steer_is_asked_nothing(thinker: LanguageModel) -> None:
    plain = completed(thinker, PLAIN, CHAIN)
    plain[ITEMS[1].id] = replace(plain[ITEMS[1].id], completion="Let me see, 1 and 1")
    suite = after_chains.with_chains(thinker, Suite("sums", ITEMS[:2]), plain, ())
    assert [item.prompt.endswith(CHAIN) for item in suite] == [True, False]
    assert suite.items[1].prompt == "</think>"
    assert [item.id for item in suite] == [item.id for item in ITEMS[:2]]


def test_a_chain_that_never_closed_leaves_no_answer_to_steer() -> None:
    cell = Cell((bias_on_answers(4.0),))
    open_chain = replace(abstentions((), ())[0], completion="Let me see, 0 and 1")
    other = replace(open_chain, completion="I don't know.")
    found = joined(open_chain, other, cell)
    assert found.completion == open_chain.completion
    assert found.scores == open_chain.scores
    assert found.cell == cell.id


def test_an_answer_may_be_longer_than_the_part_of_it_that_is_decoded_again() -> None:
    some = abstentions((), ())[0]

    def said(a: str, b: str) -> dict[str, Record]:
        return {"a": replace(some, completion=a), "b": replace(some, completion=b)}

    plain = said("x </think> It is seven and no more.", "x </think> No.")
    again = said("It is seven", "Yes.")
    assert after_chains.agreement(plain, again) == 0.5


def test_a_gate_applied_afterwards_records_what_the_engines_own_gate_does(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    fit, choose = (load_suite("abstention").split(split).limit(24) for split in ("fit", "choose"))
    probe = fitted(tiny, tmp_path / "probe.safetensors", labelled_prompts(fit))
    found = reading(tiny, probe, choose, choose)
    acting = Cell((random_vector(tiny, name="v").at(1, 1.0),))
    cells = [under_gate(acting, gate) for gate in found.gates]
    asking = sk.Measurement("abstention", "choose", 24, Decoding(8))
    run = sk.sweep(tiny, [PLAIN, acting, *cells], asking, out=tmp_path / "run")
    records: dict[str, dict[str, Record]] = {}
    for record in run.records():
        records.setdefault(record.cell, {})[record.item] = record
    steered = 0
    for cell, gate in zip(cells, found.gates, strict=True):
        expected = records[cell.id]
        composed = by_item(gated(cell, records[acting.id], records[PLAIN.id], found, gate))
        assert composed.keys() == expected.keys()
        for item, record in composed.items():
            assert replace(record, scores={}, gates=()) == replace(expected[item], scores={}, gates=())
            steered += found.fires(gate, item)
    assert 0 < steered < len(cells) * 24


def test_a_threshold_keeps_to_its_budget_on_the_split_that_chooses(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    fit, choose, report = (load_suite("abstention").split(s).limit(40) for s in ("fit", "choose", "report"))
    probe = fitted(tiny, tmp_path / "probe.safetensors", labelled_prompts(fit))
    found = reading(tiny, probe, choose, report)
    assert found.probability.keys() == {item.id for item in (*choose, *report)}
    answerable = [item.id for item in choose if not item.should_abstain]
    for gate, budget in zip(found.gates, BUDGETS, strict=True):
        assert sum(found.fires(gate, item) for item in answerable) <= budget * len(answerable) + 1e-9


def a_way(tiny: LanguageModel, name: str, strength: float) -> Way:
    cell = Cell((random_vector(tiny, name=name).at(1, strength, scope="answer"),))
    return Way(cell, cell)


def test_the_target_bounds_over_abstention_by_the_bases_and_accuracy_by_the_long_models(
    tiny: LanguageModel,
) -> None:
    base, long = abstentions((0,), range(10)), abstentions((), range(2))  # the base's over-abstention is 0.05
    bold, careful, careless = (a_way(tiny, "v", strength) for strength in (3.0, 2.0, 1.0))
    written = {
        bold.cell.id: abstentions((0, 1, 2), range(20), bold.cell),  # over-abstention 0.15
        careful.cell.id: abstentions((), range(12), careful.cell),
        careless.cell.id: abstentions((), range(15), careless.cell, right=range(19)),
    }
    place = Place("selfaware", "told", {}, {"choose": by_item(iter(base))}, {"choose": by_item(iter(long))})
    found = {cell: by_item(iter(records)) for cell, records in written.items()}
    picked = choices([bold, careful, careless], found, place)
    assert picked[TARGET, BEST] is picked[TARGET, careful.family] is careful
    assert picked[ANY_PRICE, careful.family] is bold


def test_where_nothing_meets_the_bounds_nothing_is_picked(tiny: LanguageModel) -> None:
    long, way = by_item(iter(abstentions((), ()))), a_way(tiny, "v", 1.0)
    place = Place("selfaware", "told", {}, {"choose": long}, {"choose": long})
    picked = choices([way], {way.cell.id: by_item(iter(abstentions(range(9), range(20), way.cell)))}, place)
    assert picked[TARGET, BEST] is None
    assert picked[ANY_PRICE, way.family] is way


def test_ways_differ_in_what_they_do_and_compete_within_their_family(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    fit = load_suite("abstention").split("fit").limit(24)
    probe = fitted(tiny, tmp_path / "ours.safetensors", labelled_prompts(fit))
    gates = [sk.ProbeGate(probe, 1, threshold) for threshold in (0.3, 0.6)]
    vectors = {
        name: random_vector(tiny, seed, name=name)
        for seed, name in enumerate(("own", "own-answer", "base", "learned-answer", "learned-closed"))
    }
    layers = 4  # too few for the study's layers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.reasoning_tax.actuators.ANSWER_LAYERS", (1, layers - 1))
        patch.setattr("experiments.reasoning_tax.actuators.COMPLETION_LAYERS", (2,))
        patch.setattr("experiments.reasoning_tax.learned.LAYERS", (1, layers - 1))
        cells = [*on_answers(vectors), *on_closed_thinking(vectors), *on_completions(vectors)]
    ways = [way for cell in cells for way in ways_of(cell, [Reading(gates, {})])]
    assert len({way.cell.id for way in ways}) == len(ways) == 3 * len(cells)
    assert {way.family for way in ways} == {
        f"{actuator}, {gate}"
        for actuator in (
            "own on the answer", "own-answer on the answer", "base on the answer", "bias on the answer",
            "learned-answer on the answer", "own on the completion", "base on the completion",
            "thinking closed", "learned-closed with the thinking closed", "forced reply",
        )
        for gate in ("ungated", "gate of ours")
    }  # fmt: skip


def test_a_control_keeps_the_norm_the_place_and_the_gate(tiny: LanguageModel, tmp_path: Path) -> None:
    fit = load_suite("abstention").split("fit").limit(24)
    gate = sk.ProbeGate(fitted(tiny, tmp_path / "ours.safetensors", labelled_prompts(fit)), 1, 0.5)
    way = list(ways_of(a_way(tiny, "v", 1.5).cell, [Reading([gate], {})]))[1]
    control = at_random(way)
    (own,), (random,) = way.cell.interventions, control.cell.interventions
    assert random.vector.direction.norm(dim=1).tolist() == pytest.approx(
        own.vector.direction.norm(dim=1).tolist()
    )
    assert (random.layers, random.strength, random.scope, random.gate) == (
        own.layers,
        own.strength,
        own.scope,
        gate,
    )
    assert control.cell.role == "random"
    assert control.acting.interventions[0].gate is None


def test_the_bias_waits_for_the_line_break_behind_the_marker() -> None:
    bias = bias_on_answers(8.0)
    assert bias.bias == 8.0
    assert all(opener.startswith("\n") for opener in bias.openers)


def test_a_chain_given_back_as_text_reads_as_the_tokens_that_were_written(smollm: LanguageModel) -> None:
    tokenizer = copy.deepcopy(smollm.tokenizer)
    dress(tokenizer)
    renderer, some = Renderer(tokenizer), abstentions((), ())[0]
    for row in training_rows("long", 50):
        written = renderer.encode(renderer.render(row.prompt) + row.completion)
        chain = chain_of(replace(some, completion=row.completion))
        given = renderer.encode(renderer.render(row.prompt) + chain)
        assert tuple(written[: len(given)]) == tuple(given)
        rest = renderer.decode(written[len(given) :])
        assert rest == row.completion.partition("</think>")[2].strip()


def test_a_condition_stands_before_closed_thinking(thinker: LanguageModel) -> None:
    vectors = {"learned-closed": random_vector(thinker)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.reasoning_tax.learned.LAYERS", (1,))
        closed, *_, forced = on_closed_thinking(vectors)
    for cell in (closed, forced):
        told = in_condition(cell, (TOLD,))
        assert told.interventions == (TOLD, *cell.interventions)
        assert acting_on(cell) == acting_on(told) == "closed thinking"
        assert in_condition(cell, ()).id == cell.id
    assert in_condition(Cell(), (TOLD,)).interventions == (TOLD,)


def test_vectors_are_learned_behind_what_the_model_writes(thinker: LanguageModel) -> None:
    seen: list[ContrastPairs] = []
    pairs = sk.load_pairs("abstention")
    some = ContrastPairs("some", pairs.pairs[:4])
    chains = [f"{CHAIN}\nIt is {i}." for i in range(3)] + ["It never ends"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "_learned", lambda lm, made, _: seen.append(made) or (lm, made))
        patch.setattr(learned, "_written", lambda *_: chains)
        for make in (learned.for_answers, learned.for_closed_thinking):
            make(thinker, some)
    behind, closed = (made.pairs for made in seen)
    assert [pair.id for pair in behind] == [pair.id for pair in some.pairs[:3]]
    renders = [thinker.renderer.render(pair.prompt) for pair in some.pairs]
    assert [pair.prompt for pair in behind] == [text + CHAIN for text in renders[:3]]
    assert [pair.negative for pair in behind] == [f"\nIt is {i}." for i in range(3)]
    assert [pair.prompt for pair in closed] == [f"{text}</think>" for text in renders]
    assert {pair.positive for pair in (*behind, *closed)} == {learned.REPLY}


def test_the_reply_of_the_learned_vectors_is_scored_as_an_abstention() -> None:
    assert abstains(learned.REPLY)
