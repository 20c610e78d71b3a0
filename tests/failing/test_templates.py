"""Chat templates that say no: one line with the remedy in every verb, or the instruction in the user turn, said aloud.

Cases C08 to C13 are failing inputs as they came; the others are further ones of their kinds.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import steerkit as sk
from steerkit.core.errors import MisuseError, ProtocolMismatchError
from steerkit.core.prompts import Message, Prompt
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.lint import lint
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, load_pairs
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel, load_model
from tests.command_line import Outcome, steerkit
from tests.scripted import (
    BAD_JINJA,
    BUILDERS,
    NO_SYSTEM,
    TEMPLATE,
    m_badjinja,
    m_nosys,
    next_to_nothing,
    save,
    scripted,
)
from tests.tiny import byte_tokenizer, tiny_hf

HERE = Path(__file__).parent / "pairs"
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% elif m.role == 'assistant' %}"
    "<assistant>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<go>{% endif %}"
)
IN_PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<go>{% endif %}"
)
SWITCHED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<quick>{% endif %}{{ effort or '' }}<go>"
    "{% endif %}"
)
ITEMS = "".join(
    json.dumps({"id": f"q{i}", "prompt": f"Question {i}?", "should_abstain": i % 2 == 0}) + "\n"
    for i in range(24)
)


def said(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def with_template(template: Any) -> LanguageModel:
    lm = scripted(["Paris", "."], TEMPLATE, also=("<quick>", "low"))
    lm.tokenizer.chat_template = template
    return LanguageModel(lm.hf, lm.tokenizer, "made")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scripted models as folders, each with a vector beside it, and a suite."""
    root = tmp_path_factory.mktemp("models")
    found = {name: save(BUILDERS[name](), root / name) for name in ("m_nosys", "m_badjinja")}
    found["m_switch"] = save(with_template(SWITCHED), root / "m_switch")
    for name, folder in list(found.items()):
        lm = load_model(folder)
        found[f"{name}.vector"] = root / f"{name}.safetensors"
        next_to_nothing(lm).save(found[f"{name}.vector"])
    reads = LanguageModel(tiny_hf(), byte_tokenizer(), "reads")  # the others' blocks do nothing
    reads.tokenizer.chat_template = NO_SYSTEM
    found["reads"] = save(reads, root / "reads")
    found["reads.vector"] = found["m_nosys.vector"]
    found["items"] = root / "items.jsonl"
    found["items"].write_text(ITEMS, encoding="utf-8")
    return found


def one_line(done: Outcome, *words: str, code: int = 2) -> None:
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith("error:")] == [
        done.err.splitlines()[-1]
    ]
    for word in words:
        assert word in done.err


def verbs(folders: dict[str, Path], name: str, out: Path, pairs: Path) -> dict[str, list[object]]:
    model, vector, items = folders[name], folders[f"{name}.vector"], folders["items"]
    on, few = ["--model", model], ["--suite", items, "--limit", 2, "--max-new-tokens", 2]
    at = ["--vector", vector, "--layers", 0]
    return {
        "generate": ["generate", "--model", model, "hi"],
        "extract": ["extract", *on, "--pairs", pairs, "--out", out / "x.safetensors"],
        "extract probe": ["extract", "--as", "probe", *on, "--pairs", items, "--out", out / "p.safetensors"],
        "pairs make": ["pairs", "make", "abstention", *on, *few, "--out", out / "m.jsonl"],
        "sweep": ["sweep", *on, *at, "--strengths", 1, *few, "--out", out / "run"],
        "calibrate": ["calibrate", *on, *at, "--target-kl", 0.1, *few],
        "chat": ["chat", *on],
    }


VERBS = ("generate", "extract", "extract probe", "pairs make", "sweep", "calibrate")


def test_c08_system_role_refused_goes_into_the_user_turn_in_generate(folders: dict[str, Path]) -> None:
    done = steerkit("generate", "--model", folders["m_nosys"], "--system", "Be brief", "hi")
    assert (done.code, done.out.strip()) == (0, "Paris.")
    assert "takes no system message: the system prompt goes into the first user turn" in done.err
    assert done.err.count("takes no system message") == 1


def test_c09_system_role_refused_in_extract(folders: dict[str, Path], tmp_path: Path) -> None:
    done = steerkit(*verbs(folders, "reads", tmp_path, HERE / "sys.jsonl")["extract"])
    assert "Traceback" not in done.err
    assert done.code == 0
    assert done.err.count("takes no system message") == 1


def test_c10_system_role_refused_in_lint(folders: dict[str, Path]) -> None:
    done = steerkit("pairs", "lint", HERE / "sys.jsonl", "--model", folders["m_nosys"])
    assert "Traceback" not in done.err
    assert sum("[unreadable]" in line for line in done.out.splitlines()) == 6
    assert "warning p0: the model's chat template takes no system message" in done.out
    assert not done.err  # it is a finding there


def test_c11_system_role_refused_in_making(folders: dict[str, Path], tmp_path: Path) -> None:
    done = steerkit(*verbs(folders, "m_nosys", tmp_path, HERE / "sys.jsonl")["pairs make"])
    one_line(done, "none of the 2 prompts gave a pair", code=1)  # the model says Paris whatever it is told
    assert "takes no system message" in done.err


@pytest.mark.parametrize("verb", VERBS)
def test_c12_syntax_error_is_one_line_that_names_the_template_in(
    verb: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    done = steerkit(*verbs(folders, "m_badjinja", tmp_path, HERE / "two.jsonl")[verb])
    one_line(
        done,
        "the chat template of",
        "m_badjinja",
        "has a syntax error in line 1",
        "mend its chat_template.jinja",
    )


def test_syntax_error_is_a_line_a_turn_in_chat(folders: dict[str, Path], tmp_path: Path) -> None:
    done = steerkit(
        *verbs(folders, "m_badjinja", tmp_path, HERE / "two.jsonl")["chat"], stdin="hi\nagain\n/quit\n"
    )
    assert done.code == 0
    assert done.err.count("has a syntax error in line 1") == 2
    assert "Traceback" not in done.err


def test_syntax_error_is_findings_in_lint(folders: dict[str, Path]) -> None:
    done = steerkit("pairs", "lint", HERE / "two.jsonl", "--model", folders["m_badjinja"])
    assert done.code == 1
    assert sum("[unreadable]" in line for line in done.out.splitlines()) == 4


def test_c13_content_in_parts_is_said_of_the_content(folders: dict[str, Path], tmp_path: Path) -> None:
    done = steerkit(*verbs(folders, "m_nosys", tmp_path, HERE / "content-parts.jsonl")["extract"])
    one_line(done, "line 1", "content must be a text", code=1)
    assert "role is one of" not in done.err


@pytest.mark.parametrize(
    "content", [None, 7, ["a"], {"type": "text", "text": "a"}, [{"type": "image"}], [], True], ids=repr
)
def test_content_that_is_no_text(content: object) -> None:
    with pytest.raises(MisuseError, match="content must be a text"):
        m_nosys().renderer.render(({"role": "user", "content": content},))  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["tool", "developer", "function", "model", "User", None, 3], ids=repr)
def test_roles_that_there_are_not(role: object) -> None:
    with pytest.raises(MisuseError, match="role is one of system, user, assistant"):
        m_nosys().renderer.render(({"role": role, "content": "x"},))  # type: ignore[arg-type]


TURNS: dict[str, Prompt] = {
    "two users in a row": (said("user", "a"), said("user", "b")),
    "assistant first": (said("assistant", "a"), said("user", "b")),
    "two replies in a row": (said("user", "a"), said("assistant", "b"), said("assistant", "c")),
}


@pytest.mark.parametrize("turns", TURNS)
def test_turns_refused_are_one_line_that_names_the_pair(turns: str) -> None:
    pairs = ContrastPairs("made", tuple(ContrastPair(f"p{i}", TURNS[turns], "a b", "c d") for i in range(2)))
    with pytest.raises(
        MisuseError, match=r"^p0 \(positive\): the chat template of .* refuses messages of the roles"
    ) as no:
        sk.extract(m_nosys(), pairs)
    assert "\n" not in str(no.value)
    assert "must alternate user/assistant" in str(no.value)
    assert {f.code for f in lint(pairs, lm=m_nosys()) if f.severity == "error"} == {"unreadable"}


TEMPLATES: dict[str, tuple[Any, str]] = {
    "syntax error": (BAD_JINJA, "has a syntax error in line 1"),
    "syntax error further down": (
        "{% for m in messages %}\n{{ m.content }}\n{% endif %}",
        "syntax error in line 3",
    ),
    "unknown filter": ("{{ messages[0].content | shout }}", "has a syntax error in line 1"),
    "undefined variable": (
        "{{ persona.name }}{{ messages[0].content }}",
        "pass --template-option persona=VALUE",
    ),
    "undefined function": ("{{ shout(messages[0].content) }}", "pass --template-option shout=VALUE"),
    "undefined attribute": ("{{ messages[0].speaker.name }}", "fails on messages of the roles user"),
    "a message too few": (
        "{{ messages[1].content + messages[0].content }}",
        "fails on messages of the roles user",
    ),
    "division by zero": ("{{ 1 / 0 }}", "division by zero"),
    "wrong type": ("{{ messages[0].content + 1 }}", "fails on messages of the roles user"),
    "unsafe": ("{{ ''.__class__.__mro__ }}", "fails on messages"),
    "another file": ("{% include 'other.jinja' %}", "the chat template of"),
    "refuses everything": ("{{ raise_exception('No.') }}", "refuses messages of the roles user (No.)"),
    "leaves the prompt out": ("Hello.<go>", "leaves the prompt out"),
    "writes nothing": ("{% if false %}x{% endif %}", "leaves the prompt out"),
    "a number": (7, "is no text but a int"),
    "a list": (["a", "b"], "is no text but a list"),
    "several without a default": ({"rag": TEMPLATE, "tool_use": TEMPLATE}, "none is named default"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_template_that_cannot_be_used_is_one_line(kind: str) -> None:
    template, words = TEMPLATES[kind]
    lm = with_template(template)
    with pytest.raises(MisuseError) as no:
        list(TransformersEngine(lm).generate([Request("hi", decoding=Decoding(2))]))
    assert words in str(no.value)
    assert "\n" not in str(no.value)
    with pytest.raises(MisuseError, match=r"^p0"):
        sk.extract(lm, load_pairs(HERE / "two.jsonl"))


USABLE = {
    "text": TEMPLATE,
    "default": {"default": TEMPLATE, "rag": "{{ x"},
    "one": {"only": TEMPLATE},
    "parts": IN_PARTS,
}


@pytest.mark.parametrize("form", USABLE)
def test_template_forms_that_can_be_used(form: str) -> None:
    lm = with_template(USABLE[form])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lm.renderer.render("hi", "Be brief.") == "<system>Be brief.<user>hi<go>"


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM], ids=["raises", "leaves it out"])
@pytest.mark.parametrize("way", ["system", "edit", "message"])
def test_instruction_goes_into_the_user_turn_and_is_said_once(template: str, way: str) -> None:
    lm = with_template(template)
    asked: dict[str, Request] = {
        "system": Request("hi", system="Be brief."),
        "edit": Request("hi", (PromptEdit(system="Be brief."),)),
        "message": Request((said("system", "Be brief."), said("user", "hi"))),
    }
    rendered: list[str] = []
    encode = lm.renderer.encode
    lm.renderer.encode = lambda text: rendered.append(text) or encode(text)  # type: ignore[method-assign,func-returns-value]
    with pytest.warns(UserWarning, match="takes no system message") as warned:
        list(TransformersEngine(lm).generate([asked[way]] * 2))
    list(TransformersEngine(lm).generate([asked[way]]))
    assert "<user>Be brief.\n\nhi<go>" in rendered
    assert len(warned) == 1
    assert not lm.renderer.takes_system


def test_instruction_without_a_user_turn_behind_it_is_one() -> None:
    lm = m_nosys()
    with pytest.warns(UserWarning, match="takes no system message"):
        alone = lm.renderer.render((said("system", "Say where."),))
    assert alone == "<user>Say where.<go>"
    asked = (said("system", "A"), said("system", "B"), said("user", "C"))
    assert lm.renderer.render(asked) == "<user>A\n\nB\n\nC<go>"


def test_where_the_system_prompt_goes_is_part_of_the_digest() -> None:
    digests = {with_template(t).renderer.digest for t in (TEMPLATE, NO_SYSTEM, DROPS_SYSTEM)}
    assert len(digests) == 3


def test_an_item_is_named_whose_prompt_the_template_refuses(tmp_path: Path) -> None:
    lm = with_template(
        "{% if 'Question 3' in messages[0].content %}{{ raise_exception('Not that.') }}{% endif %}" + TEMPLATE
    )
    items = tmp_path / "items.jsonl"
    items.write_text(ITEMS, encoding="utf-8")
    where = [sk.Measurement(suite=str(items), split=split) for split in ("fit", "choose", "report")]
    said_no = []
    for measurement in where:
        try:
            sk.sweep(lm, [], measurement, out=tmp_path / measurement.split)
        except MisuseError as error:
            said_no.append(str(error))
    assert len(said_no) == 1
    assert said_no[0].startswith("item q3: the chat template")


# Switches of the template.


@pytest.mark.parametrize(
    ("given", "rendered"),
    [
        ({}, "<user>hi<go>"),
        ({"enable_thinking": False}, "<user>hi<quick><go>"),
        ({"enable_thinking": True}, "<user>hi<go>"),
        ({"effort": "low"}, "<user>hilow<go>"),
        ({"effort": 3}, "<user>hi3<go>"),
    ],
)
def test_options_reach_the_template_and_its_digest(given: dict[str, Any], rendered: str) -> None:
    plain = with_template(SWITCHED)
    lm = sk.load_model(plain.hf, plain.tokenizer, template_options=given)
    assert lm.renderer.render("hi") == rendered
    assert (lm.renderer.digest == plain.renderer.digest) is (not given)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("False", False),
        ("TRUE", True),
        ("low", "low"),
        ("3", 3),
        ("0.5", 0.5),
        ('"7"', "7"),
        ("", ""),
    ],
)
def test_option_values_on_the_command_line(text: str, value: object) -> None:
    from steerkit.cli.options import template_options

    found = template_options([f"effort={text}"])["effort"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["enable_thinking"], "is not KEY=VALUE"),
        (["=false"], "is not KEY=VALUE"),
        (["effort=[1]"], "a boolean, a number or a text"),
        (["effort=null"], "a boolean, a number or a text"),
        (["effort=low", "effort=high"], "is given twice"),
        (["messages=x"], "'messages' is no option of a chat template"),
        (["add_generation_prompt=false"], "'add_generation_prompt' is no option of a chat template"),
        (["tokenize=true"], "'tokenize' is no option of a chat template"),
    ],
)
def test_option_that_cannot_be_meant_is_one_line(
    given: list[str], words: str, folders: dict[str, Path]
) -> None:
    options = [part for text in given for part in ("--template-option", text)]
    one_line(steerkit("generate", "--model", folders["m_switch"], *options, "hi"), words)


def test_option_that_the_template_does_not_read_is_said(folders: dict[str, Path]) -> None:
    done = steerkit(
        "generate", "--model", folders["m_switch"], "--template-option", "enable_thought=false", "hi"
    )
    assert done.code == 0
    assert "does not read enable_thought; it reads effort, enable_thinking" in done.err


def test_option_for_a_model_without_a_template_is_one_line() -> None:
    plain = scripted(["Paris"], "")
    with pytest.raises(MisuseError, match="has no chat template"):
        sk.load_model(plain.hf, plain.tokenizer, template_options={"enable_thinking": False})


def test_options_go_with_every_verb_that_renders(folders: dict[str, Path], tmp_path: Path) -> None:
    calls = verbs(folders, "m_switch", tmp_path, HERE / "sys.jsonl")
    calls["pairs lint"] = ["pairs", "lint", HERE / "sys.jsonl", "--model", folders["m_switch"]]
    for verb, call in calls.items():
        done = steerkit(*call, "--template-option", "unheard_of=1", stdin="/quit\n")
        assert "does not read unheard_of" in done.err, verb
        assert "Traceback" not in done.err, verb


def test_a_run_is_resumed_under_its_own_options_alone(tmp_path: Path) -> None:
    plain = with_template(SWITCHED)
    items = tmp_path / "items.jsonl"
    items.write_text(ITEMS, encoding="utf-8")
    measurement = sk.Measurement(suite=str(items), limit=2, decoding=Decoding(2))
    quick = sk.load_model(plain.hf, plain.tokenizer, template_options={"enable_thinking": False})
    run = sk.sweep(quick, [], measurement, out=tmp_path / "run")
    assert run.protocol.template_options == {"enable_thinking": False}
    sk.sweep(quick, [], measurement, out=tmp_path / "run")
    with pytest.raises(ProtocolMismatchError, match=r"template_options\.enable_thinking was False, now None"):
        sk.sweep(plain, [], measurement, out=tmp_path / "run")


def test_a_template_replaced_after_its_use_is_refused() -> None:
    lm = m_nosys()
    lm.renderer.render("hi")
    lm.tokenizer.chat_template = TEMPLATE
    with pytest.raises(MisuseError, match=r"was replaced .* load the model again"):
        lm.renderer.render("hi")
    assert sk.load_model(lm.hf, lm.tokenizer).renderer.render("hi") == "<user>hi<go>"


LOADERS: tuple[Callable[[], LanguageModel], ...] = (m_badjinja, m_nosys)


@pytest.mark.parametrize("load", LOADERS)
def test_a_model_loads_whatever_its_template(load: Callable[[], LanguageModel]) -> None:
    assert load().n_layers == 2
