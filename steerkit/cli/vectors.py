"""`steerkit vectors push|pull|verify`: vectors on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from steerkit.cli import console, options

if TYPE_CHECKING:
    from steerkit.models import LanguageModel

app = Typer(
    add_completion=False,
    help="Publish vectors on the Hugging Face hub, fetch them, and check them.",
    no_args_is_help=True,
)

Repository = Annotated[str, Argument(help="owner/name on the hub.")]
Checked = Annotated[
    str | None, Option("--model", "-m", help="Also check that the vector is for this model, which is loaded.")
]


@app.command()
def push(
    vector: Annotated[str, Argument(help="A vector's file or published name.")],
    repo: Repository,
    run: Annotated[
        Path | None, Option(help="A run with the vector's recommended use; its numbers go into the card.")
    ] = None,
    card: Annotated[
        Path | None, Option(help="A Markdown file that is the card, instead of one that is made.")
    ] = None,
    licence: Annotated[
        str | None, Option(help="Licence of the vector, as the hub names it: apache-2.0.")
    ] = None,
    private: Annotated[
        bool, Option("--private", help="Make a private repository, if none is there.")
    ] = False,
    message: Annotated[str | None, Option(help="What the commit is called.")] = None,
    as_json: options.Json = False,
) -> None:
    """Put a vector on the hub with a card: effect and price from a run, recommended use, fingerprint, hash."""
    from steerkit.interventions.vector import load_vector
    from steerkit.report.publish import push_to_hub

    pushed = push_to_hub(
        load_vector(vector), repo, run=run, card=card, licence=licence, private=private, message=message
    )
    if as_json:
        console.print_json({"pushed": pushed})
        return
    console.show(pushed)
    console.say(f"next: {console.command('steerkit', 'vectors', 'verify', pushed)}")


@app.command()
def pull(
    name: Annotated[str, Argument(help="owner/name or owner/name@revision on the hub.")],
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="File to write, the card beside it; default: NAME.safetensors here."),
    ] = None,
    model: Checked = None,
    as_json: options.Json = False,
) -> None:
    """Fetch a vector and its card, checked against each other, as files."""
    from steerkit.interventions.sharing import pull_to

    place = options.a_place(out)
    _say(pull_to(name, place, _model(model, name)).to_json(), as_json)


@app.command()
def verify(
    vector: Annotated[str, Argument(help="A file, its card beside it if it has one, or a name on the hub.")],
    model: Checked = None,
    as_json: options.Json = False,
) -> None:
    """Check a vector: whole, the file that its card describes, and for the model that the card, and --model, say."""
    from steerkit.interventions.sharing import verify as check

    _say(check(vector, _model(model, vector)).to_json(), as_json)


def _model(model: str | None, vector: str) -> LanguageModel | None:
    """The model to check a vector against, loaded once the vector itself is found to be sound."""
    if model is None:
        return None
    from steerkit.interventions.sharing import verify as check

    check(vector)
    return console.load(model)


def _say(facts: dict[str, str | None], as_json: bool) -> None:
    if as_json:
        console.print_json(facts)
        return
    console.print_table(("", ""), [(name, value) for name, value in facts.items() if value])
