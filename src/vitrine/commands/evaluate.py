"""`vitrine evaluate`: evaluate the systems on external photographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from vitrine.commands.printing import PLAIN, abbreviate, print_csv, print_json, print_json_lines, show
from vitrine.commands.session import Format, OutputFormat, Quiet, Verbose, counted, fail, say, session, skip

if TYPE_CHECKING:
    from vitrine.evaluation.external import ExternalEvaluation

LEGEND = """
own test: accuracy on the project's own test photographs
excess: mean confidence minus accuracy, in points
confident, right: share of confident predictions, and the share of those that are right
"""


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with labels.csv and its images.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A system, such as ensemble. Repeat for several. Default: all.")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK:THEIRS=OURS", help="A label of DIR and the models' label for it: color:grey=gray."),
    ] = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Exclude photographs of train or val instead of rejecting DIR.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the report. Default: report/external/ and the name of DIR."),
    ] = None,
    layout: OutputFormat = Format.table,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Evaluate the systems on external photographs, without training, and write a report.

    Labels are matched by name. What cannot be evaluated is listed or counted: broken photographs (the exit code is then
    1), labels unknown to the models, near duplicates. A folder that shares photographs with train or val is rejected.
    """
    from vitrine.evaluation.external import evaluate_external, summary_rows
    from vitrine.reporting.external import DEFAULT_FOLDER, check_folder, write_evaluation

    aliases = parse_aliases(alias or [])
    place = session().from_here(folder)
    target = DEFAULT_FOLDER / (place.resolve().name or "photographs") if out is None else session().from_here(out)
    check_folder(target)
    evaluation = evaluate_external(
        place,
        models=model,
        aliases=aliases,
        allow_leakage=allow_leakage,
        progress=False if session().quiet else None,
    )
    for path, fault in evaluation.broken:
        skip(str(folder / path), fault)
    write_evaluation(evaluation, target)
    if layout is Format.json:
        print_json(evaluation.to_json())
    elif layout is Format.jsonl:
        print_json_lines(summary_rows(evaluation))
    elif layout is Format.csv:
        rows = summary_rows(evaluation)
        print_csv(rows, list(rows[0]))
    else:
        _print_evaluation(evaluation)
    where = session().to_here(target) if out is None else str(out)
    say(f"Wrote {Path(where) / 'index.html'}, report.md and evaluation.json.")
    if evaluation.broken:
        raise typer.Exit(1)


def parse_aliases(texts: list[str]) -> dict[str, dict[str, str]]:
    """Parse aliases such as `color:grey=gray` to {task: {label of the folder: label of the models}}."""
    aliases: dict[str, dict[str, str]] = {}
    for text in texts:
        task, _, pair = text.partition(":")
        theirs, _, ours = pair.partition("=")
        if not (task and theirs.strip() and ours.strip()):
            raise fail(ValueError(f"--alias: expected TASK:THEIRS=OURS, such as color:grey=gray; found {text!r}"))
        aliases.setdefault(task.strip(), {})[theirs.strip()] = ours.strip()
    return aliases


def _print_evaluation(evaluation: ExternalEvaluation) -> None:
    from vitrine.evaluation.external import summary_rows
    from vitrine.reporting.external_figures import printable
    from vitrine.reporting.templating import percent, with_interval

    def share(value: float | None) -> str:
        return "" if value is None else percent(value)

    scored = counted(len(evaluation.photos), "photograph")
    show(Text(f"{printable(evaluation.name)}: {scored} of {counted(evaluation.num_items, 'item')} scored."))
    numbers = ("accuracy", "own test", "excess", "confident", "right")
    table = Table("system", "task", *(Column(name, justify="right", no_wrap=True) for name in numbers), **PLAIN)
    for row in summary_rows(evaluation):
        table.add_row(
            Text(abbreviate(row["system"], 12)),
            Text(abbreviate(row["task"], 12)),
            with_interval(row, "accuracy"),
            share(row["own_test_accuracy"]),
            f"{100 * row['overconfidence']:+.1f}",
            share(row["coverage"]),
            share(row["confident_accuracy"]),
        )
    show(table)
    show(Text(LEGEND))
    columns = ("far from training", "median cosine", "of val")
    table = Table("system", *(Column(name, justify="right", no_wrap=True) for name in columns), **PLAIN)
    for name, system in evaluation.systems.items():
        medians = (f"{system.shift[key] or 0:.3f}" for key in ("median_cosine", "val_median_cosine"))
        table.add_row(Text(abbreviate(name, 12)), with_interval(system.shift, "far"), *medians)
    show(table)
    for sentence in _remarks(evaluation):
        show(Text(sentence))


def _remarks(evaluation: ExternalEvaluation) -> list[str]:
    """List the labels and photographs that were not scored, or were scored separately."""
    from vitrine.evaluation.external import first_names
    from vitrine.reporting.external_figures import printable

    def names(labels: Mapping[str, int]) -> str:
        shown = [f"{printable(label)} ({num})" for label, num in list(labels.items())[:10]]
        return ", ".join([*shown, *([f"{len(labels) - 10} more"] if len(labels) > 10 else [])])

    remarks = [f"No labels in the folder: {', '.join(evaluation.absent_tasks)}."] if evaluation.absent_tasks else []
    remarks += [
        f"Unknown to the models, {task}: {names(labels.unknown)}."
        for task, labels in evaluation.labels.items()
        if labels.unknown
    ]
    unscored = [task for task in evaluation.labels if task not in evaluation.tasks]
    remarks += [f"Not scored, as no usable photograph has a known label: {', '.join(unscored)}."] if unscored else []
    if evaluation.broken:
        remarks.append(f"Excluded because they cannot be read: {counted(len(evaluation.broken), 'photograph')}.")
    for exact, what in ((True, "Excluded, identical to"), (False, "Scored separately, near duplicates of")):
        twins = evaluation.seen_twins(exact)
        if twins:
            lines = [printable(f"{twin.image_path} = {twin.project_path} ({twin.split})") for twin in twins]
            remarks.append(f"{what} photographs of train or val: {len(twins)}\n{first_names(lines)}")
    own = sum(not twin.is_seen and twin.is_exact for twin in evaluation.twins)
    remarks += [f"The project's own test photographs: {own}."] if own else []
    if evaluation.shared_items:
        named = ", ".join(printable(item) for item in evaluation.shared_items[:10])
        remarks.append(
            f"Items whose name is also in train, possibly by chance: {len(evaluation.shared_items)} ({named})."
        )
    return ["", *remarks] if remarks else []
