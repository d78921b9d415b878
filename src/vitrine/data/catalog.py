"""Read labels.csv into a validated table with a row per photograph and a column per task; report all faults at once."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from vitrine.errors import VitrineError
from vitrine.labels import CLASS_TASK
from vitrine.params import Section
from vitrine.photos import PhotoError, decode_photo

SPLITS = ("train", "val", "test")
REQUIRED_COLUMNS = ("image_path", "class_label", "attributes", "instance_id")
RESERVED_TASKS = (
    *(CLASS_TASK, "row", "image_path", "split", "instance_id", "caption"),
    *("all_tasks", "epoch", "intervals", "items", "loss", "macro_f1"),
)
"""Names of columns and metrics, which tasks must not use."""

CORRECTIONS = Path("data/corrections.csv")
CORRECTION_COLUMNS = ("dataset", "image_path", "task", "label")


class CatalogError(VitrineError):
    """A dataset breaks the data contract. `faults` holds one message per fault."""

    def __init__(self, place: Path, faults: list[str]) -> None:
        self.faults = faults
        number = f"{len(faults)} fault" + ("s" if len(faults) > 1 else "")
        lines = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(f"{place}: {number}. Nothing was written. See data/README.md for the contract.\n{lines}")


class DataParams(Section):
    """Where the dataset is and which of its attributes are tasks."""

    path: Annotated[str, Field(min_length=1)]
    attributes: list[str]
    aliases: dict[str, dict[str, str]]
    masked_labels: dict[str, list[str]]

    @property
    def tasks(self) -> list[str]:
        return [CLASS_TASK, *self.attributes]


def read_catalog(folder: Path, params: DataParams) -> pd.DataFrame:
    """Read and validate labels.csv, except for the photographs and for what depends on the split.

    Returns:
        image_path, split (absent if the file has none), instance_id, caption, and a column per task with its labels
        after aliases, None where missing or masked. The index holds the line numbers of the file.

    Raises:
        CatalogError: the file breaks the contract; lists all faults by line and column.
    """
    path = folder / "labels.csv"
    raw = read_table(path)
    faults = _params_faults(params)
    missing = column_faults(raw)
    if missing:
        raise CatalogError(path, [*faults, *missing])
    faults += _schema_faults(_schema(folder, "split" in raw.columns), raw)

    parsed = [parse_attributes(text) for text in raw["attributes"]]
    table = pd.DataFrame(index=raw.index)
    for column in ("image_path", "split", "instance_id"):
        if column in raw.columns:
            table[column] = raw[column]
    table["caption"] = raw["caption"] if "caption" in raw.columns else ""
    for task in params.tasks:
        labels = raw["class_label"] if task == CLASS_TASK else [attributes.get(task) for attributes in parsed]
        table[task] = pd.Series([_clean(label, task, params) for label in labels], index=raw.index, dtype="object")
        if task != CLASS_TASK and all(task not in attributes for attributes in parsed):
            known = sorted({key for attributes in parsed for key in attributes})
            faults.append(
                f"column attributes: no row has '{task}' (data.attributes); found {', '.join(known) or 'none'}"
            )
    if faults:
        raise CatalogError(path, faults)
    return table


def read_table(path: Path, allow_empty: bool = False) -> pd.DataFrame:
    """Read all fields as stripped text; the index is the line where each row starts (the header is line 1)."""
    if not path.is_file():
        advice = (
            "write its header: " + ",".join(CORRECTION_COLUMNS)
            if allow_empty
            else "set data.path to a folder that contains labels.csv and its images"
        )
        raise CatalogError(path, [f"not found; {advice}"])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogError(path, [f"not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    # StringIO splits at line breaks only; str.splitlines also splits at characters such as U+2028 in a caption.
    reader = csv.reader(io.StringIO(text), strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, [field.strip() for field in row]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CatalogError(path, [f"line {line}: the row that starts here is not valid CSV ({error})"]) from None
    if len(rows) < (1 if allow_empty else 2):
        raise CatalogError(path, ["contains no photographs; expected a header and one line per photograph"])
    header = rows[0][1]
    for separator in (";", "\t", "|"):
        if len(header) == 1 and separator in header[0]:
            raise CatalogError(path, [f"line 1: fields are separated by {separator!r}; save the table with commas"])
    faults = [f"line 1: duplicate column '{name}'" for name in sorted({n for n in header if header.count(n) > 1})]
    faults += [
        f"line {line}: {len(row)} fields, but the header has {len(header)}"
        for line, row in rows[1:]
        if len(row) != len(header)
    ]
    if faults:
        raise CatalogError(path, faults)
    return pd.DataFrame(
        [row for _, row in rows[1:]], columns=header, index=[line for line, _ in rows[1:]], dtype="object"
    )


def column_faults(raw: pd.DataFrame) -> list[str]:
    """Report the required columns that are missing from a table, if any."""
    missing = [column for column in REQUIRED_COLUMNS if column not in raw.columns]
    return [f"line 1: column missing: {', '.join(missing)}; found {', '.join(raw.columns)}"] if missing else []


def _schema(folder: Path, has_split: bool) -> pa.DataFrameSchema:
    def check(test: Any, message: str) -> pa.Check:
        return pa.Check(test, element_wise=True, error=message)

    filled = check(bool, "is empty")
    columns = {
        "image_path": pa.Column(
            object,
            [
                filled,
                check(
                    lambda value: _is_inside(folder, value),
                    "is not inside the dataset's folder; use a relative path with /",
                ),
                pa.Check(lambda column: ~column.duplicated(keep=False), error="is listed more than once"),
            ],
        ),
        "class_label": pa.Column(object, filled),
        "attributes": pa.Column(object, check(_is_well_formed, "is not key:value;key:value with unique keys")),
        "instance_id": pa.Column(object, filled),
    }
    if has_split:
        columns["split"] = pa.Column(object, check(lambda value: value in SPLITS, f"is not one of {', '.join(SPLITS)}"))
    return pa.DataFrameSchema(columns, strict=False)


def _schema_faults(schema: pa.DataFrameSchema, table: pd.DataFrame) -> list[str]:
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        faults = sorted(
            {
                (int(row.index), str(row.column), str(row.check), str(row.failure_case))
                for row in cases.itertuples(index=False)
            }
        )
        return [f"line {line}, column {column}: '{value}' {message}" for line, column, message, value in faults]
    return []


def parse_attributes(text: str) -> dict[str, str]:
    """Parse `key:value;key:value`; skip malformed parts, which the schema reports.

    An empty value or an empty text means that the label is missing.
    """
    pairs = (part.split(":", 1) for part in text.split(";") if ":" in part)
    return {key.strip(): value.strip() for key, value in pairs if value.strip()}


def _is_well_formed(text: str) -> bool:
    parts = [part for part in text.split(";") if part.strip()]
    keys = [part.split(":", 1)[0].strip() for part in parts]
    return all(part.count(":") == 1 for part in parts) and all(keys) and len(set(keys)) == len(keys)


def _is_inside(folder: Path, text: str) -> bool:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or "\x00" in text or ":" in text.split("/")[0]:
        return False
    return (folder / text).resolve().is_relative_to(folder.resolve())


def _params_faults(params: DataParams) -> list[str]:
    faults = [
        f"data.attributes: '{name}' is reserved and cannot be a task"
        for name in params.attributes
        if name in RESERVED_TASKS
    ]
    faults += [
        f"data.attributes: duplicate '{name}'"
        for name in sorted({n for n in params.attributes if params.attributes.count(n) > 1})
    ]
    for key, named in (("aliases", params.aliases), ("masked_labels", params.masked_labels)):
        faults += [
            f"data.{key}: '{task}' is not a task; expected one of {', '.join(params.tasks)}"
            for task in named
            if task not in params.tasks
        ]
    return faults


def _clean(label: str | None, task: str, params: DataParams) -> str | None:
    """Apply aliases, then masks, to a label; None means missing."""
    label = params.aliases.get(task, {}).get(label, label) if label else None
    return None if label in params.masked_labels.get(task, []) else label


def check_table(path: Path, table: pd.DataFrame, tasks: Iterable[str]) -> None:
    """Check that every split has photographs, items are consistent, and every task can be learned and evaluated.

    Raises:
        CatalogError: a check fails; lists all faults.
    """
    faults = [f"split '{split}' has no photographs" for split in SPLITS if not (table["split"] == split).any()]
    faults += _item_faults(table) + _spelling_faults(table, "instance_id", "use the same spelling")
    for task in tasks:
        faults += _spelling_faults(table, task, "merge them in data.aliases") + _task_faults(table, task)
    if faults:
        raise CatalogError(path, faults)


def _item_faults(table: pd.DataFrame) -> list[str]:
    items = table.groupby("instance_id")
    distinct = items[["split", CLASS_TASK]].nunique()
    faults = [
        f"item '{item}' is in several splits: {', '.join(sorted(items.get_group(item)['split'].unique()))}"
        for item in distinct.index[distinct["split"] > 1]
    ]
    for item in distinct.index[distinct[CLASS_TASK] > 1]:
        groups = items.get_group(item).groupby(CLASS_TASK)
        named = ", ".join(f"'{label}' ({_lines(rows)})" for label, rows in groups)
        faults.append(f"item '{item}' has several classes: {named}; correct class_label or instance_id")
    return faults


def _spelling_faults(table: pd.DataFrame, column: str, advice: str) -> list[str]:
    """Find values that differ only in case."""
    spellings = table[column].dropna().drop_duplicates()
    faults = []
    for _, variants in spellings.groupby(spellings.str.casefold()):
        if len(variants) > 1:
            names = " and ".join(f"'{name}' (line {line})" for line, name in sorted(variants.items()))
            faults.append(f"{column} {names} differ only in case: {advice}")
    return faults


def _task_faults(table: pd.DataFrame, task: str) -> list[str]:
    removal = "" if task == CLASS_TASK else ", or remove it from data.attributes"
    seen = set(table.loc[table["split"] == "train", task].dropna())
    if len(seen) < 2:
        found = f"only the label '{seen.pop()}'" if seen else "no label"
        needed = "but training needs at least two; add photographs with other labels"
        return [f"{task}: train has {found}, {needed}{removal}"]
    labeled_splits = set(table.loc[table[task].notna(), "split"])
    faults = [
        f"{task}: no photograph in {split} has a label, so it cannot be evaluated; add labels{removal}"
        for split in ("val", "test")
        if split in set(table["split"]) - labeled_splits
    ]
    return faults + [
        f"{task} '{label}' does not occur in train ({_lines(rows)}): move an item with it to train, add an alias in "
        "data.aliases, or list it in data.masked_labels"
        for label, rows in table.groupby(task)
        if label not in seen
    ]


def _lines(rows: pd.DataFrame) -> str:
    """Format the line numbers of the first rows: "line 2", "lines 2, 5"."""
    shown = ", ".join(str(line) for line in rows.index[:5]) + (", ..." if len(rows) > 5 else "")
    return f"line{'s' if len(rows) > 1 else ''} {shown}"


def decode_photos(folder: Path, table: pd.DataFrame, size_px: int, max_megapixels: float) -> NDArray[np.uint8]:
    """Decode all photographs of a table, with a progress bar.

    Shape:
        returns: (photos, size_px, size_px, channels)
    Raises:
        CatalogError: files are unusable; lists all of them by line.
    """
    photos = np.zeros((len(table), size_px, size_px, 3), dtype=np.uint8)

    def decode(row: int) -> str | None:
        name = str(table["image_path"].iloc[row])
        try:
            photos[row] = decode_photo(folder / name, size_px, max_megapixels)
        except PhotoError as error:
            reason = str(error).removeprefix(str(folder / name) + ": ")
            return f"line {table.index[row]}, column image_path: '{name}' {reason}"
        return None

    with ThreadPoolExecutor() as pool:
        results = list(
            tqdm(pool.map(decode, range(len(table))), total=len(table), desc="decode", unit="photo", disable=None)
        )
    faults = [fault for fault in results if fault]
    if faults:
        raise CatalogError(folder / "labels.csv", faults)
    return photos


def read_corrections(path: Path) -> pd.DataFrame:
    """Read labels that replace those of labels.csv: one per line, for any dataset; later lines win.

    Raises:
        CatalogError: the file is missing or malformed.
    """
    table = read_table(path, allow_empty=True)
    if tuple(table.columns) != CORRECTION_COLUMNS:
        raise CatalogError(path, [f"line 1: expected {','.join(CORRECTION_COLUMNS)}; found {','.join(table.columns)}"])
    return table


def dataset_name(root: Path, path: str) -> str:
    """Return the name of a dataset in corrections: its path relative to the project's root, in normal form."""
    return Path(os.path.relpath(root / path, root)).as_posix()


def apply_corrections(root: Path, table: pd.DataFrame, params: DataParams) -> pd.DataFrame:
    """Return the table with corrected labels from data/corrections.csv, after aliases and masks.

    Corrections of other datasets are ignored if the dataset exists: a folder with labels.csv, with the dvc.yaml that
    creates it, or with its .dvc file next to it.

    Args:
        root: the project's root.
    Raises:
        CatalogError: the file is missing or malformed, or a correction matches no dataset, photograph or task.
    """
    corrected, faults = table.copy(), []
    rows = {name: line for line, name in table["image_path"].items()}
    current = dataset_name(root, params.path)
    for line, fields in read_corrections(root / CORRECTIONS).iterrows():
        dataset, name, task, label = dataset_name(root, fields["dataset"]), *fields[1:]
        known = (root / place for place in (f"{dataset}/labels.csv", f"{dataset}/dvc.yaml", f"{dataset}.dvc"))
        empty = [column for column in CORRECTION_COLUMNS if not fields[column]]
        if empty:
            faults.append(f"line {line}: {', '.join(empty)} empty")
        elif dataset != current:
            if not any(file.is_file() for file in known):
                faults.append(f"line {line}, column dataset: '{dataset}' is not a dataset; data.path is {current}")
        elif name not in rows:
            faults.append(f"line {line}, column image_path: '{name}' is not in {current}/labels.csv")
        elif task not in params.tasks:
            faults.append(f"line {line}, column task: '{task}' is not one of {', '.join(params.tasks)}")
        else:
            corrected.loc[rows[name], task] = _clean(label, task, params)
    if faults:
        raise CatalogError(root / CORRECTIONS, faults)
    return corrected


def missing_labels(table: pd.DataFrame, tasks: Iterable[str]) -> Mapping[str, int]:
    """Count the photographs without a label, per task."""
    return {task: int(table[task].isna().sum()) for task in tasks}
