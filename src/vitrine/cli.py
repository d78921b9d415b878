"""The `vitrine` command. Heavy modules are imported inside the commands, so that --help is quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from typer.core import TyperGroup

from vitrine.errors import VitrineError


def fail(error: Exception) -> typer.Exit:
    """Print an error's message alone; the exit code is 2."""
    Console(stderr=True, soft_wrap=True).print(f"ERROR: {error}", style="red", markup=False, highlight=False)
    return typer.Exit(2)


class Commands(TyperGroup):
    """Commands that end on an error of the project with its message alone."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VitrineError as error:
            raise fail(error) from None


OPTIONS: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}
app = typer.Typer(help="See, judge and find product photographs.", cls=Commands, **OPTIONS)
index_app = typer.Typer(help="Show an index, add photographs to it, remove some.", **OPTIONS)
app.add_typer(index_app, name="index")
if TYPE_CHECKING:
    from vitrine.data.dataset import Description, Guess
    from vitrine.inference.predictor import Predictor
    from vitrine.retrieval.index import Hit


class Layout(StrEnum):
    """What runs an exported system."""

    onnx = "onnx"
    openvino = "openvino"
    web = "web"
    executorch = "executorch"


class Precision(StrEnum):
    """How an exported system computes."""

    fp32 = "fp32"
    int8 = "int8"


def _load_predictor(model: str) -> Predictor:
    from vitrine.inference.predictor import Predictor
    from vitrine.inference.runtimes import ServingParams
    from vitrine.params import read_section

    return Predictor.load(model, backend=read_section("serving", ServingParams).backend)


def _print_version(wanted: bool) -> None:
    if wanted:
        from vitrine import __version__
        from vitrine.inference.runtimes import installed_backends

        backends = ", ".join(f"{name} {version}" for name, version in installed_backends().items())
        typer.echo(f"vitrine {__version__} ({backends})")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print version and backends.")
    ] = False,
) -> None:
    """See, judge and find product photographs."""


Model = Annotated[str, typer.Option(help="efficientnet, deit, mobilevit or ensemble: a system that `dvc repro` made.")]
IndexFolder = Annotated[Path | None, typer.Option("--index", help="Folder of the index; without it index/MODEL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Revision = Annotated[str, typer.Argument(help="A git revision, such as HEAD, HEAD~1 or origin/main.")]


PLAIN: dict[str, Any] = {"box": None, "pad_edge": False}


def _whole(paths: Iterable[str]) -> Column:
    """A column of paths that is never cut: paths are there to be copied."""
    return Column("photograph", no_wrap=True, min_width=max(len(path) for path in paths))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder with images/CLASS/*.jpg, or with labels.csv.")],
) -> None:
    """Make labels.csv for class folders in FOLDER/images, or check the one that is there. Nothing is overwritten.

    Class folders may lie in images/train, images/val and images/test. Run it in the project's folder. Exit code 1 if a
    table that is there breaks the data contract.
    """
    from vitrine.data.catalog import CatalogError
    from vitrine.data.dataset import describe_table, table_from_folders, write_table
    from vitrine.data.splits import SplitParams
    from vitrine.params import read_section

    guess = None
    if not folder.is_dir():
        raise CatalogError(folder, ["not a folder; name one that holds images/CLASS/*.jpg or labels.csv"])
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
        f"{'Wrote ' if guess else ''}{folder / 'labels.csv'}: {description.num_photos} photographs of "
        f"{description.num_items} items in {num_classes} classes."
    )
    table = Table("class", Column("photographs", justify="right"), **PLAIN)
    for label, num in description.classes.items():
        table.add_row(label, str(num))
    Console().print(table)
    if description.splits:
        typer.echo("Splits: " + ", ".join(f"{split} {num}" for split, num in description.splits.items()) + ".")
    for name, labels in description.attributes.items():
        missing = description.num_photos - sum(labels.values())
        more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
        shown = ", ".join(f"{label} {num}" for label, num in list(labels.items())[:8])
        typer.echo(f"Attribute {name}, missing on {missing} photographs: {shown}{more}.")
    if guess:
        _print_guess(guess, num_classes)
    for fault in description.faults:
        typer.echo(f"Fault: {fault}")
    source = "column" if description.splits else "seeded"
    typer.echo(
        f"\nIn params.yaml:\n  data:\n    path: {folder.as_posix()}\n"
        f"    attributes: [{', '.join(description.proposed)}]\n  split:\n    source: {source}"
    )


def _print_guess(guess: Guess, num_classes: int) -> None:
    for fault in guess.unreadable:
        typer.echo(f"Left out {fault}")
    if guess.named_classes:
        typer.echo(f"Items were guessed from the beginnings of file names in: {', '.join(guess.named_classes)}.")
    if len(guess.named_classes) < num_classes:
        where = "In the other classes" if guess.named_classes else "Here"
        typer.echo(f"{where} file names do not tell items apart, so each photograph became an item of its own.")
    if guess.joined:
        typer.echo(f"{len(guess.joined)} pairs look alike and were put into one item:")
        for first, second in guess.joined[:10]:
            typer.echo(f"  {first} = {second}")
    typer.echo(
        "Check the column instance_id: all photographs of one physical item need the same one, or the scores will be "
        "too high."
    )


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photographs, of any format that Pillow reads.")],
    model: Model = "ensemble",
    as_json: Json = False,
) -> None:
    """Say what is on photographs: for every task the most probable labels, calibrated.

    Photographs that cannot be read are named on standard error; the others are answered. The exit code is then 1.
    """
    import numpy as np

    from vitrine.photos import PhotoError, decode_photo

    predictor = _load_predictor(model)
    decoded, names = [], []
    for path in photos:
        try:
            decoded.append(decode_photo(path, predictor.photo_size_px, predictor.max_megapixels))
            names.append(str(path))
        except PhotoError as error:
            fail(error)
    if names:
        answers = predictor.predict_records(np.stack(decoded), names)
        if as_json:
            typer.echo(json.dumps(answers, indent=2, ensure_ascii=False))
        else:
            _print_answers(answers)
    if len(names) < len(photos):
        raise typer.Exit(1)


def _print_answers(answers: Sequence[dict[str, Any]]) -> None:
    from vitrine.inference.wording import CERTAINTIES, certainty_sentence
    from vitrine.labels import display_name

    console = Console()
    for answer in answers:
        said = f"{answer['image_path']}: {answer['answer']}. {certainty_sentence(answer['tasks'])}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        table = Table(show_header=False, **PLAIN)
        for task, found in answer["tasks"].items():
            first, *others = found["labels"]
            rest = ", ".join(f"{display_name(other['label'])} {other['probability']:.0%}" for other in others)
            label, certainty = display_name(first["label"]), CERTAINTIES[found["certainty"]]
            table.add_row(f"  {task}", label, f"{first['probability']:.0%}", certainty, f"or {rest}" if rest else "")
        console.print(table)
    console.print(f"{answers[0]['model']}, computed with {answers[0]['backend']}", style="dim", highlight=False)


@app.command("export")
def export_system(
    out: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
    model: Annotated[str | None, typer.Option(help="Without it the ensemble; for the web mobilevit.")] = None,
    layout: Annotated[Layout, typer.Option("--format", help="What runs it; web is a page for any host.")] = Layout.onnx,
    precision: Annotated[Precision, typer.Option(help="int8 where it passed the parity gate.")] = Precision.fp32,
) -> None:
    """Take a system elsewhere: one file with preprocessing and calibration inside, and what describes it.

    Run `make export` before, which makes, measures and gates what this command copies; only executorch is made here.
    """
    if layout is Layout.web:
        from vitrine.app.web import compressed_megabytes, package_web

        if precision is not Precision.fp32:
            raise fail(ValueError("--precision: the web format has fp32 only"))
        paths = package_web(out, model or "mobilevit")
        needed = [path for path in paths if path.parent.name != "thumbnails"]
        typer.echo(
            f"{out}: {len(paths)} files, {compressed_megabytes(needed):.1f} MB compressed without thumbnails. Try it:\n"
            f"  python -m http.server --directory {out} --bind 127.0.0.1 8000"
        )
        return
    if layout is Layout.executorch:
        from vitrine.inference.device import package_executorch

        if precision is not Precision.fp32:
            raise fail(ValueError("--precision: the executorch format has fp32 only"))
        paths = package_executorch(out, model or "ensemble")
    else:
        from vitrine.inference.package import package_export

        paths = package_export(out, model or "ensemble", layout.value, precision.value)
    for path in paths:
        typer.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def search(
    words: Annotated[str, typer.Argument(help='What to find, such as "blue bottle, not plastic" or color:blue.')] = "",
    like: Annotated[Path | None, typer.Option(help="A photograph to be like; with words, both count.")] = None,
    model: Model = "ensemble",
    folder: IndexFolder = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="How many photographs to show.")] = 10,
    by_item: Annotated[bool, typer.Option("--by-item", help="Show only the best photograph of every item.")] = False,
    as_json: Json = False,
) -> None:
    """Find indexed photographs by words, by another photograph, or by both. Exit code 1 if nothing is found."""
    from vitrine.retrieval.index import Index

    index = Index.load(folder or Path("index") / model)
    embedding = None
    if like is not None:
        embedding = _load_predictor(index.name).predict_files([like]).embeddings[0]
    result = index.search(words, like=embedding, top_k=top_k, by_item=by_item)
    if as_json:
        typer.echo(json.dumps(result.to_record(index.name), indent=2, ensure_ascii=False))
    else:
        if result.message:
            Console(stderr=True).print(result.message, markup=False, highlight=False)
        if result.hits:
            _print_hits(result.hits)
    if not result.hits:
        raise typer.Exit(1)


def _print_hits(hits: Sequence[Hit]) -> None:
    from vitrine.labels import display_name

    table = Table(_whole(hit.image_path for hit in hits), "score", "why", **PLAIN)
    for hit in hits:
        why = [f"{'' if m.wanted else 'not '}{display_name(m.label)} {m.probability:.0%}" for m in hit.matches]
        why += [] if hit.similarity is None else [f"similarity {hit.similarity:.0%}"]
        table.add_row(hit.image_path, f"{hit.score:.3f}", ", ".join(why))
    Console().print(table)


@index_app.command("info")
def index_info(model: Model = "ensemble", folder: IndexFolder = None) -> None:
    """Say what an index holds."""
    from vitrine.retrieval.index import Index

    place = folder or Path("index") / model
    index = Index.load(place)
    size = sum(path.stat().st_size for path in place.iterdir())
    items, features = len(set(index.instance_ids.tolist())), index.embeddings.shape[1]
    labels = ", ".join(f"{task} {index.label_space.num_labels(task)}" for task in index.label_space)
    for name, value in (
        ("system", index.name),
        ("photographs", str(len(index))),
        ("items", str(items)),
        ("labels", labels),
        ("features", str(features)),
        ("megabytes", f"{size / 1e6:.1f}"),
    ):
        typer.echo(f"{name:12} {value}")


@index_app.command("add")
def index_add(
    photos: Annotated[Path, typer.Argument(help="A folder; all files below it that are photographs are added.")],
    model: Model = "ensemble",
    folder: IndexFolder = None,
) -> None:
    """Add photographs to an index, or to a new one, each as an item of its own; known paths are replaced.

    Files that cannot be read are named on standard error, and the exit code is then 1. Killed, it leaves the old index
    as it was, and the next call continues where it was. A folder that holds other files and no index is refused.
    """
    import shutil

    from tqdm import tqdm

    from vitrine.inference.stream import predict_stream
    from vitrine.retrieval.index import Index, stored_files
    from vitrine.retrieval.queries import read_synonyms

    place = folder or Path("index") / model
    if not photos.is_dir():
        raise fail(ValueError(f"{photos}: not a folder"))
    files = sorted(path for path in photos.rglob("*") if path.is_file() and not path.name.startswith("."))
    old = Index.load(place) if stored_files(place) else None
    predictor = _load_predictor(old.name if old else model)
    synonyms = old.vocabulary.synonyms if old else read_synonyms(Path("data/synonyms.yaml"))
    finished, parts, num_faults = place / ".adding", [], 0
    with tqdm(total=len(files), unit="photo", disable=None) as bar:
        for found, faults, num in predict_stream(predictor, files, finished):
            for fault in faults:
                tqdm.write(f"Skipped {fault}", file=sys.stderr)
            num_faults += len(faults)
            if len(found):
                parts.append(Index.build(predictor.name, found, found.image_paths, synonyms))
            bar.update(num)
    if parts:
        first, *more = [old, *parts] if old else parts
        first.concat(*more).save(place)
    shutil.rmtree(finished, ignore_errors=True)
    added = sum(len(part) for part in parts)
    typer.echo(f"Added {added} photographs to {place}, skipped {num_faults} files.")
    if num_faults or not added:
        raise typer.Exit(1)


@index_app.command("remove")
def index_remove(
    paths: Annotated[list[str], typer.Argument(help="Paths as `vitrine search` shows them.")],
    model: Model = "ensemble",
    folder: IndexFolder = None,
) -> None:
    """Remove photographs from an index; the files stay."""
    from vitrine.artifacts import ArtifactError
    from vitrine.retrieval.index import Index

    place = folder or Path("index") / model
    index = Index.load(place)
    unknown = sorted(set(paths) - set(index.image_paths.tolist()))
    if unknown:
        raise ArtifactError(f"{place}: not indexed: {', '.join(unknown)}. Nothing was removed")
    if len(set(paths)) == len(index):
        raise ArtifactError(f"{place}: an index cannot be empty; delete the folder instead")
    index.drop(set(paths)).save(place)
    typer.echo(f"Removed {len(set(paths))} photographs from {place}.")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; any other than 127.0.0.1 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 7860,
) -> None:
    """Serve the web page over what `dvc repro` made. Needs the extra [app]."""
    try:
        from vitrine.app.server import serve as serve_page
    except ModuleNotFoundError as error:
        raise fail(ValueError(f"{error.name} is not installed. Install the extra: pip install -e '.[app]'")) from None
    try:
        serve_page(Path("."), host, port)
    except OSError as error:
        raise fail(error) from None


@app.command()
def gate(revision: Revision = "HEAD") -> None:
    """Compare metrics with a revision; fail if one is worse beyond noise, or gone (exit code 1)."""
    from vitrine.reporting.compare import (
        FAILURES,
        ORDER,
        count_changes,
        format_change,
        format_value,
        metric_changes,
    )

    changes = metric_changes(revision)
    key = Column("metric", no_wrap=True, min_width=max((len(change.key) for change in changes), default=0))
    table = Table(key, revision, "now", Column("change", no_wrap=True), "verdict", **PLAIN)
    for change in sorted(changes, key=lambda c: (ORDER.index(c.verdict), c.key)):
        if change.old != change.new:
            table.add_row(
                change.key,
                format_value(change, "old"),
                format_value(change, "new"),
                format_change(change),
                change.verdict,
            )
    console = Console()
    if table.rows:
        console.print(table)
    console.print(count_changes(changes))
    if any(change.verdict in FAILURES for change in changes):
        raise typer.Exit(1)


@app.command()
def summary(
    revision: Revision = "HEAD",
    out: Annotated[Path, typer.Option(help="The Markdown file to write.")] = Path("summary.md"),
    repository_url: Annotated[
        str | None, typer.Option(help="Where GitHub shows the repository; else pictures are copied beside the file.")
    ] = None,
) -> None:
    """Write what changed since a revision as Markdown, for a pull request."""
    from vitrine.reporting.compare import write_summary

    write_summary(revision, out, repository_url)
    Console().print(f"Wrote {out}", markup=False, highlight=False)


if __name__ == "__main__":
    app()
