"""Align the labels.csv of any folder with a model's label space by matching task and label names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vitrine.data.catalog import CatalogError, DataParams, column_faults, parse_attributes, read_catalog, read_table
from vitrine.labels import CLASS_TASK, LabelSpace

Aliases = Mapping[str, Mapping[str, str]]
"""By task: labels of the folder, mapped to labels of the model."""


@dataclass(frozen=True)
class TaskLabels:
    """How a folder's labels match a model's in one task; all counts are of photographs.

    Attributes:
        known: with a label that the model knows
        missing: without a label
        unknown: counts by label that the model does not know, most frequent first
        renamed: labels that the folder spells differently, each with the model's label
    """

    known: int
    missing: int
    unknown: Mapping[str, int]
    renamed: Mapping[str, str]


@dataclass(frozen=True)
class AlignedTable:
    """A folder's table in a model's label space.

    Attributes:
        photos: image_path, instance_id, and a column for every task of the model; missing and unknown labels are
            None. One row per line of labels.csv
        unknown: like `photos`, but with the labels that the model does not know; None elsewhere
        labels: how the labels match, by task; only tasks that the folder has
        absent_tasks: tasks of the model that the folder has no labels for
        unused_attributes: attributes of the folder that are not tasks of the model
    """

    photos: pd.DataFrame
    unknown: pd.DataFrame
    labels: Mapping[str, TaskLabels]
    absent_tasks: tuple[str, ...]
    unused_attributes: tuple[str, ...]


def read_aligned(folder: Path, label_space: LabelSpace, aliases: Aliases) -> AlignedTable:
    """Read labels.csv from a folder in the data contract, and match its tasks and labels with a model's by name.

    Names match regardless of case, underscores and spaces, unless several labels of the model would match.

    Raises:
        CatalogError: the folder or its labels.csv is missing, or violates the contract; lists all faults by line.
    """
    path = find_table(folder)
    raw = read_table(path)
    missing = column_faults(raw)
    if missing:
        raise CatalogError(path, missing)
    attributes = list(dict.fromkeys(name for text in raw["attributes"] for name in parse_attributes(text)))
    columns = {task: match_name(task, attributes) for task in label_space if task != CLASS_TASK}
    theirs = {task: name for task, name in columns.items() if name is not None}
    table = read_catalog(
        folder,
        DataParams(path=str(folder), attributes=list(theirs.values()), aliases={}, masked_labels={}),
    )
    photos = table[["image_path", "instance_id"]].copy()
    unknown, labels = photos.copy(), {}
    for task in label_space:
        if task != CLASS_TASK and task not in theirs:
            photos[task] = unknown[task] = pd.Series(None, index=table.index, dtype="object")
            continue
        given = table[theirs.get(task, CLASS_TASK)]
        ours = {
            label: match_label(label, label_space.labels[task], aliases.get(task, {}))
            for label in given.dropna().unique()
        }
        photos[task] = _mapped(given, ours)
        unknown[task] = _mapped(given, {label: label for label, match in ours.items() if match is None})
        labels[task] = TaskLabels(
            known=int(photos[task].notna().sum()),
            missing=int(given.isna().sum()),
            unknown=dict(Counter(sorted(unknown[task].dropna())).most_common()),
            renamed={label: match for label, match in sorted(ours.items()) if match not in (None, label)},
        )
    absent = tuple(task for task in label_space if task not in labels)
    unused = tuple(name for name in attributes if name not in theirs.values())
    return AlignedTable(photos.reset_index(drop=True), unknown.reset_index(drop=True), labels, absent, unused)


def find_table(folder: Path) -> Path:
    """Return the path of a folder's labels.csv. Raises: CatalogError: there is none."""
    if not folder.is_dir():
        raise CatalogError(folder, ["not a folder; pass a folder that contains labels.csv and its images"])
    path = folder / "labels.csv"
    if not path.is_file():
        raise CatalogError(
            folder, ["contains no labels.csv; `vitrine init` creates one from folders images/CLASS/*.jpg"]
        )
    return path


def _mapped(labels: pd.Series, names: Mapping[str, str | None]) -> pd.Series:
    return pd.Series([names.get(label) if label else None for label in labels], index=labels.index, dtype="object")


def match_label(label: str, labels: Iterable[str], aliases: Mapping[str, str]) -> str | None:
    """Return the model's label that a label stands for, by name after applying aliases; None if there is none."""
    spelled = match_name(label, aliases)
    return match_name(aliases[spelled] if spelled is not None else label, labels)


def match_name(name: str, names: Iterable[str]) -> str | None:
    """Return the exact match, else the only match that ignores case, underscores and spaces."""
    names = list(names)
    if name in names:
        return name
    alike = [each for each in names if _bare(each) == _bare(name)]
    return alike[0] if len(alike) == 1 else None


def _bare(name: str) -> str:
    return re.sub(r"[\s_]+", "", name).casefold()
