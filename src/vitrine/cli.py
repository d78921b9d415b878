"""The `vitrine` command. Heavy modules are imported inside the commands, so that --help is fast."""

from __future__ import annotations

import errno
import io
import os
import socket
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from vitrine.commands.build import index_build
from vitrine.commands.evaluate import evaluate
from vitrine.commands.explain import explain
from vitrine.commands.index import dataset_folder, index_app, index_folder, photo_file
from vitrine.commands.label import label_app
from vitrine.commands.printing import PLAIN, abbreviate, print_answers, print_json, print_json_lines, print_result, show
from vitrine.commands.printing import width as line_width
from vitrine.commands.qdrant import Approximate, Collection, Qdrant, open_collections
from vitrine.commands.session import (
    APP,
    Commands,
    Format,
    IndexFolder,
    Model,
    OutputFormat,
    ProjectError,
    Quiet,
    Verbose,
    counted,
    fail,
    load_predictor,
    open_session,
    say,
    say_more,
    session,
    skip,
)

app = typer.Typer(cls=Commands, **APP)
index_app.command("build")(index_build)
app.add_typer(index_app, name="index")
app.add_typer(label_app, name="label")
if TYPE_CHECKING:
    from vitrine.data.dataset import Description, Guess
    from vitrine.retrieval.backend import SearchBackend


class Layout(StrEnum):
    """Runtime of an exported system."""

    onnx = "onnx"
    openvino = "openvino"
    web = "web"
    executorch = "executorch"


class Precision(StrEnum):
    """Numeric precision of an exported system."""

    fp32 = "fp32"
    int8 = "int8"


def _print_version(wanted: bool) -> None:
    if wanted:
        from vitrine import __version__
        from vitrine.inference.runtimes import installed_backends

        backends = ", ".join(f"{name} {version}" for name, version in installed_backends().items())
        typer.echo(f"vitrine {__version__} ({backends})")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option(help="Project folder. Default: the nearest one at or above the working folder.", metavar="DIR"),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print version and backends.")
    ] = False,
) -> None:
    """Classify, evaluate and search product photographs.

    Exit codes: 0 success; 1 nothing found, files skipped, or metrics worse; 2 error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be valid text
    current = context.with_resource(open_session(project))
    current.quiet, current.verbose = quiet, verbose


Revision = Annotated[str, typer.Argument(help="A git revision, such as HEAD, HEAD~1 or origin/main.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder with images/CLASS/*.jpg, or with labels.csv.")],
) -> None:
    """Create labels.csv from class folders in FOLDER/images, or check an existing one. Nothing is overwritten.

    Class folders may be in images/train, images/val and images/test. The exit code is 1 if an existing table breaks
    the data contract.
    """
    from vitrine.data.catalog import CatalogError
    from vitrine.data.dataset import describe_table, table_from_folders, write_table
    from vitrine.data.splits import SplitParams
    from vitrine.params import read_section

    guess, folder = None, session().from_here(folder)
    if not folder.is_dir():
        raise CatalogError(folder, ["not a folder; choose one that contains images/CLASS/*.jpg or labels.csv"])
    if not (folder / "labels.csv").exists():
        params = read_section("split", SplitParams)
        table, guess = table_from_folders(folder, params.max_megapixels, params.near_duplicate_bits)
        write_table(folder, table)
    description = describe_table(folder)
    _print_description(folder, description, guess)
    if description.faults:
        raise typer.Exit(1)


def _print_description(folder: Path, description: Description, guess: Guess | None) -> None:
    num_classes = len(description.classes)
    typer.echo(
        f"{'Wrote ' if guess else ''}{folder / 'labels.csv'}: "
        f"{counted(description.num_photos, 'photograph')} of {counted(description.num_items, 'item')} "
        f"in {counted(num_classes, 'class', 'classes')}."
    )
    table = Table("class", Column("photographs", justify="right"), **PLAIN)
    for label, num in description.classes.items():
        table.add_row(label, str(num))
    show(table)
    if description.splits:
        typer.echo("Splits: " + ", ".join(f"{split} {num}" for split, num in description.splits.items()) + ".")
    for name, labels in description.attributes.items():
        missing = description.num_photos - sum(labels.values())
        more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
        shown = ", ".join(f"{label} {num}" for label, num in list(labels.items())[:8])
        typer.echo(f"Attribute {name}, missing on {counted(missing, 'photograph')}: {shown}{more}.")
    if guess:
        _print_guess(guess, num_classes)
    for fault in description.faults:
        typer.echo(f"Fault: {fault}")
    source = "column" if description.splits else "seeded"
    typer.echo(
        f"\nIn params.yaml:\n  data:\n    path: {session().in_project(folder).as_posix()}\n"
        f"    attributes: [{', '.join(description.proposed)}]\n  split:\n    source: {source}"
    )


def _print_guess(guess: Guess, num_classes: int) -> None:
    for fault in guess.unreadable:
        typer.echo(f"Skipped {fault}")
    if guess.named_classes:
        typer.echo(f"Items were inferred from prefixes of file names in: {', '.join(guess.named_classes)}.")
    if len(guess.named_classes) < num_classes:
        subject = "In the other classes, file names" if guess.named_classes else "File names"
        typer.echo(f"{subject} do not distinguish items, so each photograph is its own item.")
    if guess.joined:
        merged = "similar pair was" if len(guess.joined) == 1 else "similar pairs were each"
        typer.echo(f"{len(guess.joined)} {merged} merged into one item:")
        for first, second in guess.joined[:10]:
            typer.echo(f"  {first} = {second}")
    typer.echo(
        "Check the column instance_id: all photographs of one physical item must have the same value, or the scores "
        "will be too high."
    )


@app.command()
def predict(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Files, folders, patterns, or - for paths on standard input."),
    ],
    model: Model = "ensemble",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Number of labels to show per task.")] = 3,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Include subfolders.")] = False,
    frames: Annotated[int, typer.Option(min=1, max=64, help="Number of frames to read from a clip.")] = 16,
    layout: OutputFormat = Format.table,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Predict photographs and clips: the most probable labels for every task, with calibrated probabilities.

    A clip of one item gets one prediction, with the frames that decided it; clips need the extra [video]. Unreadable
    files are reported on standard error and skipped; the exit code is then 1.
    """
    from tqdm import tqdm

    from vitrine.commands.files import find_photos
    from vitrine.commands.predicting import answer_files

    names, faults = find_photos(photos, recursive)
    for name, fault in faults:
        skip(name, fault)
    num_faults, records = len(faults), []
    if names:
        predictor, start = load_predictor(model), time.perf_counter()
        named = {session().from_here(name).as_posix(): name for name in names}
        first = True
        # On a terminal, the printed predictions already show the progress.
        hidden = session().quiet or (sys.stdout.isatty() and layout is not Format.json) or None
        with tqdm(total=len(named), unit="file", disable=hidden) as bar:
            for answers, unreadable in answer_files(named, predictor, top_k, frames):
                with tqdm.external_write_mode():
                    for path, fault in unreadable:
                        skip(named[path], fault)
                num_faults += len(unreadable)
                if answers:
                    if layout is Format.json:
                        records += answers
                    else:
                        print_answers(answers, layout, first)
                    first = False
                bar.update(len(answers) + len(unreadable))
        if layout is Format.table and not first:
            say(f"\n{predictor.name}, computed with {predictor.runtime.name}")
        say_more(f"{counted(len(named), 'file')} in {time.perf_counter() - start:.1f} s.")
    elif not faults:
        say("No photographs: the folders contain no files.")
    if layout is Format.json:
        print_json(records)
    if num_faults or not names:
        raise typer.Exit(1)


@app.command("export")
def export_system(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    model: Annotated[str | None, typer.Option(help="Default: ensemble; mobilevit for web.")] = None,
    layout: Annotated[
        Layout, typer.Option("--format", help="Target runtime; web is a page for any web host.")
    ] = Layout.onnx,
    precision: Annotated[Precision, typer.Option(help="int8 only if it passed the parity gate.")] = Precision.fp32,
) -> None:
    """Export a system: one file that includes preprocessing and calibration, and files that describe it.

    Run `make export` first, which creates, measures and gates the files that this command copies; only executorch is
    created here.
    """
    place = session().from_here(out)
    if layout is Layout.web:
        from vitrine.app.web import compressed_megabytes, package_web

        if precision is not Precision.fp32:
            raise fail(ValueError("--precision: the web format supports only fp32"))
        paths = package_web(place, model or "mobilevit")
        needed = [path for path in paths if path.parent.name != "thumbnails"]
        typer.echo(
            f"{out}: {counted(len(paths), 'file')}, {compressed_megabytes(needed):.1f} MB compressed without "
            f"thumbnails. Try it:\n  python -m http.server --directory {out} --bind 127.0.0.1 8000"
        )
        return
    if layout is Layout.executorch:
        from vitrine.inference.device import package_executorch

        if precision is not Precision.fp32:
            raise fail(ValueError("--precision: the executorch format supports only fp32"))
        paths = package_executorch(place, model or "ensemble")
    else:
        from vitrine.inference.package import package_export

        paths = package_export(place, model or "ensemble", layout.value, precision.value)
    for path in paths:
        typer.echo(f"{out / path.name}  {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def search(
    words: Annotated[str, typer.Argument(help='What to find, such as "blue bottle, not plastic" or color:blue.')] = "",
    like: Annotated[
        Path | None, typer.Option(help="Find photographs similar to this one; can be combined with words.")
    ] = None,
    model: Model = "ensemble",
    folder: IndexFolder = None,
    qdrant: Qdrant = None,
    collection: Collection = None,
    approximate: Approximate = False,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="Number of photographs to show.")] = 10,
    by_item: Annotated[bool, typer.Option("--by-item", help="Show only the best photograph of each item.")] = False,
    layout: OutputFormat = Format.table,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Find indexed photographs by words, by another photograph, or by both.

    The exit code is 1 if nothing is found, or if no hit is a confident match.
    """
    from vitrine.commands.files import file_fault
    from vitrine.photos import PhotoError
    from vitrine.retrieval.backend import load_index
    from vitrine.retrieval.index import shortened

    engines: list[SearchBackend] = [*open_collections(qdrant, collection, approximate, [model])]
    index = engines[0] if engines else load_index(index_folder(folder, model))
    embedding = None
    if like is not None:
        fault = file_fault(str(like))
        if fault:
            raise PhotoError(f"{like}: {fault}")
        embedding = load_predictor(index.name).predict_files([session().from_here(like)]).embeddings[0]
    result = index.search(words, like=embedding, top_k=top_k, by_item=by_item)
    if result.message and layout is not Format.json:
        say(result.message)
    dataset = dataset_folder()
    files = [photo_file(hit.image_path, dataset) for hit in result.hits]
    if layout in (Format.json, Format.jsonl):
        record = result.to_record(index.name)
        record["hits"] = [{**hit, "file": file} for hit, file in zip(record["hits"], files, strict=True)]
        if layout is Format.json:
            print_json(record)
        else:
            print_json_lines(record["hits"])
    else:
        sought = " and ".join(
            part for part in (f"'{shortened(words)}'" if result.query.terms else "", str(like or "")) if part
        )
        print_result(result, files, sought, "item" if by_item else "photograph", layout)
    if not any(hit.is_match for hit in result.hits):
        raise typer.Exit(1)


app.command()(evaluate)
app.command()(explain)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any address other than 127.0.0.1 accepts remote connections.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    qdrant: Qdrant = None,
    collection: Collection = None,
    approximate: Approximate = False,
    queue: Annotated[
        Path | None, typer.Option(help="Photographs to label: a file from `vitrine label next`. Default: queue.csv.")
    ] = None,
) -> None:
    """Serve the web page for the outputs of `dvc repro`. Needs the extra [app].

    With --qdrant, all systems that have an index are searched there; with --collection, only the system of that
    collection.
    """
    _check_port(host, port)
    if queue and not session().from_here(queue).is_file():
        raise ProjectError(f"{queue}: not found. Create it with: vitrine label next INDEX --out {queue}")
    try:
        from vitrine.app.server import QUEUE
        from vitrine.app.server import serve as serve_page
    except ModuleNotFoundError as error:
        raise fail(ValueError(f"{error.name} is not installed. Install the extra: pip install -e '.[app]'")) from None
    systems = sorted({path.parent.name for path in Path("index").glob("*/*.json")})  # a single-file or a sharded index
    engines = {engine.name: engine for engine in open_collections(qdrant, collection, approximate, systems)}
    serve_page(Path("."), host, port, engines, session().from_here(queue or QUEUE))


def _check_port(host: str, port: int) -> None:
    """Fail early if the port is not available, before the page starts, which takes seconds."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        number = error.errno or 0  # resolver errors are negative
        reason = os.strerror(number) if number > 0 else "no such host"
        if number == errno.EADDRINUSE:
            reason = "is in use; choose another with --port"
        raise ProjectError(f"{host}, port {port}: {reason}") from None


@app.command()
def gate(revision: Revision = "HEAD") -> None:
    """Compare metrics with a revision; exit with code 1 if one is missing or worse beyond noise."""
    from vitrine.reporting.compare import (
        FAILURES,
        ORDER,
        count_changes,
        format_change,
        format_value,
        metric_changes,
    )

    changes = metric_changes(revision)
    rows = [
        [change.key, format_value(change, "old"), format_value(change, "new"), format_change(change), change.verdict]
        for change in sorted(changes, key=lambda change: (ORDER.index(change.verdict), change.key))
        if change.old != change.new
    ]
    if rows:
        header = ["metric", abbreviate(revision, 12), "now", "change", "verdict"]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        room = max(line_width() - sum(widths[1:]) - 2 * len(widths), 12)
        table = Table(*(Column(name, no_wrap=True) for name in header), **PLAIN)
        for key, *cells in rows:
            table.add_row(Text(abbreviate(key, room)), *map(Text, cells))
        show(table, at_least=room + sum(widths[1:]) + 2 * len(widths))
    show(Text(count_changes(changes)))
    if any(change.verdict in FAILURES for change in changes):
        raise typer.Exit(1)


@app.command()
def summary(
    revision: Revision = "HEAD",
    out: Annotated[Path, typer.Option(help="The Markdown file to write.")] = Path("summary.md"),
    repository_url: Annotated[
        str | None, typer.Option(help="URL of the repository on GitHub. Default: pictures are copied next to the file.")
    ] = None,
) -> None:
    """Write the changes since a revision as Markdown, for a pull request."""
    from vitrine.reporting.compare import write_summary

    write_summary(revision, session().from_here(out), repository_url)
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    app()
