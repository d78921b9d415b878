"""New photographs become part of a dataset: a queue of what to label, filled in by people, goes into labels.csv."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vitrine.artifacts import write_csv
from vitrine.data.catalog import CatalogError, DataParams, parse_attributes, read_table
from vitrine.labels import CLASS_TASK
from vitrine.photos import HIGHEST_MAX_MEGAPIXELS, MIN_SIDE_PX, PhotoError, decode_photo

CLASS_COLUMN, ITEM = "class_label", "instance_id"
FIXED_COLUMNS = ("file", ITEM, CLASS_COLUMN)
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


def read_queue(path: Path, attributes: Sequence[str]) -> pd.DataFrame:
    """Read a queue; the index holds the lines of the file.

    Raises:
        CatalogError: there is no such file, or it is no queue for these attributes.
    """
    if not path.is_file():
        raise CatalogError(path, ["not found; make it with: vitrine label next INDEX"])
    table = read_table(path, allow_empty=True)
    missing = [column for column in (*FIXED_COLUMNS, *attributes) if column not in table.columns]
    if missing:
        raise CatalogError(path, [f"line 1: columns missing: {', '.join(missing)}"])
    return table


def photo_fault(file: Path, max_megapixels: float) -> str | None:
    """Say why a file cannot be used as a photograph, if so."""
    try:
        decode_photo(file, MIN_SIDE_PX, max_megapixels)
    except PhotoError as error:
        return str(error).removeprefix(f"{file}: ")
    return None


def check_labels(
    asked: pd.DataFrame, folder: Path, params: DataParams, max_megapixels: float, root: Path = Path()
) -> tuple[list[dict[str, str]], list[str]]:
    """Turn rows of a queue that have a class into rows of a dataset's labels.csv.

    Args:
        asked: of `read_queue`.
        folder: of the dataset.
        root: relative paths of files begin there.

    Returns:
        the rows, and what is wrong, by line: files that are missing, no photographs or in the dataset already, items
        of two classes, labels that are masked, differ from others only in case, or cannot be written into labels.csv
    Raises:
        CatalogError: labels.csv is broken, or is made by a pipeline.
    """
    if (folder / "dvc.yaml").exists():
        raise CatalogError(folder / "labels.csv", ["is made by the dvc.yaml beside it; use a dataset of yours"])
    known = read_table(folder / "labels.csv")
    classes = dict(zip(known[ITEM], known[CLASS_COLUMN], strict=True))
    spellings = _spellings(known, params)
    taken, rows, faults = set(known["image_path"]), [], []
    for line, fields in asked[asked[CLASS_COLUMN] != ""].iterrows():
        file = root / fields["file"]
        fault = photo_fault(file, max_megapixels)
        if fault is not None:
            faults.append(f"line {line}: {fields['file']}: {fault}")
            continue
        name = dataset_path(file)
        if name in taken:
            faults.append(f"line {line}: {fields['file']}: is in labels.csv already, as {name}")
        item = fields[ITEM] or Path(name).stem
        if classes.setdefault(item, fields[CLASS_COLUMN]) != fields[CLASS_COLUMN]:
            faults.append(f"line {line}: item {item} is {fields[CLASS_COLUMN]} here and {classes[item]} elsewhere")
        taken.add(name)
        for task in params.tasks:
            column = CLASS_COLUMN if task == CLASS_TASK else task
            fault = _label_fault(task, fields[column], params, spellings) if fields[column] else None
            if fault is not None:
                faults.append(f"line {line}, column {column}: '{fields[column]}' {fault}")
        labels = ";".join(f"{task}:{fields[task]}" for task in params.attributes if fields[task])
        row = {"image_path": name, CLASS_COLUMN: fields[CLASS_COLUMN], "attributes": labels, ITEM: item}
        rows.append({**row, **({"split": "train"} if "split" in known.columns else {})})
    return rows, faults


def _spellings(known: pd.DataFrame, params: DataParams) -> dict[tuple[str, str], str]:
    """Return how a dataset writes its labels, after aliases, by task and label in small letters."""
    labels = {(CLASS_TASK, label) for label in known[CLASS_COLUMN]}
    labels |= {pair for text in known["attributes"].unique() for pair in parse_attributes(text).items()}
    written = ((task, params.aliases.get(task, {}).get(label, label)) for task, label in sorted(labels))
    return {(task, label.casefold()): label for task, label in written}


def _label_fault(task: str, label: str, params: DataParams, spellings: dict[tuple[str, str], str]) -> str | None:
    """Say why a label cannot be added, if so; note a new one."""
    meant = params.aliases.get(task, {}).get(label, label)
    if meant in params.masked_labels.get(task, []):
        return "is masked by data.masked_labels, so nothing learns it; leave it out"
    if task != CLASS_TASK and any(mark in label for mark in ":;"):
        return "has ':' or ';', which separate attributes in labels.csv"
    usual = spellings.setdefault((task, meant.casefold()), meant)
    return None if usual == meant else f"differs only in case from '{usual}'; write both alike"


def add_labels(
    queue: Path, folder: Path, params: DataParams, max_megapixels: float = HIGHEST_MAX_MEGAPIXELS
) -> list[Path]:
    """Copy the photographs of a queue that have a class into a dataset, and add their rows to its labels.csv.

    Rows without a class are left for another time. A photograph gets the name of its content, so that the same file is
    never added twice. All is checked before anything is written; labels.csv is replaced last, and at once.

    Returns:
        the files that were added, as the queue names them
    Raises:
        CatalogError: the queue or labels.csv is broken, or what `check_labels` finds wrong.
    """
    asked = read_queue(queue, params.attributes)
    rows, faults = check_labels(asked, folder, params, max_megapixels)
    if faults:
        raise CatalogError(queue, faults)
    files = [Path(file) for file in asked.loc[asked[CLASS_COLUMN] != "", "file"]]
    for file, row in zip(files, rows, strict=True):
        (folder / "images").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / row["image_path"])
    if rows:
        known = read_table(folder / "labels.csv")
        write_csv(folder / "labels.csv", pd.concat([known, pd.DataFrame(rows)], ignore_index=True).fillna(""))
    return files
