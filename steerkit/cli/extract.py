"""`steerkit extract`: pairs in, a vector file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli import console, options

BUDGET = 0.05  # of answerable questions, on choose, for which a probe may fire


def extract(
    out: options.OutFile,
    pairs: options.Pairs = "abstention",
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    what: Annotated[
        str,
        typer.Option("--as", metavar="vector|probe", help="A steering vector, or a probe that gates one."),
    ] = "vector",
    method: Annotated[
        str,
        typer.Option("--method", help="mean-difference, pca, logistic, lda, random or contrastive-energy."),
    ] = "mean-difference",
    aggregation: Annotated[
        str,
        typer.Option("--aggregation", help="last, mean (over the completion) or prompt (labelled prompts)."),
    ] = "mean",
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Where contrastive-energy trains: 12,14 or start:stop:step."),
    ] = None,
    kl_budget: Annotated[
        float | None,
        typer.Option("--kl-budget", help="What contrastive-energy may change elsewhere, in nats per token."),
    ] = None,
    project_out: Annotated[
        str | None,
        typer.Option(
            "--project-out",
            metavar="mean|content|FILE",
            help="Take out the mean state, what the prompts are about, or another vector.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", help="For a probe: the over-abstention that its threshold may cost on choose."
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="VECTOR", help="For a probe: write it together with this vector."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The vector's name; default: the file's.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Compute a steering vector, one direction per layer, from contrast pairs; or a probe, from labelled prompts.

    A probe reads from the unsteered prompt whether the behaviour is called for: --as probe --pairs suite:abstention
    fits it on the suite's split fit and chooses its threshold on choose.
    """
    from steerkit.core.errors import MisuseError
    from steerkit.extraction.extract import LEARNED
    from steerkit.extraction.extract import extract as fit
    from steerkit.extraction.pairs import load_pairs
    from steerkit.extraction.projection import project_out as without
    from steerkit.extraction.projection import shared_directions
    from steerkit.interventions.spec import parse_range

    if what not in ("vector", "probe"):
        raise MisuseError(f"--as is vector or probe, got {what!r}")
    if what == "probe":
        _check_probe_options(method, aggregation, layers, kl_budget, project_out)
        _extract_probe(out, pairs, model, device, dtype, budget, into, name or out.stem, seed, as_json)
        return
    if budget is not None or into is not None:
        raise MisuseError("--budget and --into are for a probe: add --as probe")
    if (layers is not None) != (method == LEARNED) or (kl_budget is not None and method != LEARNED):
        raise MisuseError(f"--method {LEARNED} needs --layers, and only it takes --layers and --kl-budget")
    if method == LEARNED and aggregation != "mean":
        raise MisuseError(f"--method {LEARNED} does not read states: leave --aggregation out")
    loaded = load_pairs(pairs)
    lm = console.load(model, device, dtype)
    with console.progress(f"extracting {loaded.name}") as progress:
        if layers is None:
            vector = fit(lm, loaded, method, aggregation, seed=seed, progress=progress)  # type: ignore[arg-type]
        else:
            from steerkit.extraction.learned import KL_BUDGET, learn

            vector = learn(
                lm,
                loaded,
                parse_range(layers, int, what="layers"),
                kl_budget=KL_BUDGET if kl_budget is None else kl_budget,
                seed=seed,
                progress=progress,
            )
    if project_out is not None:
        vector = without(vector, *shared_directions(project_out, vector, lm, loaded))
    vector = vector.renamed(name or out.stem)
    vector.save(out)
    metadata = vector.metadata
    rows = [
        {
            "layer": layer,
            "separability": None if metadata.separability is None else round(metadata.separability[layer], 4),
            "agreement": None if metadata.agreement is None else round(metadata.agreement[layer], 4),
            "alignment": None if metadata.alignment is None else round(metadata.alignment[layer], 4),
            "norm": round(float(vector.direction[layer].norm()), 4),
            "relative_dose": None if (dose := vector.relative_dose(layer, 1.0)) is None else round(dose, 4),
        }
        for layer in range(vector.n_layers)
    ]
    if as_json:
        console.print_json(
            {"out": str(out), "baseline_separability": metadata.baseline_separability, "layers": rows}
        )
        return
    _print_layers(rows, metadata.baseline_separability)
    console.say(f"wrote {out}: {vector.name}, {method}, {metadata.pairs_count} pairs, {lm.name}")
    layer = vector.n_layers * 2 // 5 if layers is None else parse_range(layers, int, what="layers")[0]
    console.say(
        f'next: steerkit generate --model {model} --steer {out}@layer={layer},strength=1 "your question"'
    )


def _check_probe_options(
    method: str, aggregation: str, layers: str | None, kl_budget: float | None, project_out: str | None
) -> None:
    from steerkit.core.errors import MisuseError

    if (method, aggregation, layers, kl_budget, project_out) != ("mean-difference", "mean", None, None, None):
        raise MisuseError(
            "a probe is a logistic one at the last prompt token of every layer: leave --method, --aggregation, "
            "--layers, --kl-budget and --project-out out"
        )


def _extract_probe(
    out: Path,
    pairs: str,
    model: str,
    device: str | None,
    dtype: str | None,
    budget: float | None,
    into: str | None,
    name: str,
    seed: int,
    as_json: bool,
) -> None:
    from steerkit.core.errors import MisuseError
    from steerkit.extraction.pairs import SUITE, LabelledPrompts, load_pairs
    from steerkit.extraction.probe_fit import choose_threshold, fit_probe
    from steerkit.interventions.vector import load_vector
    from steerkit.suites.suite import load_suite

    loaded = load_pairs(pairs)
    if not isinstance(loaded, LabelledPrompts):
        raise MisuseError(
            f"a probe is fitted on labelled prompts, and {pairs} are contrast pairs: use --pairs suite:abstention or a "
            "file of labelled prompts"
        )
    suite = load_suite(pairs.removeprefix(SUITE)) if pairs.startswith(SUITE) else None
    if suite is None and budget is not None:
        raise MisuseError("--budget needs a suite, whose split choose the threshold is chosen on")
    vector = None if into is None else load_vector(into)
    lm = console.load(model, device, dtype)
    with console.progress(f"fitting {loaded.name}") as progress:
        probe = fit_probe(lm, loaded, name=name, seed=seed, progress=progress)
    if suite is not None:
        allowed = BUDGET if budget is None else budget
        probe = probe.with_threshold(choose_threshold(probe, lm, suite.split("choose"), allowed))
    (probe if vector is None else vector.with_probe(probe)).save(out)
    metadata = probe.metadata
    rows = [{"layer": layer, "auroc": round(auroc, 4)} for layer, auroc in enumerate(metadata.auroc or ())]
    if as_json:
        console.print_json({"out": str(out), "probe": metadata.model_dump(), "layers": rows})
        return
    if metadata.auroc is not None:
        best = metadata.auroc[metadata.layer]
        console.say(f"held-out AUROC {best:.2f} at layer {metadata.layer}, the best of {probe.n_layers}")
    if metadata.baseline_auroc is not None:
        console.say(f"words alone (TF-IDF) reach AUROC {metadata.baseline_auroc:.2f} on the same folds")
    for chosen in metadata.thresholds:
        console.say(
            f"on choose, probability {chosen.threshold:.3f} at layer {chosen.layer} fires for "
            f"{chosen.choose_true_positive_rate:.0%} of those it should and {chosen.choose_false_positive_rate:.0%} of "
            f"those it should not (allowed: {chosen.budget:.0%})"
        )
    console.say(f"wrote {out}: {probe.name}, {metadata.data_count} prompts, {lm.name}")
    console.say(f"next: steerkit sweep --gate {out} …, or a spec with gate={out}")


def _print_layers(rows: list[dict[str, float | None]], baseline: float | None) -> None:
    from rich.table import Table

    table = Table(
        "layer",
        "held-out AUROC",
        "agreement",
        "logit lens",
        "||v||",
        "||v|| / ||h||",
        box=None,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*("–" if value is None else f"{value:g}" for value in row.values()))
    console.out.print(table)
    if baseline is not None:
        console.out.print(f"words alone (TF-IDF) reach AUROC {baseline:.2f} on the same folds")
