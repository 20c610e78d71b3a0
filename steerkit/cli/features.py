"""`steerkit features rank|vector`: what a sparse autoencoder's features tell, and one of them as a vector."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option, Typer

from steerkit.cli import console, given, options
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.features.autoencoder import Autoencoder
    from steerkit.features.rank import Reasoning, Separating
    from steerkit.models import LanguageModel

app = Typer(
    add_completion=False,
    help="Rank the features of a sparse autoencoder (SAELens), or write one as a vector.",
    no_args_is_help=True,
)

Sae = Annotated[
    str,
    Argument(metavar="SAE", help="Folder with cfg.json and sae_weights.safetensors, or a published name."),
]
OwnModel = Annotated[
    str | None,
    Option(
        "--model",
        "-m",
        help="Bundled name, hub id, folder or .gguf file; default: what the autoencoder's cfg.json names.",
    ),
]
HEADINGS = {
    "index": "feature",
    "auroc": "AUROC",
    "held_out": "AUROC, held out",
    "positive": "mean, positive",
    "negative": "mean, negative",
    "positive_share": "active, positive",
    "negative_share": "active, negative",
    "score": "ReasonScore",
    "on_words": "mean on words",
    "elsewhere": "mean elsewhere",
    "entropy": "entropy over words",
}


@app.command()
def rank(
    sae: Sae,
    by: Annotated[
        Literal["separation", "reason-score"],
        Option(
            help="How well a feature tells two sides apart, or how much it is active on words of reasoning."
        ),
    ] = "separation",
    data: Annotated[
        str | None,
        Option(
            metavar="QUESTIONS|PAIRS",
            help="For separation: labelled prompts (suite:NAME or a .jsonl file) or contrast pairs; default: the split "
            "fit of the abstention suite.",
        ),
    ] = None,
    suite: Annotated[
        str, Option(help="For reason-score: whose prompts, of the split fit, the model completes.")
    ] = "brevity",
    limit: Annotated[int, Option(min=1, help="For reason-score: how many prompts.")] = 48,
    word: Annotated[
        list[str] | None, Option(help="For reason-score: a word of reasoning; repeat. Default: a list of 20.")
    ] = None,
    max_new_tokens: options.MaxNewTokens = 256,
    top: Annotated[int, Option(min=1, help="Show so many features.")] = 20,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Write all features to this CSV file.", callback=options.a_place),
    ] = None,
    model: OwnModel = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Rank all features, and show the first ones.

    By separation, half of the examples rank and the other half says what the rank is worth; of 4,000 features some
    separate any examples by chance.
    """
    if by == "separation" and word:
        raise MisuseError("--word is for --by reason-score")
    if by == "reason-score" and data is not None:
        raise MisuseError("--data is for --by separation; reason-score takes --suite")
    from steerkit.features.autoencoder import load_autoencoder

    autoencoder = load_autoencoder(sae)
    model = model or autoencoder.trained_on or options.DEFAULT_MODEL
    lm = console.load(model, options.placement(device, None, None, None, None), dtype, {})
    found: list[Separating] | list[Reasoning]
    if by == "separation":
        found = _separating(autoencoder, lm, data, seed)
    else:
        found = _reasoning(autoencoder, lm, suite, limit, tuple(word or ()), max_new_tokens)
    if out is not None:
        _write(out, found)
    if as_json:
        console.print_json(
            {"sae": autoencoder.name, "by": by, "features": [asdict(each) for each in found[:top]]}
        )
        return
    names = [field.name for field in fields(found[0])]
    console.print_table(
        [HEADINGS[name] for name in names],
        ([str(each.index), *map(console.number, list(asdict(each).values())[1:])] for each in found[:top]),
    )
    if out is not None:
        console.say(f"wrote {out}: {len(found)} features")
    first = f"{found[0].index}"
    console.say(
        f"next: steerkit features vector {sae} {first} --model {model} --out feature-{first}.safetensors"
    )


@app.command()
def vector(
    sae: Sae,
    index: Annotated[int, Argument(help="Which feature, counted from 0.")],
    out: options.OutFile,
    model: OwnModel = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    name: Annotated[str | None, Option(help="The vector's name; default: the file's.")] = None,
    as_json: options.Json = False,
) -> None:
    """Write a feature as a vector for --model: its decoder row, which brings its encoder with it."""
    name = given.name(name, out)
    from steerkit.features.autoencoder import load_autoencoder

    autoencoder = load_autoencoder(sae)
    model = model or autoencoder.trained_on or options.DEFAULT_MODEL
    lm = console.load(model, options.placement(device, None, None, None, None), dtype, {})
    made = autoencoder.feature(index, lm, name)
    made.save(out)
    layer = autoencoder.place.layer
    if as_json:
        console.print_json({"out": str(out), "layer": layer, "vector": made.metadata.model_dump()})
        return
    console.say(
        f"wrote {out}: {made.name}, feature {index} of {autoencoder.name}, for layer {layer} of {lm.name}"
    )
    # An activation of 1 is little beside the states, so a strength of 1 would show nothing.
    asked = ("--vector", out, "--model", model, "--layers", layer, "--target-kl", 0.1, "--largest", 400)
    console.say(
        f"next, for a strength that does something: {console.command('steerkit', 'calibrate', *asked)}"
    )
    if made.probe is not None:
        console.say(f'its activation, token by token: --read "{out}@as=feature"')


def _separating(autoencoder: Autoencoder, lm: LanguageModel, data: str | None, seed: int) -> list[Separating]:
    from steerkit.extraction.pairs import labelled_prompts, load_examples
    from steerkit.features.rank import rank_by_separation
    from steerkit.suites.suite import load_suite

    examples = (
        labelled_prompts(load_suite("abstention").split("fit")) if data is None else load_examples(data)
    )
    with console.progress("reading") as progress:
        return rank_by_separation(autoencoder, lm, examples, seed=seed, progress=progress)


def _reasoning(
    autoencoder: Autoencoder, lm: LanguageModel, suite: str, limit: int, words: tuple[str, ...], tokens: int
) -> list[Reasoning]:
    from steerkit.engines.base import Decoding
    from steerkit.engines.generate import generate
    from steerkit.features.rank import REASONING_WORDS, rank_by_reason_score
    from steerkit.suites.suite import load_suite

    prompts = [item.prompt for item in load_suite(suite).split("fit").limit(limit)]
    written = generate(lm, prompts, decoding=Decoding(tokens))
    with console.progress("reading") as progress:
        return rank_by_reason_score(
            autoencoder, lm, written, words=words or REASONING_WORDS, progress=progress
        )


def _write(out: Path, found: list[Separating] | list[Reasoning]) -> None:
    import csv

    from steerkit.core.files import replacing

    with (
        replacing(out, "the table") as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        lines = csv.DictWriter(file, [field.name for field in fields(found[0])])
        lines.writeheader()
        lines.writerows(asdict(each) for each in found)
