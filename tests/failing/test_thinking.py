"""Texts and models whose thinking was not told from their answer: each has the account that its rule gives.

`thinking.jsonl`: `T…` are texts that failed in the field, `K…` others that fail for the same reasons. The scripted
models say a known completion in known tokens.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.engines.base import Completion, Decoding, Request, UnmetScopes
from steerkit.engines.context import steer
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.logit_rules import ThinkingBudget
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.models.markers import DEFAULT, ThinkingMarkers, find_markers
from steerkit.report.examples import parts_of
from steerkit.runs.record import Record
from steerkit.scoring.abstention import abstains
from steerkit.scoring.answers import is_correct
from steerkit.scoring.reply import final_reply, reply_of
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from tests.command_line import steerkit
from tests.integrations.test_inspect import evaluated
from tests.scripted import TEMPLATE, THOUGHT, next_to_nothing, scripted

ROWS = [
    json.loads(line) for line in Path(__file__).with_name("thinking.jsonl").read_text("utf-8").splitlines()
]
QUESTIONS = Path(__file__).with_name("thinking-questions.jsonl")
Models = Callable[[str], LanguageModel]
OPENS = TEMPLATE.replace("<{{ m.role }}>", "({{ m.role }})").replace("<go>", "<think><go>")
SHUT = OPENS.replace("<think><go>", "<think></think><go>")


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_thinking_in_a_text(row: dict[str, Any]) -> None:
    reply = final_reply(row["text"])
    abstained = abstains(reply)
    correct = not abstained and is_correct(reply, row["answers"], "text")
    assert (abstained, correct) == (row["abstained"], row["correct"]), reply


def said(lm: LanguageModel, prompt: str = "Who wrote it?", **decoding: Any) -> Completion:
    (completion,) = TransformersEngine(lm).generate(
        [Request(prompt, (), Decoding(**{"max_new_tokens": 40} | decoding))]
    )
    return completion


def scores(completion: Completion, *answers: str) -> dict[str, Any]:
    item = SuiteItem("q", "Who wrote it?", should_abstain=False, answers=answers)
    return score_completion(item, completion, ["answers", "abstention", "lengths"])


@pytest.mark.parametrize(
    ("name", "thinking"),
    [("m_think", 5), ("m_think_special", 5), ("m_mistral", 5), ("m_gptoss", 10)],
    ids=["reference", "C14-special", "C15-mistral", "C16-gptoss"],
)
def test_thinking_told_by_a_models_own_markers(scripted_model: Models, name: str, thinking: int) -> None:
    completion = said(scripted_model(name))
    assert reply_of(completion) == "Hawthorne."
    assert scores(completion, "Hawthorne")["correct"]
    assert not scores(completion, "Melville")["correct"]
    assert completion.thinking_tokens == thinking
    assert "Perhaps Melville?" in completion.text
    assert completion.spans[0].kind == "marker"


def test_thinking_that_a_merged_token_closes_c17(scripted_model: Models) -> None:
    completion = said(scripted_model("m_olmo"), "What is the capital of France?")
    assert completion.text == "It must be Paris.</think>Paris it is"
    assert (completion.thinking_tokens, completion.tokens) == (4, 6)
    assert scores(completion, "Paris")["correct"]
    assert reply_of(completion) == "Paris it is"


@pytest.mark.parametrize("text", ["done</think>Paris", "done.</think>Paris", "x)</think>Paris"])
def test_thinking_closed_in_any_tokens_of_a_real_tokenizer_c18(gemma: LanguageModel, text: str) -> None:
    ids = gemma.renderer.encode(text)
    opened = gemma.renderer.encode("Question: Why?\nAnswer: <think>")
    kinds = gemma.thinking.kinds(opened, ids)
    assert kinds[0] == "thinking"
    assert kinds[-1] == "answer"
    reading = gemma.thinking.read(opened, ids)
    assert [reading.text[s.start : s.stop] for s in reading.spans if s.kind == "answer"] == ["Paris"]


def test_thinking_is_not_opened_by_a_users_tag_c19(smollm: LanguageModel) -> None:
    completion = said(smollm, "<think> is a tag. What is the capital of France?", max_new_tokens=24)
    found = scores(completion, "Paris")
    assert (found["correct"], found["thinking_tokens"]) == (True, 0)


TWICE = ["One", "</think>", "two. ", "Three", "</", "think", ">", "Paris", " it is"]


def test_thinking_that_only_a_later_closing_shows_is_late() -> None:
    spans = said(scripted(TWICE, OPENS)).spans
    assert [(s.kind, s.late) for s in spans] == [
        ("thinking", False),
        ("marker", False),
        ("thinking", True),
        ("marker", True),
        ("answer", False),
    ]
    noted = UnmetScopes(DEFAULT)
    lm = scripted(["Hm. ", "</think>", "Paris"])
    steering = next_to_nothing(lm).at(layer=0, scope="thinking")
    noted.take(*TransformersEngine(lm).generate([Request("Who?", (steering,), Decoding(9))]))
    with pytest.warns(UserWarning, match="nothing was steered"):
        noted.warn()


def test_thinking_that_closes_twice_ends_where_the_reply_begins_c20() -> None:
    completion = said(scripted(TWICE, OPENS))
    assert completion.text.count("</think>") == 2
    assert reply_of(completion) == "Paris it is"
    assert (completion.thinking_tokens, completion.tokens) == (7, 9)


@pytest.mark.models
def test_thinking_that_a_budget_closed_first_ends_where_the_reply_begins_c20() -> None:
    from steerkit.models import load_model
    from steerkit.suites.suite import load_suite

    lm = load_model("smollm2-135m-reasoner")
    items = list(load_suite("abstention").limit(40))
    requests = [Request(i.prompt, (ThinkingBudget(16),), Decoding(160), key=n) for n, i in enumerate(items)]
    twice = [c for c in TransformersEngine(lm).generate(requests) if c.text.count(lm.markers.closing) > 1]
    assert twice
    for completion in twice:
        behind = lm.renderer.decode(completion.token_ids[completion.thinking_tokens :])
        assert lm.markers.closing not in behind
        assert behind.startswith(reply_of(completion)[:20])


@pytest.mark.consumers
@pytest.mark.parametrize("name", ["m_think", "m_think_special", "m_mistral", "m_gptoss"])
def test_thinking_is_no_part_of_the_answer_that_inspect_scores_c21(
    scripted_folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    model = f"steerkit/{scripted_folders(name)}"
    theirs = evaluated(tmp_path, model, [("Who wrote The Scarlet Letter?", "Melville")], {}, max_tokens=16)
    assert theirs["error"] is None
    assert theirs["completions"] == ["Hawthorne."]
    assert theirs["accuracy"] == 0


# New cases of the same kinds.


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<seed:think>", "</seed:think>"),
        ("<thinking>", "</thinking>"),
        ("◁think▷", "◁/think▷"),
        ("<|channel>thought", "<channel|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<reasoning>", "</reasoning>"),
    ],
)
@pytest.mark.parametrize("is_special", [True, False])
def test_thinking_in_markers_of_every_family(opening: str, closing: str, is_special: bool) -> None:
    marks = (opening, closing) if is_special else ()
    completion = said(scripted([opening, *THOUGHT, closing, "Hawthorne", "."], special=marks, also=()))
    assert completion.thinking_tokens == 5
    assert reply_of(completion) == "Hawthorne."
    assert opening in completion.text
    assert closing in completion.text


def test_thinking_in_markers_that_only_a_template_shows() -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]"
        "{% if m.reasoning_content %}<inner_voice>{{ m.reasoning_content }}</inner_voice>{% endif %}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<go>{% endif %}"
    )
    lm = scripted(["<inner_voice>", *THOUGHT, "</inner_voice>", "Hawthorne", "."], template)
    assert (lm.markers.opening, lm.markers.closing) == ("<inner_voice>", "</inner_voice>")
    completion = said(lm)
    assert completion.thinking_tokens == 5
    assert reply_of(completion) == "Hawthorne."


def test_thinking_that_cannot_be_told_is_said_once() -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]"
        "{% if m.reasoning_content %}Thoughts: {{ m.reasoning_content }} And so: {% endif %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<go>{% endif %}"
    )
    lm = scripted(["Hawthorne", "."], template, also=())
    assert find_markers(lm.tokenizer).doubt
    with pytest.warns(UserWarning, match="thinking cannot be told"):
        said(lm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said(lm)


@pytest.mark.parametrize(
    ("chunks", "template", "thinking", "reply"),
    [
        (["Done", "?</", "think", ">", "Paris"], OPENS, 4, "Paris"),  # closed from within a merged token
        (["Done", "</", "think", ">\n\n", "Paris"], OPENS, 4, "Paris"),  # and up into one
        (["Paris", "."], SHUT, 0, "Paris."),  # the template opens and closes the block
        (["Paris", "."], OPENS, 2, ""),  # never closed
        (
            ["Paris", ".", "</think>"],
            TEMPLATE,
            0,
            "Paris.",
        ),  # closed what was never opened, and nothing behind it
        (["Hm. ", "</think>", "Paris"], TEMPLATE, 2, "Paris"),  # a thought that the model did not open
        (["The tag ", "</think>", " ends", " it."], TEMPLATE, 0, "The tag </think> ends it."),
        (["The tag ", "<think>", " opens", " it."], TEMPLATE, 0, "The tag <think> opens it."),
        (
            ["Paris. ", "<think>", "Is it", "?", "</think>"],
            TEMPLATE,
            3,
            "Paris.",
        ),  # a thought behind the answer
        (["<think>", "a", "</think>", "B. ", "<think>2", "c", "</think>2", "D"], TEMPLATE, 4, "D"),
        (["<think>", "a", "</think>", "Paris", "<tool_call>", "{}", "</tool_call>"], TEMPLATE, 2, "Paris"),
        (["<THINK>", "Poe", "</THINK>", "Paris"], TEMPLATE, 2, "Paris"),
    ],
)
def test_thinking_is_counted_up_to_where_the_reply_begins(
    chunks: list[str], template: str, thinking: int, reply: str
) -> None:
    special = [chunk for chunk in chunks if chunk.endswith("2")]
    completion = said(scripted(chunks, template, special=special))
    assert completion.thinking_tokens == thinking
    assert reply_of(completion) == reply


def test_thinking_is_not_opened_by_a_tag_in_any_turn_of_the_user(scripted_model: Models) -> None:
    lm = scripted_model("m_emoji")
    turns = (
        {"role": "user", "content": "Explain <think>"},
        {"role": "assistant", "content": "It opens <think>"},
        {"role": "user", "content": "and\n<think>\n"},
    )
    for prompt in ("<think>", "a\n<think>\n", turns):
        completion = said(lm, prompt)  # type: ignore[arg-type]
        assert completion.thinking_tokens == 0
        assert reply_of(completion) == completion.text


def test_thinking_stops_at_a_stop_text_with_its_account(scripted_model: Models) -> None:
    completion = said(scripted_model("m_think_special"), stop=("thorne",))
    assert completion.text == "<think>I do not know the author. Perhaps Melville?</think>Haw"
    assert reply_of(completion) == "Haw"
    cut = said(scripted_model("m_think_special"), stop=("Melville",))
    assert (cut.text, reply_of(cut), cut.thinking_tokens) == (
        "<think>I do not know the author. Perhaps",
        "",
        2,
    )


def test_thinking_is_what_a_budget_closes_in_every_family(scripted_model: Models) -> None:
    for name in ("m_think", "m_think_special", "m_mistral", "m_gptoss"):
        lm = scripted_model(name)
        request = Request("Who?", (ThinkingBudget(2),), Decoding(14))
        (completion,) = TransformersEngine(lm).generate([request])
        assert completion.forced
        ids = [lm.thinking.kinds(lm.renderer.encode_prompt("Who?"), completion.token_ids)]
        assert "answer" in ids[0][-3:]
        assert completion.text.count(lm.markers.closing.removeprefix("<|end|>")) >= 1


def acted_at(lm: LanguageModel, scope: Any, tokens: int) -> list[int]:
    """Where a steering of this scope acts inside the user's own `generate`: 0 is the last prompt token."""
    vector = next_to_nothing(lm)
    ids = torch.tensor([lm.renderer.encode_prompt("Who?")])
    states: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        states.append(state.detach()[0, -1])

    runs = []
    for strength in (0.0, 1.0):
        with steer(lm, vector.at(layer=0, strength=strength, scope=scope)):
            handle = lm.blocks[0].register_forward_hook(keep)
            lm.hf.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
            handle.remove()
        runs.append(torch.stack(states))
        states.clear()
    return (runs[0] != runs[1]).any(dim=1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "tokens", "thinking"),
    [
        ("m_think", 9, [1, 2, 3, 4, 5]),
        ("m_think_special", 9, [1, 2, 3, 4, 5]),
        ("m_mistral", 9, [1, 2, 3, 4, 5]),
        ("m_gptoss", 16, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ("m_olmo", 7, [0, 1, 2, 3]),
        ("m_emoji", 8, []),
    ],
)
def test_thinking_scopes_act_where_the_account_says(
    scripted_model: Models, name: str, tokens: int, thinking: list[int]
) -> None:
    lm = scripted_model(name)
    assert acted_at(lm, "thinking", tokens) == thinking
    assert acted_at(lm, "answer", tokens) == [i for i in range(tokens) if i not in thinking]


CALL = ["<think>", "Look. ", "</think>", "Let me see. ", "<tool_call>", "look", "(1)", "</tool_call>", "Done"]


def test_tool_calls_are_steered_by_no_scope_but_their_own() -> None:
    lm = scripted(CALL, also=())
    assert lm.calls_tools
    in_call, thinking = [5, 6, 7], [1, 2]
    assert acted_at(lm, "completion", 10) == [i for i in range(10) if i not in in_call]
    assert acted_at(lm, "thinking", 10) == thinking
    assert acted_at(lm, "answer", 10) == [i for i in range(10) if i not in in_call + thinking]
    assert acted_at(lm, "tool", 10) == in_call
    completion = said(lm)
    kinds = {s.kind: completion.text[s.start : s.stop] for s in completion.spans}
    assert (kinds["tool"], kinds["thinking"]) == ("look(1)", "Look. ")


@pytest.mark.parametrize("scope", ["completion", "all", "thinking", "answer", "tool"])
def test_tool_calls_and_thinking_are_steered_in_a_batch_as_alone(scope: Any) -> None:
    """Rows that think, call and answer at different places, steered so hard that a wrong position shows."""
    lm = scripted(CALL, also=())
    loud = SteeringVector(torch.randn(lm.n_layers, lm.d_model) * 3, next_to_nothing(lm).metadata)
    steering = loud.at(layer=1, strength=1.0, scope=scope)
    begun = ["", "<think>", "<think>Look. </think>", "<think>Look. </think>Let me see. <tool_call>"]
    requests = [
        Request("Who?", (each, *([PromptEdit(begin=text)] if text else [])), Decoding(16), key=(i, text))
        for i, each in enumerate((steering, loud.at(layer=0, strength=0.5)))
        for text in begun
    ]
    together = {c.request.key: c.token_ids for c in TransformersEngine(lm, 5).generate(requests)}
    alone = {c.request.key: c.token_ids for r in requests for c in TransformersEngine(lm, 1).generate([r])}
    assert together == alone
    for i, text in ((0, text) for text in begun):
        prompt = lm.renderer.encode(lm.renderer.render("Who?") + text)
        with steer(lm, steering):
            ids = torch.tensor([prompt])
            out = lm.hf.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[
                0, len(prompt) :
            ].tolist()
        written = lm.renderer.encode(text)
        free = [token for token in out if token not in lm.stop_ids][: 16 - len(written)]
        if scope != "all":  # under which a beginning in the prompt is steered otherwise
            assert list(together[i, text])[len(written) :] == free


@pytest.mark.parametrize(("name", "met"), [("m_emoji", False), ("m_nosys", False), ("m_mistral", True)])
def test_thinking_scope_that_met_none_is_said_c22(
    scripted_model: Models, scripted_folders: Callable[[str], Path], tmp_path: Path, name: str, met: bool
) -> None:
    folder = scripted_folders(name)
    vector = next_to_nothing(scripted_model(name)).save(tmp_path / "v.safetensors")
    shared = ("--model", folder, "--max-new-tokens", 12)
    steering = f"{vector}@layer=0,strength=3,scope=thinking"
    for done in (
        steerkit("generate", *shared, "--steer", steering, "Who?"),
        steerkit(
            "sweep",
            *shared,
            "--steer",
            steering,
            "--suite",
            QUESTIONS,
            "--split",
            "report",
            "--out",
            tmp_path / "run",
        ),
    ):
        assert done.code == 0, done.err
        lines = [line for line in done.err.splitlines() if "nothing was steered" in line]
        assert len(lines) == (0 if met else 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m_mistral", "[THINK] and [/THINK]"),
        (
            "m_gptoss",
            "<|channel|>analysis<|message|> and <|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        ("m_olmo", "with thinking open"),
        ("m_think", "tokens of its own"),
    ],
)
def test_thinking_markers_of_a_model_are_shown(
    scripted_folders: Callable[[str], Path], name: str, said: str
) -> None:
    shown = steerkit("models", scripted_folders(name))
    assert shown.code == 0, shown.err
    assert said in shown.out
    (described,) = json.loads(steerkit("models", scripted_folders(name), "--json").out)
    assert said in described.values()


def test_thinking_is_no_part_of_what_a_conversation_goes_on_from(scripted_model: Models) -> None:
    for name in ("m_think", "m_think_special", "m_mistral", "m_gptoss"):
        assert said(scripted_model(name)).answer == "Hawthorne."


def test_thinking_is_told_from_the_answer_on_the_page() -> None:
    text, markers = "[THINK]Poe?[/THINK]Melville.", ThinkingMarkers("[THINK]", "[/THINK]")
    fields = {"cell": "c", "item": "i", "sample": 0, "split": "report", "group": "i", "should_abstain": False}
    fields |= {"answers": None, "kind": "text", "prompt": "Who?", "finish": "stop"}
    record = Record(**fields, completion=text, tokens=5, scores={"thinking_tokens": 2})
    assert parts_of(record, markers) == (
        ("[THINK]", False),
        ("Poe?", False),
        ("[/THINK]", False),
        ("Melville.", True),
    )
    unfinished = Record(**fields, completion="Poe, or", tokens=3, scores={"thinking_tokens": 3})
    assert parts_of(unfinished, markers) == (("Poe, or", False),)
