"""`vitrine index`: show an index, add or remove photographs, split it into shards."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrine.commands.session import (
    APP,
    IndexFolder,
    Model,
    ProjectError,
    Quiet,
    Verbose,
    counted,
    load_predictor,
    say_more,
    session,
    skip,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitrine.labels import LabelSpace
    from vitrine.retrieval.index import Index, MatchRule

index_app = typer.Typer(help="Show an index, add or remove photographs, split it into shards.", **APP)


def index_folder(folder: Path | None, model: str) -> Path:
    """Return the folder of an index: the user's, else the one of a system that the pipeline wrote.

    Raises:
        ProjectError: the path is a file.
    """
    if folder is None:
        return Path("index") / model
    place = session().from_here(folder)
    if place.exists() and not place.is_dir():
        raise ProjectError(f"{folder}: is a file. Choose the folder of an index")
    return place


def dataset_folder() -> Path:
    """Return data.path of params.yaml, the root of photographs in the pipeline's indexes, or the project without it."""
    import yaml

    try:
        return Path(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["data"]["path"])
    except (OSError, KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError):
        return Path()


def photo_file(image_path: str, dataset: Path) -> str | None:
    """Return the path of an indexed photograph from the working folder: in the dataset, or one that was added."""
    for path in (dataset / image_path, Path(image_path)):
        with suppress(OSError):
            if path.is_file():
                return session().to_here(path)
    return None


@index_app.command("info")
def index_info(model: Model = "ensemble", folder: IndexFolder = None) -> None:
    """Print a summary of an index."""
    from vitrine.retrieval.backend import load_index
    from vitrine.retrieval.index import Index

    place = index_folder(folder, model)
    index = load_index(place)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    shards = [] if isinstance(index, Index) else [("shards", str(len(index.shards)))]
    labels = ", ".join(f"{task} {index.label_space.num_labels(task)}" for task in index.label_space)
    for name, value in (
        ("system", index.name),
        ("photographs", str(len(index))),
        *shards,
        ("items", str(index.num_items())),
        ("labels", labels),
        ("features", str(index.num_features)),
        ("megabytes", f"{size / 1e6:.1f}"),
    ):
        typer.echo(f"{name:12} {value}")


@index_app.command("add")
def index_add(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO", help="Files, folders, patterns, or - for paths on standard input."),
    ],
    model: Model = "ensemble",
    folder: IndexFolder = None,
    recursive: Annotated[bool, typer.Option("--recursive/--no-recursive", "-r", help="Include subfolders.")] = True,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Add photographs to a new or existing index, each as its own item; paths already indexed are replaced.

    Unreadable files are reported on standard error; the exit code is then 1. An interrupted run leaves the old index
    unchanged, and the next run resumes. A folder that contains other files but no index is rejected.
    """
    import shutil

    from tqdm import tqdm

    from vitrine.commands.files import find_photos
    from vitrine.inference.stream import predict_stream
    from vitrine.retrieval.backend import add_photos, load_index
    from vitrine.retrieval.index import Index
    from vitrine.retrieval.queries import read_synonyms
    from vitrine.retrieval.shards import holds_index

    place = index_folder(folder, model)
    old = load_index(place) if holds_index(place) else None
    names, faults = find_photos(photos, recursive)
    if not names and not faults:
        raise ProjectError(f"{', '.join(map(str, photos))}: no photographs found. Nothing was added")
    for name, fault in faults:
        skip(name, fault)
    num_faults, num_added, num_refused = len(faults), 0, 0
    stored = {session().in_project(name).as_posix(): name for name in names}
    if stored:
        predictor = load_predictor(old.name if old else model)
        synonyms = old.vocabulary.synonyms if old else read_synonyms(Path("data/synonyms.yaml"))
        rule = old.rule if old else pipeline_rule(predictor.name, predictor.label_space)
        say_more(f"A hit is a match if its score is at least {rule.least_score:.3f}.")

        def predicted() -> Iterator[Index]:
            nonlocal num_faults, num_added, num_refused
            with tqdm(total=len(stored), unit="photo", disable=session().quiet or None) as bar:
                for predictions, unreadable, num in predict_stream(
                    predictor, [Path(path) for path in stored], place / ".adding"
                ):
                    with tqdm.external_write_mode():
                        for path, fault in unreadable:
                            skip(stored[path], fault)
                    num_faults += len(unreadable)
                    num_added += len(predictions)
                    num_refused += predictor.num_refused(predictions)
                    if len(predictions):
                        yield Index.build(predictor.name, predictions, predictions.image_paths, synonyms, rule)
                    bar.update(num)

        add_photos(place, predicted())
    shutil.rmtree(place / ".adding", ignore_errors=True)
    with suppress(OSError):
        place.rmdir()  # a new folder that is still empty
    if not session().quiet:
        where = session().to_here(place) if folder is None else folder
        typer.echo(f"Added {counted(num_added, 'photograph')} to {where}, skipped {counted(num_faults, 'file')}.")
        if num_refused:
            verb = "looks" if num_refused == 1 else "look"
            typer.echo(f"{counted(num_refused, 'photograph')} of these {verb} like none of the classes.")
    if num_faults or not num_added:
        raise typer.Exit(1)


def pipeline_rule(name: str, label_space: LabelSpace) -> MatchRule:
    """Return the match rule of the pipeline's index of a system with these labels, or the default rule."""
    from vitrine.artifacts import ArtifactError
    from vitrine.retrieval.backend import load_index
    from vitrine.retrieval.index import MatchRule

    with suppress(ArtifactError):
        index = load_index(Path("index") / name)
        if (index.name, index.label_space) == (name, label_space):
            return index.rule
    return MatchRule()


@index_app.command("remove")
def index_remove(
    paths: Annotated[list[str], typer.Argument(help="Paths as shown by `vitrine search`.")],
    model: Model = "ensemble",
    folder: IndexFolder = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Remove photographs from an index; the files are kept."""
    from vitrine.artifacts import ArtifactError
    from vitrine.retrieval.backend import load_index, remove_photos

    place = index_folder(folder, model)
    index, roots = load_index(place), (dataset_folder(), Path())
    files = {path: os.path.abspath(session().here / path) for path in paths}
    candidates = {
        path: [path, *(Path(os.path.relpath(file, root)).as_posix() for root in roots), Path(file).as_posix()]
        for path, file in files.items()
    }
    known = {name for names in candidates.values() for name in names}.intersection(index.paths())
    chosen = {path: next((name for name in names if name in known), None) for path, names in candidates.items()}
    unknown = sorted(path for path, name in chosen.items() if name is None)
    shown = session().to_here(place) if folder is None else folder
    if unknown:
        raise ArtifactError(f"{shown}: not indexed: {', '.join(unknown)}. Nothing was removed")
    names = {name for name in chosen.values() if name is not None}
    if len(names) == len(index):
        raise ArtifactError(f"{shown}: an index cannot be empty; delete the folder instead")
    remove_photos(place, names)
    if not session().quiet:
        typer.echo(f"Removed {counted(len(names), 'photograph')} from {shown}.")


@index_app.command("compact")
def index_compact(
    model: Model = "ensemble",
    folder: IndexFolder = None,
    shard_photos: Annotated[
        int, typer.Option("--photos", min=1, help="Photographs per full shard: the most that a change rewrites.")
    ] = 1_000_000,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Split an index into shards; if it has shards, merge small neighbors and split large ones.

    Search results do not change. An interrupted run leaves the old index unchanged.
    """
    from vitrine.retrieval.backend import compact_index

    place = index_folder(folder, model)
    index = compact_index(place, shard_photos)
    if not session().quiet:
        where = session().to_here(place) if folder is None else folder
        num = counted(len(index), "photograph")
        typer.echo(f"{where}: {counted(len(index.shards), 'shard')} with {num} in total.")
