"""What an autoencoder's features tell of a reasoner, and what steering by them does beside other directions.

    python -m experiments.features.run --data FOLDER [--sae NAME] [--threads 2] [--out FOLDER] [--limit N]

FOLDER of `--data` holds `selfaware/`. Two rankings: by how a feature separates abstaining from answering (in prompts
that should be abstained from, and in the two sides of the built-in pairs), and by ReasonScore on what the model writes.
The first features of each are steered by, at the strength of an equal KL, beside the mean difference of the built-in
pairs, random features and a random direction. Resumable; results.md is written at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import steerkit as sk
from experiments.features.collect import MODEL
from experiments.reasoning_tax.results import compared, table
from experiments.reasoning_tax.setting import TOLD, Setting, kept, records_of
from steerkit.core.files import replacing
from steerkit.extraction.pairs import labelled_prompts
from steerkit.features.rank import Reasoning, Separating
from steerkit.runs.cells import Cell
from steerkit.suites.suite import Suite

HERE = Path(__file__).parent
SAE = "reasoner-2-layer-14"
KLS, KL_PROMPTS = (0.1, 0.5), 12
LARGEST = 400.0  # a decoder row is of length one, and states are much longer
FIRST, RANDOM = 2, 2  # features that are steered by
SHOWN = 8
PROMPTS, WRITTEN, WRITTEN_TOKENS = 300, 48, 256
ABSTAINING, BRIEF = 100, 80  # items of `report`
TOKENS = 256
METRICS = ("abstention_recall", "over_abstention", "accuracy", "thinking_tokens", "degenerate")


@dataclass(frozen=True)
class Study:
    """The model, its autoencoder and where things are kept; a `limit` makes a trial of it."""

    lm: sk.LanguageModel
    sae: sk.Autoencoder
    data: Path
    out: Path
    limit: int | None

    def size(self, count: int) -> int:
        """So many, or fewer in a trial."""
        return min(count, self.limit or count)

    def items(self, reference: str, split: str, count: int) -> Suite:
        """Items of a suite's split."""
        return sk.load_suite(reference.format(data=self.data)).split(split).limit(self.size(count))


SELFAWARE = "selfaware:{data}/selfaware/SelfAware.json"
PROBLEMS = "brevity:2"


def main() -> None:
    """Rank, steer, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sae", default=SAE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="at most so many items: a trial, kept apart")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    out = asked.out / "trial" if asked.limit else asked.out
    lm = sk.load_model(MODEL, dtype="bfloat16")
    study = Study(lm, sk.load_autoencoder(asked.sae), asked.data, out, asked.limit)
    page = out / "results.md" if asked.limit else HERE / "results.md"
    with replacing(page, "the results") as scratch:
        scratch.write_text("\n\n".join(sections(study)) + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


def sections(study: Study) -> Iterator[str]:
    """The page's parts, each measured when it is asked for."""
    pairs = sk.load_pairs("abstention")
    prompts = labelled_prompts(study.items(SELFAWARE, "fit", PROMPTS))
    in_prompts = sk.rank_by_separation(study.sae, study.lm, prompts)
    in_pairs = sk.rank_by_separation(study.sae, study.lm, pairs)
    written = sk.generate(
        study.lm,
        [item.prompt for item in study.items("brevity", "fit", WRITTEN)],
        decoding=sk.Decoding(WRITTEN_TOKENS),
    )
    reasoning = sk.rank_by_reason_score(study.sae, study.lm, written)
    yield (
        f"# Features of the reasoner\n\nWritten by `run.py`. {study.sae.n_features} features of `{study.sae.name}`, "
        f"`{MODEL}`, {study.sae.place}. In brackets 95% intervals, bootstrap over twin groups; in parentheses the "
        "change against the first line, paired item by item."
    )
    yield kept_of_the_loss(study, written)
    yield "## Which features separate abstaining from answering?"
    yield (
        f"**In prompts**: {len(prompts)} questions of SelfAware's `fit`, read at their last token. The held-out half "
        f"says what a rank is worth: of the {SHOWN} first it keeps {kept_up(in_prompts):.3f} of AUROC on average."
    )
    yield ranked(in_prompts)
    yield (
        f"**In what is written**: the {len(pairs)} built-in pairs, the mean over each side's completion; held out, the "
        f"{SHOWN} first keep {kept_up(in_pairs):.3f}."
    )
    yield ranked(in_pairs)
    yield f"## Which features are active on the words of reasoning?\n\nReasonScore, on {len(written)} chains."
    yield reasoned(reasoning)
    says = [each.index for each in in_pairs if each.auroc > 0.5][:FIRST]
    asks = [each.index for each in in_prompts if each.auroc > 0.5][:FIRST]
    thinks = [each.index for each in reasoning[:FIRST]]
    chance = chance_features(in_pairs, {*says, *asks, *thinks})
    mean = kept(study.out / "mean-difference.safetensors", lambda: sk.extract(study.lm, pairs))
    towards = {
        **{f"feature {i}, of abstaining replies": feature(study, i) for i in says},
        **{f"feature {i}, of unanswerable prompts": feature(study, i) for i in asks},
        "mean difference of the pairs": mean,
        **{f"feature {i}, by chance": feature(study, i) for i in chance},
        "random direction": mean.random_control(),
    }
    where = f"Each at layer {study.sae.place.layer}, on the completion, at the strength of an equal KL."
    yield f"## Steering by them\n\n{where}"
    for kl in KLS:
        yield f"### Towards abstaining: SelfAware as it is, {kl} nats a token"
        yield steered(study, towards, SELFAWARE, ABSTAINING, f"abstaining-{kl}", kl)
    yield f'### Towards abstaining: SelfAware, told to say "I don\'t know", {KLS[0]} nats a token'
    yield steered(study, towards, SELFAWARE, ABSTAINING, f"told-{KLS[0]}", KLS[0], (TOLD,))
    length = {
        **{f"feature {i}, of reasoning words": feature(study, i) for i in thinks},
        **{f"feature {i}, taken away": -feature(study, i) for i in thinks},
        **{f"feature {i}, by chance": feature(study, i) for i in chance},
        "random direction": mean.random_control(),
    }
    for kl in KLS:
        yield f"### Along the words of reasoning: word problems of one step, {kl} nats a token"
        yield steered(study, length, PROBLEMS, BRIEF, f"reasoning-{kl}", kl)


def kept_of_the_loss(study: Study, written: Sequence[sk.Completion]) -> str:
    """How much of the model's loss on its own chains remains when a state is replaced by its reconstruction."""
    losses = []
    for change in (None, lambda h: study.sae.decode(study.sae.encode(h)).to(h.dtype), torch.zeros_like):
        total, count = 0.0, 0
        for done in written:
            ids = torch.tensor([[*study.lm.renderer.encode_prompt(done.request.prompt), *done.token_ids]])
            loss = cross_entropy(logits_under(study, ids, change)[:-1], ids[0, 1:])
            total, count = total + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
        losses.append(total / count)
    plain, reconstructed, zeroed = losses
    share = (zeroed - reconstructed) / (zeroed - plain)
    return (
        f"Of the model's loss on {len(written)} chains of its own ({plain:.3f} nats a token) the reconstruction keeps "
        f"{share:.1%}: {reconstructed:.3f} with it in the states' place, {zeroed:.3f} with zeros. The first position, "
        "on which the autoencoder was not trained, is left as it is."
    )


@torch.inference_mode()
def logits_under(study: Study, ids: Tensor, change: Callable[[Tensor], Tensor] | None) -> Tensor:
    """The logits `[position, vocabulary]` of one text, every state but the first changed at the autoencoder's layer."""

    def hook(_module: nn.Module, _given: object, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        if change is not None:
            hidden[:, 1:] = change(hidden[:, 1:])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = study.lm.blocks[study.sae.place.layer].register_forward_hook(hook)
    try:
        found: Tensor = study.lm.hf(input_ids=ids).logits[0].float()
    finally:
        handle.remove()
    return found


def kept_up(found: Sequence[Separating]) -> float:
    """The mean AUROC on the held-out half of the features shown, each counted on the side that it was ranked for."""
    some = [each.held_out if each.auroc > 0.5 else 1 - each.held_out for each in found[:SHOWN]]
    return sum(some) / len(some)


def ranked(found: Sequence[Separating]) -> str:
    """The first features by separation."""
    lines = [
        "| feature | AUROC | held out | mean, abstain | mean, answer | active, abstain | active, answer |\n"
        "|---|---|---|---|---|---|---|"
    ]
    for each in found[:SHOWN]:
        areas = f"{each.auroc:.3f} | {each.held_out:.3f} | {each.positive:.2f} | {each.negative:.2f}"
        lines.append(f"| {each.index} | {areas} | {each.positive_share:.2f} | {each.negative_share:.2f} |")
    return "\n".join(lines)


def reasoned(found: Sequence[Reasoning]) -> str:
    """The first features by ReasonScore."""
    heading = "| feature | ReasonScore | mean on words | mean elsewhere | entropy over words |\n|---|---|---|---|---|"
    lines = (
        f"| {each.index} | {each.score:.4f} | {each.on_words:.2f} | {each.elsewhere:.2f} | {each.entropy:.2f} |"
        for each in found[:SHOWN]
    )
    return "\n".join([heading, *lines])


def chance_features(found: Sequence[Separating], taken: set[int]) -> list[int]:
    """Features drawn among those that are active in the pairs' completions and not among the first."""
    active = [each.index for each in found if max(each.positive_share, each.negative_share) > 0.2]
    return Random(0).sample([index for index in sorted(active) if index not in taken], RANDOM)


def feature(study: Study, index: int) -> sk.SteeringVector:
    """A feature as a vector, whose name says so."""
    return study.sae.feature(index, study.lm, f"feature-{index}")


def steered(
    study: Study,
    vectors: Mapping[str, sk.SteeringVector],
    reference: str,
    count: int,
    name: str,
    kl: float,
    context: tuple[sk.Intervention, ...] = (),
) -> str:
    """The unsteered model, and each vector at the strength whose KL is `kl`, on `report`.

    `context` is in every cell; the KL is measured without it.
    """
    prompts = [item.prompt for item in study.items(reference, "fit", KL_PROMPTS)]
    known = study.out / f"strengths-{name}.json"
    strengths: dict[str, float] = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    cells = {"unsteered": Cell(context)}
    for label, vector in vectors.items():
        if label not in strengths:
            steering = vector.at(study.sae.place.layer)
            met = sk.calibrate(study.lm, steering, kl=kl, prompts=prompts, tokens=64, largest=LARGEST)
            strengths[label] = met.at(study.sae.place.layer).strength
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(strengths, indent=1), encoding="utf-8")
        cells[f"{label} (strength {strengths[label]:.2f})"] = Cell(
            (*context, vector.at(study.sae.place.layer, float(f"{strengths[label]:.3g}")))
        )
    setting = Setting(None, study.out, study.data, tokens=TOKENS)
    run = setting.measured(
        study.lm,
        list(cells.values()),
        study.out / name,
        reference.format(data=study.data),
        "report",
        study.size(count),
    )
    return table(compared({label: records_of(run, cell) for label, cell in cells.items()}), METRICS)


if __name__ == "__main__":
    main()
