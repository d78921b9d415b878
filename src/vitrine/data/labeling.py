"""New photographs become part of a dataset: a queue of what to label, filled in by people, goes into labels.csv."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vitrine.artifacts import write_csv
from vitrine.data.catalog import CatalogError, read_table

FIXED_COLUMNS = ("file", "instance_id", "class_label")
SUGGESTION = "suggestion"


@dataclass(frozen=True)
class QueuedPhoto:
    """A photograph to label. Attributes: suggestion: what the model says, for people to read."""

    file: Path
    instance_id: str
    suggestion: str


def dataset_path(file: Path) -> str:
    """Return the image_path that a file has, or would have, in a dataset: it is made of the file's content."""
    return f"images/{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}{file.suffix.lower()}"


def write_queue(path: Path, photos: Sequence[QueuedPhoto], attributes: Sequence[str]) -> None:
    """Write a table with empty labels to fill in; the item may be changed, too.

    Columns:
        file, instance_id, class_label, one an attribute, suggestion

    Raises:
        CatalogError: there is such a file: it may hold labels.
    """
    if path.exists():
        raise CatalogError(path, ["is there already and may hold labels; move it away or choose another name"])
    columns = [*FIXED_COLUMNS, *attributes, SUGGESTION]
    empty = [""] * (1 + len(attributes))
    rows = [[photo.file.as_posix(), photo.instance_id, *empty, photo.suggestion] for photo in photos]
    write_csv(path, pd.DataFrame(rows, columns=columns))


def add_labels(queue: Path, folder: Path, attributes: Sequence[str]) -> list[Path]:
    """Copy the photographs of a queue that have a class into a dataset, and add their rows to its labels.csv.

    Rows without a class are left for another time. A photograph gets the name of its content, so that the same file is
    never added twice. All is checked before anything is written; labels.csv is replaced last, and at once.

    Returns:
        the files that were added, as the queue names them
    Raises:
        CatalogError: the queue or labels.csv is broken, a file is missing or already there, an item has two classes, or
            the dataset is made by a pipeline.
    """
    if (folder / "dvc.yaml").exists():
        raise CatalogError(folder / "labels.csv", ["is made by the dvc.yaml beside it; use a dataset of yours"])
    asked, known = read_table(queue, allow_empty=True), read_table(folder / "labels.csv")
    missing = [column for column in (*FIXED_COLUMNS, *attributes) if column not in asked.columns]
    if missing:
        raise CatalogError(queue, [f"line 1: columns missing: {', '.join(missing)}"])
    asked = asked[asked["class_label"] != ""]
    classes = dict(zip(known["instance_id"], known["class_label"], strict=True))
    taken, rows, faults = set(known["image_path"]), [], []
    for line, fields in asked.iterrows():
        file = Path(fields["file"])
        if not file.is_file():
            faults.append(f"line {line}: {file}: not found")
            continue
        name = dataset_path(file)
        if name in taken:
            faults.append(f"line {line}: {file}: is in labels.csv already, as {name}")
        item = fields["instance_id"] or Path(name).stem
        if classes.setdefault(item, fields["class_label"]) != fields["class_label"]:
            faults.append(f"line {line}: item {item} is {fields['class_label']} here and {classes[item]} elsewhere")
        taken.add(name)
        labels = ";".join(f"{task}:{fields[task]}" for task in attributes if fields[task])
        row = {"image_path": name, "class_label": fields["class_label"], "attributes": labels, "instance_id": item}
        rows.append({**row, **({"split": "train"} if "split" in known.columns else {})})
    if faults:
        raise CatalogError(queue, faults)
    files = [Path(file) for file in asked["file"]]
    for file, row in zip(files, rows, strict=True):
        (folder / "images").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / row["image_path"])
    if rows:
        write_csv(folder / "labels.csv", pd.concat([known, pd.DataFrame(rows)], ignore_index=True).fillna(""))
    return files
