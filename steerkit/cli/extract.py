"""`steerkit extract`: pairs in, a vector file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from steerkit.cli import console, given, options
from steerkit.core.errors import MisuseError
from steerkit.core.sites import RESID_POST, SiteName

if TYPE_CHECKING:
    from steerkit.core.prompts import TemplateOption
    from steerkit.models.placement import Placement

METHOD = "mean-difference"
BUDGET = 0.05  # of answerable questions, on choose, for which a probe may fire


def extract(
    out: options.OutFile,
    pairs: options.Pairs = "abstention",
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    what: Annotated[
        Literal["vector", "probe"], Option("--as", help="A steering vector, or a probe that gates one.")
    ] = "vector",
    method: Annotated[str, Option(help="{estimators}.")] = METHOD,
    aggregation: Annotated[
        Literal["last", "mean", "prompt"] | None,
        Option(
            help="Completions are read at their last token or over all (default: mean), labelled prompts at theirs."
        ),
    ] = None,
    site: Annotated[
        SiteName,
        Option(help="Where in each block states are read, and the vector acts; z: the heads' outputs."),
    ] = RESID_POST,
    layers: Annotated[
        str | None, Option(help="Where a learned vector is trained: 12,14 or start:stop:step.")
    ] = None,
    method_options: Annotated[
        list[str] | None,
        Option(
            "--option", metavar="KEY=VALUE", help="For the method, such as kl_budget=0.3; repeat for several."
        ),
    ] = None,
    project_out: Annotated[
        str | None,
        Option(
            metavar="mean|content|FILE",
            help="Take out the mean state, what the prompts are about, or another vector.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        Option(min=0, max=1, help="For a probe: over-abstention that its threshold may cost on choose."),
    ] = None,
    into: Annotated[
        str | None, Option(metavar="VECTOR", help="For a probe: write it together with this vector.")
    ] = None,
    name: Annotated[str | None, Option(help="The vector's name; default: the file's.")] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Compute a steering vector, one direction per layer, from contrast pairs; or a probe, from labelled prompts.

    A probe reads from the unsteered prompt whether the behaviour is called for: --as probe --pairs suite:abstention
    fits it on the suite's split fit and chooses its threshold on choose.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    name = given.name(name, out)
    pairs = given.file(pairs)
    switches = options.template_options(template_option)
    if what == "probe":
        if method != METHOD or any((aggregation, layers, method_options, project_out)):
            raise MisuseError(
                "a probe is a logistic one at the last prompt token of every layer: leave --method, --aggregation, "
                "--layers, --option and --project-out out"
            )
        _extract_probe(
            out,
            pairs,
            (model, placement, dtype, switches),
            site,
            budget,
            into,
            name,
            seed,
            as_json,
        )
        return
    if budget is not None or into is not None:
        raise MisuseError("--budget and --into are for a probe: add --as probe")
    from steerkit.extraction.extract import check_extraction
    from steerkit.extraction.extract import extract as fit
    from steerkit.extraction.pairs import load_examples
    from steerkit.extraction.projection import NAMED, shared_directions
    from steerkit.extraction.projection import project_out as without
    from steerkit.interventions.spec import parse_range
    from steerkit.interventions.vector import load_vector

    trained = None if layers is None else parse_range(layers, int, what="layers")
    chosen = options.key_values(method_options, "--option")
    loaded = load_examples(pairs)
    check_extraction(loaded, method, aggregation, site=site, layers=trained, options=chosen)
    shared = project_out if project_out is None or project_out in NAMED else load_vector(project_out)
    lm = console.load(model, placement, dtype, switches)
    with console.progress(f"extracting {loaded.name}") as progress:
        vector = fit(
            lm,
            loaded,
            method,
            aggregation,
            site=site,
            layers=trained,
            options=chosen,
            seed=seed,
            progress=progress,
        )
    if shared is not None:
        vector = without(vector, *shared_directions(shared, vector, lm, loaded))
    vector = vector.renamed(name)
    vector.save(out)
    metadata = vector.metadata

    def figure(values: Sequence[float] | None, layer: int) -> float | None:
        return None if values is None else round(values[layer], 4)

    doses = [vector.relative_dose(layer, 1.0) for layer in range(vector.n_layers)]
    rows = [
        {
            "layer": layer,
            "separability": figure(metadata.separability, layer),
            "agreement": figure(metadata.agreement, layer),
            "alignment": figure(metadata.alignment, layer),
            "norm": round(float(vector.direction[layer].norm()), 4),
            "relative_dose": None if dose is None else round(dose, 4),
        }
        for layer, dose in enumerate(doses)
    ]
    if as_json:
        console.print_json(
            {"out": str(out), "baseline_separability": metadata.baseline_separability, "layers": rows}
        )
        return
    _print_layers(rows, metadata.baseline_separability)
    console.say(f"wrote {out}: {vector.name}, {method}, {metadata.pairs_count} pairs, {lm.name}")
    layer = vector.n_layers * 2 // 5 if trained is None else trained[0]
    console.say(f"next: {console.generate_with(model, out, layer)}")


def _extract_probe(
    out: Path,
    pairs: str,
    model: tuple[str, Placement, str | None, Mapping[str, TemplateOption]],
    site: SiteName,
    budget: float | None,
    into: str | None,
    name: str,
    seed: int,
    as_json: bool,
) -> None:
    from steerkit.extraction.pairs import labelled_prompts, load_labelled, suite_of
    from steerkit.extraction.probe_fit import choose_threshold, fit_probe
    from steerkit.interventions.spec import gate_at
    from steerkit.interventions.vector import load_vector

    suite = suite_of(pairs)
    if suite is None and budget is not None:
        raise MisuseError("--budget needs a suite, whose split choose the threshold is chosen on")
    loaded = load_labelled(pairs) if suite is None else labelled_prompts(suite.split("fit"))
    held_out = None if suite is None else suite.split("choose")
    vector = None if into is None else load_vector(into)
    lm = console.load(*model)
    with console.progress(f"fitting {loaded.name}") as progress:
        probe = fit_probe(lm, loaded, name=name, site=site, seed=seed, progress=progress)
    if held_out is not None:
        allowed = BUDGET if budget is None else budget
        probe = probe.with_threshold(choose_threshold(probe, lm, held_out, allowed))
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
    gate = gate_at(out)
    axis = console.command("--axis", f"gate=none,{gate}")
    console.say(f"next: steerkit sweep … {axis}")
    console.say(f"or in a spec: gate={gate}")


def _print_layers(rows: Sequence[Mapping[str, float | None]], baseline: float | None) -> None:
    columns = ("layer", "held-out AUROC", "agreement", "logit lens", "||v||", "||v|| / ||h||")
    console.print_table(columns, ([console.number(value, "g") for value in row.values()] for row in rows))
    if baseline is not None:
        console.show(f"words alone (TF-IDF) reach AUROC {baseline:.2f} on the same folds")
