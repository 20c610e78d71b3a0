"""`steerkit extract`: pairs in, a vector file out."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.cli import console, options


def extract(
    out: options.OutFile,
    pairs: options.Pairs = "abstention",
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    method: Annotated[
        str, typer.Option("--method", help="mean-difference, pca, logistic, lda or random.")
    ] = "mean-difference",
    aggregation: Annotated[
        str,
        typer.Option("--aggregation", help="last, mean (over the completion) or prompt (labelled prompts)."),
    ] = "mean",
    name: Annotated[
        str | None, typer.Option("--name", help="The vector's name; default: the file's.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Compute a steering vector, one direction per layer, from contrast pairs."""
    from steerkit.extraction import extract as fit
    from steerkit.pairs import load_pairs

    loaded = load_pairs(pairs)
    lm = console.load(model, device, dtype)
    with console.progress(f"extracting {loaded.name}") as progress:
        vector = fit(lm, loaded, method, aggregation, seed=seed, progress=progress)  # type: ignore[arg-type]
    vector = vector.renamed(name or out.stem)
    vector.save(out)
    metadata = vector.metadata
    layers = [
        {
            "layer": layer,
            "separability": None if metadata.separability is None else round(metadata.separability[layer], 4),
            "agreement": None if metadata.agreement is None else round(metadata.agreement[layer], 4),
            "norm": round(float(vector.direction[layer].norm()), 4),
            "relative_dose": None if (dose := vector.relative_dose(layer, 1.0)) is None else round(dose, 4),
        }
        for layer in range(vector.n_layers)
    ]
    if as_json:
        console.print_json(
            {"out": str(out), "baseline_separability": metadata.baseline_separability, "layers": layers}
        )
        return
    _print_layers(layers, metadata.baseline_separability)
    console.say(f"wrote {out}: {vector.name}, {method}, {metadata.pairs_count} pairs, {lm.name}")
    middle = vector.n_layers * 2 // 5
    console.say(
        f'next: steerkit generate --model {model} --steer {out}@layer={middle},strength=1 "your question"'
    )


def _print_layers(layers: list[dict[str, float | None]], baseline: float | None) -> None:
    from rich.table import Table

    table = Table("layer", "held-out AUROC", "agreement", "||v||", "||v|| / ||h||", box=None, pad_edge=False)
    for row in layers:
        table.add_row(*("–" if value is None else f"{value:g}" for value in row.values()))
    console.out.print(table)
    if baseline is not None:
        console.out.print(f"words alone (TF-IDF) reach AUROC {baseline:.2f} on the same folds")
