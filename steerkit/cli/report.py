"""`steerkit report`: the trade-off table, summary, plots and page of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from steerkit.cli import console, options
from steerkit.core.errors import MisuseError
from steerkit.core.registry import SUITES

if TYPE_CHECKING:
    from steerkit.analysis.guarantees import Certification
    from steerkit.analysis.run import Run
    from steerkit.analysis.summary import Row
    from steerkit.sweeps.confirmation import Confirmation

LONG = {"-m": "--model", "-s": "--suite"}


def report(
    run: Annotated[Path, Argument(help="A run directory, the --out of a sweep.")],
    judge: Annotated[
        str | None, Option(metavar="BASE_URL", help="An OpenAI-compatible endpoint judges abstention too.")
    ] = None,
    judge_model: Annotated[
        str | None, Option(help="The model there; a key goes into STEERKIT_JUDGE_API_KEY.")
    ] = None,
    score_again: Annotated[
        bool,
        Option("--score-again", help="Let today's scorers read the completions anew, and say what moved."),
    ] = False,
    detector: Annotated[
        bool,
        Option(
            "--detector", help="Let the bundled detector judge abstention too, on a small model's states."
        ),
    ] = False,
    guarantee: Annotated[
        str | None,
        Option(
            metavar="BOUND@CONFIDENCE",
            help='Say of which cells this holds by an exact test, such as "over_abstention<=0.1@95%".',
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the trade-off table of RUN and write its summary.csv, plots and report.html."""
    from steerkit.analysis.guarantees import parse_guarantee
    from steerkit.analysis.run import open_run

    promise = None if guarantee is None else parse_guarantee(guarantee)

    if score_again:
        _score_again(run)
    opened = open_run(run)
    if (judge is None) != (judge_model is None):
        raise MisuseError("--judge BASE_URL and --judge-model NAME go together")
    if judge is not None and judge_model is not None:
        _ask_judge(opened, judge, judge_model)
    if detector:
        _ask_detector(opened)
        opened = open_run(run)
    show(opened, None if promise is None else opened.certify(promise), as_json=as_json)


def _score_again(run: Path) -> None:
    from steerkit.analysis.rescoring import score_again

    moved = score_again(run)
    for each in moved:
        console.say(
            f"{each.metric} moved by {each.mean:.3f} a cell, at most {each.most:.3f} (cell {each.cell}): "
            f"{each.changed} completions are scored otherwise"
        )
    if not moved:
        console.say("every completion is scored as before")


def _ask_detector(run: Run) -> None:
    from steerkit.analysis.judging import detect_run
    from steerkit.scoring.detector import Detector

    with console.progress("reading replies") as progress:
        counts = detect_run(run.directory, Detector.bundled(), progress)
    both, rules, detected = counts.both, counts.first_only, counts.second_only
    console.say(
        f"of {counts.n} completions, rules and detector find that {both} abstain, the rules alone {rules} more, the "
        f"detector alone {detected} more: summary.csv has its recall and over-abstention"
    )


def _ask_judge(run: Run, base_url: str, model: str) -> None:
    from steerkit.analysis.judging import judge_run
    from steerkit.scoring.judge import Judge

    with console.progress(f"judging with {model}") as progress:
        path = judge_run(run.directory, Judge(base_url, model), progress)
    console.say(f"wrote {path}")


def show(run: Run, held: Certification | None = None, *, as_json: bool) -> None:
    """Write the report, then print the rows, as a table or as JSON, and what a guarantee found."""
    from steerkit.analysis.questions import best_cell
    from steerkit.report.readings import COLUMNS as READ_COLUMNS
    from steerkit.report.readings import read_lines
    from steerkit.report.tables import JUDGED_NAME_WIDTH, judged_table, judged_title, room_for_names

    page = run.report()
    rows, judged = run.summary(), run.judged()
    if as_json:
        shown = [row.to_json() for row in rows]
        summary: dict[str, Any] = {"run": str(run.path), "report": str(page), "rows": shown}
        if judged is not None:
            summary["judge"] = {
                "model": judged.model,
                "missing": judged.missing,
                **judged.agreement.summary(),
            }
        if run.protocol.readers:
            summary["readings"] = [cell.to_json() for cell in run.read_cells()]
        if held is not None:
            summary |= {"guarantee": str(held.guarantee), "certified": held.certified}
        console.print_json(summary)
        return
    print_rows(run, rows)
    if run.protocol.readers:
        console.show(f"what was read ({run.protocol.reading}), 95% intervals", "italic")
        console.print_table(READ_COLUMNS, read_lines(run))
    if judged is not None:
        console.show(judged_title(judged), "italic")
        console.print_made(
            judged_table(judged, rows, width=room_for_names(rows, JUDGED_NAME_WIDTH)), wrapped=False
        )
        if judged.missing:
            console.say(f"{judged.missing} completions have no verdict of the judge")
    if held is not None:
        _show_certified(held)
        specs = {row.cell: row.at.spec for row in rows}
        for name in held.certified:
            test = held.tested[name]
            console.say(f"  {specs[name]}: {test.losses} of {test.n} groups lost, p = {test.p_value:.2g}")
    console.say(f"wrote {page} (open it in a browser), summary.csv and plots beside it")
    if run.protocol.split == "report":  # nothing is chosen on the split that reports
        return
    for question in run.questions:
        best = best_cell(rows, question)
        title = question.title.lower()
        if best is None:
            console.say(f"{title}: no cell is clearly better than unsteered by the rule: {question.rule}")
        else:
            console.say(f"{title}: best cell within bounds is {best.at.spec}")
            suite = [] if (given := _suite(run)) is None else ["--suite", given]
            command = _command(run, best, ["sweep"], [*suite, "--split", "report", "--out", "NEW_FOLDER"])
            console.say(f"next, measure it once on unseen items: {command}")


def show_choice(found: Confirmation, *, as_json: bool) -> None:
    """Write both reports, then print what was chosen on `choose` and what it is on `report`."""
    runs = [run for run in (found.choose, found.report) if run is not None]
    if as_json:
        rows = {run.protocol.split: [row.to_json() for row in run.summary()] for run in runs}
        chosen = found.chosen and found.chosen.to_json()
        nearest = found.nearest and found.nearest.to_json()
        summary: dict[str, Any] = {
            "rule": str(found.rule),
            "chosen": chosen,
            "nearest": nearest,
            "rows": rows,
        }
        if found.certification is not None:
            summary["guarantee"] = str(found.certification.guarantee)
            summary["certified"] = found.certification.certified
            summary["bound"] = found.bound and found.bound.model_dump()
        console.print_json(summary | {"reports": [str(run.report()) for run in runs]})
        return
    for run in runs:
        print_rows(run, run.summary())
        console.say(f"wrote {run.report()} (open it in a browser)")
    _show_certification(found)
    if found.chosen is not None:
        console.say(
            f"chosen on choose by {found.rule}: {found.chosen.at.spec}; what it gives is what report says"
        )
        console.say(f"next, use it: {_command(found.choose, found.chosen, ['generate', 'your question'])}")
    else:
        which = "no cell" if found.certification is None else "no certified cell"
        console.say(f"{which} meets the bounds of {found.rule}: nothing was measured on report")
        if found.nearest is not None:
            read = [(each.quantity, each.quantity.of(found.nearest)) for each in found.rule.bounds]
            bounds = ", ".join(f"{quantity} {_shown(value)}" for quantity, value in read)
            console.say(f"the nearest is {found.nearest.at.spec}, with {bounds}")


def _show_certification(found: Confirmation) -> None:
    """Say what was guaranteed of how many cells, and of the chosen one; of the nearest where it is of none."""
    held = found.certification
    if held is None:
        return
    _show_certified(held)
    if found.bound is not None:
        console.say(f"of the chosen cell {found.bound}; it holds where {found.bound.assumption}")
    elif held.tested and not held.certified:
        first = min(held.tested.values(), key=lambda each: each.p_value)
        spec = next(row.at.spec for row in found.choose.summary() if row.cell == first.cell)
        console.say(
            f"the nearest to it is {spec}: {first.losses} of {first.n} groups lost, p = {first.p_value:.2g}"
        )


def _show_certified(held: Certification) -> None:
    sequences = f"{len(held.sequences)} sequence{'' if len(held.sequences) == 1 else 's'}"
    console.say(
        f"{held.guarantee} holds of {len(held.certified)} of {len(held.tested)} cells, tested in {sequences} at "
        f"p ≤ {held.level:.2g}"
    )


def print_rows(run: Run, rows: Sequence[Row], what: str = "") -> None:
    """Print rows of the run's summary as a table; `what` they are comes first in its title."""
    from steerkit.report.tables import NAME_WIDTH, room_for_names, trade_off_table

    protocol = run.protocol
    console.show(f"{what}{protocol.suite} / {protocol.split}, {protocol.model}, 95% intervals", "italic")
    # As many columns as stand beside a short name; a long one makes the table wider, for a terminal wraps and cuts not.
    width = console.table_width() + room_for_names(rows, NAME_WIDTH) - NAME_WIDTH
    console.print_made(trade_off_table(rows, width=width), wrapped=False)


def _command(run: Run, row: Row, verb: Sequence[str], more: Sequence[str] = ()) -> str:
    """A line for the shell: the verb, and what it is given, with the run's model and this cell of it."""
    from steerkit.runs.references import cell_reference

    given = _given(run)
    model = run.protocol.model if given is None else given.get("--model", options.DEFAULT_MODEL)
    asked = ["--steer", cell_reference(run.path, row.cell)]
    asked += [] if model == options.DEFAULT_MODEL else ["--model", model]
    asked += ["--allow-mismatch"] if given and "--allow-mismatch" in given else []
    return console.command("steerkit", *verb, *asked, *more)


def _suite(run: Run) -> str | None:
    """How the run's suite is given behind --suite; None where that is not known."""
    given = _given(run)
    if given is not None:
        return given.get("--suite", "abstention")
    return run.protocol.suite if run.protocol.suite.partition(":")[0] in SUITES else None


def _given(run: Run) -> Mapping[str, str] | None:
    """The options of the command that last wrote to the run, each with what stands behind it; None without one."""
    command = run.directory.environments[-1].command or ""
    if not command.startswith("steerkit sweep "):
        return None  # begun from Python, where a command is whatever the caller says
    given: dict[str, str] = {}
    words = shlex.split(command)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            given[LONG.get(name, name)] = value if equals else following
    return given


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
