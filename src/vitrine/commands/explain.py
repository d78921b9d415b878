"""`vitrine explain`: heat maps that explain predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from vitrine.commands.printing import PLAIN, print_csv, print_json, print_json_lines, show
from vitrine.commands.session import (
    Format,
    Model,
    OutputFormat,
    ProjectError,
    Quiet,
    Verbose,
    fail,
    say,
    session,
    skip,
)

if TYPE_CHECKING:
    from vitrine.inference.explanations import Explainer

OUT = Path("explanations")
SCALE_PX = 512
"""Side of the pictures that are written."""

COLUMNS = ("image_path", "model", "task", "label", "probability", "heatmap", "seconds")


def explain(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO", help="Files, folders, patterns, or - for paths on standard input."),
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="A task, such as color. Repeat for several. Default: all that are shown.")
    ] = None,
    model: Model = "ensemble",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the pictures.")] = OUT,
    layout: OutputFormat = Format.table,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Show which parts of photographs the predictions rely on: one picture per photograph and task.

    Heat maps are shown only for tasks where they were measured to be faithful (docs/explain.md). This needs the PyTorch
    models; an export is not enough. Unreadable photographs are reported; the exit code is then 1.
    """
    from vitrine.commands.files import find_photos
    from vitrine.photos import PhotoError

    tasks = chosen_tasks(model, task)
    names, faults = find_photos(photos, recursive=False)
    for name, fault in faults:
        skip(name, fault)
    if not names:
        say("No photographs: the folders contain no files.")
        raise typer.Exit(1)
    explainer = load_explainer(model)
    folder, records, num_faults = session().from_here(out), [], len(faults)
    if folder.exists() and not folder.is_dir():
        raise ProjectError(f"{out}: is a file. Choose a folder with --out")
    for number, name in enumerate(names):
        try:
            results = explain_file(explainer, name, tasks, folder, f"{number + 1:03d}_" if len(names) > 1 else "", out)
        except PhotoError as error:
            skip(name, str(error).removeprefix(f"{session().from_here(name)}: "))
            num_faults += 1
            continue
        if layout is Format.jsonl:
            print_json_lines(results)
        records += results
    if layout is Format.json:
        print_json(records)
    elif layout is Format.csv:
        print_csv(records, COLUMNS)
    elif layout is Format.table and records:
        _print_table(records)
    if records:
        say(f"Wrote {len(records)} {'picture' if len(records) == 1 else 'pictures'} to {out}.")
    if num_faults:
        raise typer.Exit(1)


def chosen_tasks(model: str, wanted: Sequence[str] | None) -> list[str]:
    """Return the tasks to explain: those given by the user, or all with heat maps that are shown.

    Raises:
        ExplanationError: a task does not exist, or no heat map is shown for it.
    """
    from vitrine.inference.heatmaps import ExplanationError, check_shown, reason_hidden
    from vitrine.inference.systems import load_systems

    systems = load_systems(Path("models/systems.json"))
    if model not in systems:
        raise ProjectError(f"models: no system '{model}'. Available: {', '.join(systems)}")
    known = list(systems[model].members)
    for task in wanted or []:
        if task not in known:
            raise ExplanationError(f"--task {task}: no such task. Available: {', '.join(known)}")
        check_shown(model, task)
    reasons = {task: reason_hidden(model, task) for task in wanted or known}
    tasks = [task for task, reason in reasons.items() if reason is None]
    if not tasks:
        raise ExplanationError(f"{model}: no heat map is shown for any task: {next(iter(reasons.values()))}")
    return list(dict.fromkeys(tasks))


def load_explainer(model: str) -> Explainer:
    try:
        from vitrine.inference.explanations import Explainer
    except ImportError as error:
        raise fail(
            ValueError(
                f"{error.name} cannot be imported. Heat maps need PyTorch; an export is not enough. Install the "
                "project with: pip install -e ."
            )
        ) from None
    return Explainer.load(model)


def explain_file(
    explainer: Explainer, name: str, tasks: Sequence[str], folder: Path, prefix: str, named: Path
) -> list[dict[str, Any]]:
    """Explain a file, write a picture for every task, and return a record for each.

    Args:
        folder: where the pictures go, relative to the current folder; named: the same folder as typed by the user.

    Raises:
        PhotoError: the file is not a readable photograph.
    """
    from PIL import Image

    from vitrine.artifacts import atomic_path
    from vitrine.inference.heatmaps import overlay
    from vitrine.photos import decode_photo

    path, limit = session().from_here(name), explainer.decoding.max_megapixels
    start = time.perf_counter()
    explanations = explainer.explain_files([path], tasks)[0]
    seconds = round(time.perf_counter() - start, 4)
    large = decode_photo(path, SCALE_PX, limit)
    records = []
    for task, explanation in explanations.items():
        file = f"{prefix}{Path(name).stem}_{task}_{explainer.name}.png"
        with atomic_path(folder / file) as temporary:
            Image.fromarray(overlay(large, explanation.heatmap)).save(temporary, "PNG")
        record: dict[str, Any] = {"image_path": name, "model": explainer.name, "task": task}
        record |= {"label": explanation.label, "probability": round(explanation.probability, 4)}
        record |= {"heatmap": str(named / file), "seconds": seconds}
        records.append(record)
    return records


def _print_table(records: Sequence[Mapping[str, Any]]) -> None:
    from vitrine.labels import display_name

    table = Table("task", "answer", Column("ms", justify="right"), Column("heat map", no_wrap=True), **PLAIN)
    for record in records:
        answer = f"{display_name(record['label'])} {record['probability']:.0%}"
        cells = (display_name(record["task"]), answer, f"{1000 * record['seconds']:.0f}", record["heatmap"])
        table.add_row(*map(Text, cells))
    show(table, at_least=40 + max(len(record["heatmap"]) for record in records))
