"""The vectors and the adapter that travel with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.features.autoencoder import published_autoencoders
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import published_vectors
from steerkit.models import LanguageModel
from steerkit.models.adapters import published_adapters, read_adapter

NAME = "abstain-smollm2-135m-instruct"
REASONER = "smollm2-135m-reasoner"
SECOND_REASONER = "smollm2-135m-reasoner-2"
CARDS = Path(__file__).parent.parent / "vectors"


@pytest.mark.parametrize("name", sorted(published_vectors()))
def test_a_published_vector_has_its_name_and_a_card(name: str) -> None:
    vector = sk.load_vector(name)
    assert vector.name == name
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert vector.metadata.fingerprint in card
    assert f"[card]({name}.md)" in (CARDS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(published_vectors()))
def test_the_name_alone_means_what_the_card_measures(name: str) -> None:
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    specs = re.findall(rf"--steer ({name}\S*)", card)
    use = recommended_use(sk.load_vector(name))
    assert sk.parse_all(specs[:1]) == use
    for spec in specs:  # others are that without its gate
        assert [each.open for each in sk.parse_all([spec])] == [each.open for each in use]
    measured = re.search(rf"`({name}@\S+)`", card)  # where a card writes it out
    assert measured is None or sk.parse_all([measured[1]]) == use


def test_the_abstention_vector_acts_where_its_gate_opens(smollm: LanguageModel) -> None:
    sound, unknowable = "Who wrote Hamlet?", "Who will win the football World Cup in 2086?"
    steered = sk.parse(f"{NAME}@strength=1")  # with the gate of its recommended use
    assert isinstance(steered.gate, ProbeGate)
    requests = [
        sk.Request(prompt, steerings, sk.Decoding(16), key=(prompt, bool(steerings)))
        for prompt in (sound, unknowable)
        for steerings in ((), (steered,))
    ]
    done = {c.request.key: c for c in sk.TransformersEngine(smollm).generate(requests)}
    assert done[sound, True].token_ids == done[sound, False].token_ids
    (read,) = done[sound, True].gates
    assert not read.fired
    assert read.probability is not None
    assert read.probability < steered.gate.threshold
    forced = sk.Request(sound, (steered.open,), sk.Decoding(16))
    (acted,) = sk.TransformersEngine(smollm).generate([forced])
    assert acted.token_ids != done[sound, False].token_ids


@pytest.mark.models
def test_the_reasoner_thinks_checks_itself_and_answers_what_cannot_be_answered() -> None:
    folder = CARDS / "adapters" / REASONER
    assert (folder / "adapter_model.safetensors").stat().st_size < 12_000_000
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {REASONER}\n")
    lm = sk.load_model(REASONER)
    assert lm.name == REASONER
    by_id = {item.id: item for item in sk.load_suite("brevity")}
    sound, lacking = by_id["brevity-1-0005a"], by_id["brevity-1-0003u"]
    requests = [sk.Request(item.prompt, (), sk.Decoding(400), key=item.id) for item in (sound, lacking)]
    done = {c.request.key: c for c in sk.TransformersEngine(lm).generate(requests)}
    for completion in done.values():
        assert completion.finish == "stop"
        assert completion.text.count("</think>") == 1
        assert completion.thinking_tokens > 0.8 * completion.tokens
    assert sound.answers
    assert done[sound.id].text.endswith(f"The answer is {sound.answers[0]}.")
    assert done[lacking.id].text.split("</think>")[1].strip().startswith("The answer is")  # the tax


@pytest.mark.models
def test_the_second_reasoner_works_it_out_and_answers_at_once_where_its_thinking_is_closed() -> None:
    folder = CARDS / "adapters" / SECOND_REASONER
    assert (folder / "adapter_model.safetensors").stat().st_size < 12_000_000
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {SECOND_REASONER}\n")
    lm = sk.load_model(SECOND_REASONER)
    assert lm.name == SECOND_REASONER
    items = [item for item in sk.load_suite("brevity:2") if not item.should_abstain][:12]
    closed = (sk.ThinkingBudget(0),)
    requests = [
        sk.Request(item.prompt, acting, sk.Decoding(400), key=(item.id, bool(acting)))
        for item in items
        for acting in ((), closed)
    ]
    done = {c.request.key: c for c in sk.TransformersEngine(lm).generate(requests)}
    right = 0
    for item in items:
        thought, at_once = done[item.id, False], done[item.id, True]
        assert thought.finish == at_once.finish == "stop"
        assert thought.text.count("</think>") == 1
        assert thought.thinking_tokens > 60
        assert at_once.tokens < 20
        assert at_once.answer.startswith("The answer is")
        assert item.answers
        right += thought.answer == f"The answer is {item.answers[0]}."
    assert right >= len(items) / 2


@pytest.mark.parametrize("name", sorted(published_autoencoders()))
def test_a_published_autoencoder_is_whole_small_and_of_a_model_that_loads_by_name(name: str) -> None:
    folder = CARDS / "autoencoders" / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000_000
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {name}\n")
    assert f"[card](autoencoders/{name}/README.md)" in (CARDS / "README.md").read_text(encoding="utf-8")
    autoencoder = sk.load_autoencoder(name)
    assert (autoencoder.name, autoencoder.width) == (name, 576)
    assert autoencoder.trained_on in published_adapters()
    assert f"layer-{autoencoder.place.layer}" in name


@pytest.mark.models
def test_the_published_autoencoder_reconstructs_the_reasoners_states() -> None:
    autoencoder = sk.load_autoencoder("reasoner-2-layer-14")
    lm = sk.load_model(autoencoder.trained_on)
    prompt = next(item.prompt for item in sk.load_suite("brevity:2").split("report"))
    (done,) = sk.generate(lm, [prompt], decoding=sk.Decoding(96))
    ids = torch.tensor([[*lm.renderer.encode_prompt(prompt), *done.token_ids]])
    with torch.no_grad():
        states = lm.hf(ids, output_hidden_states=True).hidden_states[15][0, 1:]
    active = autoencoder.encode(states)
    assert 20 < float((active > 0).float().sum(dim=-1).mean()) < 50
    wrong = (autoencoder.decode(active) - states).square().sum()
    assert float(wrong / (states - states.mean(dim=0)).square().sum()) < 0.1


@pytest.mark.parametrize("name", sorted(published_adapters()))
def test_a_published_adapter_is_small_and_listed_and_says_what_it_belongs_to(name: str) -> None:
    folder = published_adapters()[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_500_000
    adapter = read_adapter(folder)
    assert adapter.note is not None
    assert (adapter.name, adapter.base) == (name, "smollm2-135m-instruct")
    assert f"`{name}`" in (CARDS / "README.md").read_text(encoding="utf-8")
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {name}\n")


def test_what_is_superseded_says_so_and_is_there() -> None:
    for card in (f"adapters/{REASONER}/README.md", f"brief-{REASONER}.md"):
        text = (CARDS / card).read_text(encoding="utf-8")
        assert "**Superseded**" in text
        assert f"`{SECOND_REASONER}`" in text
    assert sk.load_vector(f"brief-{REASONER}").name == f"brief-{REASONER}"
    note = read_adapter(published_adapters()[REASONER]).note
    assert note is not None
    assert note.summary.startswith(f"superseded by {SECOND_REASONER}")
