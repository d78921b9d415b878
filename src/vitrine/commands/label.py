"""`vitrine label`: which photographs to label next, and labels that people gave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrine.commands.index import index_folder
from vitrine.commands.session import APP, Model, Quiet, Verbose, counted, session

label_app = typer.Typer(help="Choose what to label next, and add labels to the dataset.", **APP)


@label_app.command("next")
def label_next(
    unlabeled: Annotated[Path, typer.Argument(metavar="INDEX", help="An index of photographs without labels.")],
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Items to choose.")] = 20,
    out: Annotated[Path, typer.Option(help="The CSV file to write and to fill in.")] = Path("queue.csv"),
    model: Model = "ensemble",
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Choose the photographs of INDEX that are worth labeling next, and write them into a table to fill in.

    Typical ones while there are fewer than two labeled items a class, then those that the model is least sure of. Make
    INDEX with `vitrine index add`, and rebuild it after training.
    """
    import numpy as np

    from vitrine.data.catalog import CatalogError, DataParams
    from vitrine.data.labeling import QueuedPhoto, dataset_path, write_queue
    from vitrine.evaluation.selection import item_means, margins, next_items, unit
    from vitrine.inference.wording import certainty_of, headline
    from vitrine.labels import CLASS_TASK, read_photo_table
    from vitrine.params import read_section
    from vitrine.retrieval.index import Index

    found, known = Index.load(index_folder(unlabeled, model)), Index.load(Path("index") / model)
    if (found.name, found.label_space) != (known.name, known.label_space):
        raise CatalogError(unlabeled, [f"was made by {found.name} for other labels; rebuild it"])
    labels = read_photo_table(Path("data/splits/photos.csv")).set_index("image_path")
    files = {path: Path(path) for path in found.image_paths.tolist()}
    added = {path for path, file in files.items() if file.is_file() and dataset_path(file) in labels.index}
    if len(added) == len(found):
        raise CatalogError(unlabeled, ["all its photographs are labeled"])
    found = found.drop(added)
    names, items = np.unique(found.instance_ids, return_inverse=True)
    old = np.array([path in labels.index for path in known.image_paths.tolist()])
    old_items = np.unique(known.instance_ids[old], return_inverse=True)[1]
    features = unit(np.concatenate([item_means(known.embeddings[old], old_items), item_means(found.embeddings, items)]))
    is_labeled = np.arange(len(features)) < len(features) - len(names)
    probs = {
        task: np.stack([found.label_probs(task, code) for code in range(len(labels_of))], axis=1)
        for task, labels_of in found.label_space.labels.items()
    }
    unsure = np.concatenate([np.zeros(int(is_labeled.sum())), margins(probs, items)])
    num_classes = found.label_space.num_labels(CLASS_TASK)
    chosen = [row - int(is_labeled.sum()) for row in next_items(features, unsure, is_labeled, num_classes, num, 0)]

    photos = []
    for item in chosen:
        for row in np.flatnonzero(items == item):
            tasks = {
                task: {
                    "certainty": certainty_of(float(values[row].max()), None),
                    "labels": [{"label": found.label_space.labels[task][values[row].argmax()]}],
                }
                for task, values in probs.items()
            }
            path = str(found.image_paths[row])
            photos.append(QueuedPhoto(files[path], str(names[item]), headline(tasks)))
    place = session().from_here(out)
    write_queue(place, photos, read_section("data", DataParams).attributes)
    if not session().quiet:
        typer.echo(
            f"Wrote {counted(len(photos), 'photograph')} of {counted(len(chosen), 'item')} to {out}. Fill in labels "
            f"(on the page: vitrine serve --queue {out}), then run: vitrine label add {out}"
        )


@label_app.command("add")
def label_add(
    queue: Annotated[Path, typer.Argument(help="A CSV file of `vitrine label next`, with labels filled in.")],
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Copy the photographs that have a class now into the dataset, and add them to its labels.csv, as training data.

    Rows without a class are left out. Exit code 1 if there is none with a class.
    """
    from vitrine.data.catalog import DataParams
    from vitrine.data.labeling import add_labels
    from vitrine.data.splits import SplitParams
    from vitrine.params import read_section

    params, largest = read_section("data", DataParams), read_section("split", SplitParams).max_megapixels
    added = add_labels(session().from_here(queue), Path(params.path), params, largest)
    if not session().quiet:
        typer.echo(f"Added {counted(len(added), 'photograph')} to {params.path}. Train with: dvc repro")
    if not added:
        raise typer.Exit(1)
