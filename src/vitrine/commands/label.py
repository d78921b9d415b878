"""`vitrine label`: choose photographs to label next, and add labels to the dataset."""

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
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Number of items to choose.")] = 20,
    out: Annotated[Path, typer.Option(help="The CSV file to write, in which to fill in labels.")] = Path("queue.csv"),
    model: Model = "ensemble",
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Choose photographs of INDEX to label next, and write them to a table to fill in.

    Typical items are chosen while there are fewer than two labeled items per class, then those that the model is least
    certain about. Create INDEX with `vitrine index add`, and rebuild it after training.
    """
    import numpy as np

    from vitrine.data.catalog import CatalogError, DataParams
    from vitrine.data.labeling import QueuedPhoto, dataset_path, write_queue
    from vitrine.evaluation.selection import item_means, margins, next_items, unit
    from vitrine.inference.wording import certainty_of, headline
    from vitrine.labels import CLASS_TASK, read_photo_table
    from vitrine.params import read_section
    from vitrine.retrieval.index import Index

    pool, known = Index.load(index_folder(unlabeled, model)), Index.load(Path("index") / model)
    if (pool.name, pool.label_space) != (known.name, known.label_space):
        raise CatalogError(unlabeled, [f"was built by {pool.name} for other labels; rebuild it"])
    labels = read_photo_table(Path("data/splits/photos.csv")).set_index("image_path")
    files = {path: Path(path) for path in pool.image_paths.tolist()}
    added = {path for path, file in files.items() if file.is_file() and dataset_path(file) in labels.index}
    if len(added) == len(pool):
        raise CatalogError(unlabeled, ["all of its photographs are labeled"])
    pool = pool.drop(added)
    names, items = np.unique(pool.instance_ids, return_inverse=True)
    old = np.array([path in labels.index for path in known.image_paths.tolist()])
    old_items = np.unique(known.instance_ids[old], return_inverse=True)[1]
    features = unit(np.concatenate([item_means(known.embeddings[old], old_items), item_means(pool.embeddings, items)]))
    is_labeled = np.arange(len(features)) < len(features) - len(names)
    probs = {
        task: np.stack([pool.label_probs(task, code) for code in range(len(task_labels))], axis=1)
        for task, task_labels in pool.label_space.labels.items()
    }
    all_margins = np.concatenate([np.zeros(int(is_labeled.sum())), margins(probs, items)])
    num_classes = pool.label_space.num_labels(CLASS_TASK)
    chosen = [row - int(is_labeled.sum()) for row in next_items(features, all_margins, is_labeled, num_classes, num, 0)]

    photos = []
    for item in chosen:
        for row in np.flatnonzero(items == item):
            tasks = {
                task: {
                    "certainty": certainty_of(float(values[row].max()), None),
                    "labels": [{"label": pool.label_space.labels[task][values[row].argmax()]}],
                }
                for task, values in probs.items()
            }
            path = str(pool.image_paths[row])
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
    queue: Annotated[Path, typer.Argument(help="A CSV file from `vitrine label next`, with labels filled in.")],
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Copy photographs that have a class into the dataset, and add them to its labels.csv as training data.

    Rows without a class are skipped. The exit code is 1 if no row has a class.
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
