"""Start a dataset: write labels.csv from class folders, or describe an existing table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from vitrine.artifacts import write_csv
from vitrine.data.catalog import (
    RESERVED_TASKS,
    SPLITS,
    CatalogError,
    DataParams,
    column_faults,
    parse_attributes,
    read_catalog,
    read_table,
)
from vitrine.data.splits import perceptual_hash, similar_pairs
from vitrine.photos import PhotoError, decode_photo

HASHED_SIZE_PX = 64
"""Side to which photographs are decoded for hashing; a perceptual hash uses 32."""

MAX_PHOTOS_PER_ITEM = 24
"""A prefix shared by more files on average identifies a camera or a class, such as IMG_, rather than an item."""

MAX_LABELS = 40
"""An attribute with more labels, such as a serial number, is not proposed as a task."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of files that are treated as photographs, in lower case."""

VIEW = re.compile(r"[ _.-]*(?:\(\d+\)|\d+|(?:view|front|back|side|top|left|right|bottom)[ _-]?\d*)$", re.IGNORECASE)
"""Suffix of a file name that distinguishes views of one item."""

CAMERA = re.compile(r"(?:img|dsc[nf]?|pxl|dcim|image|photo|picture|p|whatsapp image.*|screenshot.*)?", re.IGNORECASE)
"""Prefixes of file names from cameras and phones, which do not identify an item."""


@dataclass(frozen=True)
class Guess:
    """How the items of a new table were inferred.

    Attributes:
        named_classes: classes whose items come from prefixes of file names
        joined: pairs of photographs assigned to one item because they look alike
        unreadable: skipped files, each with the reason
    """

    named_classes: tuple[str, ...]
    joined: tuple[tuple[str, str], ...]
    unreadable: tuple[str, ...]


def table_from_folders(folder: Path, max_megapixels: float, near_duplicate_bits: int) -> tuple[pd.DataFrame, Guess]:
    """Build the table of labels.csv from images/CLASS/*.jpg, or from images/train/CLASS/*.jpg, val/... and test/...

    Returns:
        image_path, class_label, attributes (empty), split (only if there are folders for it), instance_id
    Raises:
        CatalogError: there are no photographs in class folders.
    """
    images = folder / "images"
    if not images.is_dir():
        advice = f"mkdir new && mv {folder} new/images && mv new {folder}"
        raise CatalogError(
            folder,
            [f"contains no folder images; expected images/CLASS/*.jpg. If the class folders are in it: {advice}"],
        )
    files = sorted(path.relative_to(images) for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    has_splits = bool(files) and all(len(path.parts) > 2 and _split(path) for path in files)
    depth = 1 if has_splits else 0
    stray = [path.as_posix() for path in files if len(path.parts) < depth + 2]
    if not files or stray:
        found = f"'{stray[0]}' is not in a class folder" if stray else "no photographs"
        raise CatalogError(images, [f"{found}; expected CLASS/*.jpg or train/CLASS/*.jpg"])
    hashes, unreadable = _hashes(images, files, max_megapixels)
    kept = [path for path in files if path in hashes]
    if not kept:
        raise CatalogError(images, list(unreadable))
    table = pd.DataFrame({"image_path": [(Path("images") / path).as_posix() for path in kept]}, dtype="object")
    table["class_label"] = [path.parts[depth] for path in kept]
    table["attributes"] = ""
    if has_splits:
        table["split"] = [_split(path) for path in kept]
    named = []
    groups = ["class_label", "split"] if has_splits else ["class_label"]  # folders of two splits never share an item
    items = pd.Series([path.with_suffix("").as_posix() for path in kept], dtype="object")
    for _, rows in table.groupby(groups):
        prefixes = pd.Series([_prefix(kept[row]) for row in rows.index], index=rows.index)
        num = prefixes.nunique()
        if prefixes.all() and 1 < num < len(rows) <= MAX_PHOTOS_PER_ITEM * num:
            items[rows.index] = prefixes
            named.append(str(rows["class_label"].iloc[0]))
    joined = _join(items, table[groups], similar_pairs(np.stack([hashes[path] for path in kept]), near_duplicate_bits))
    table["instance_id"] = items
    pairs = tuple((str(table["image_path"][a]), str(table["image_path"][b])) for a, b in joined)
    return table, Guess(tuple(sorted(set(named))), pairs, unreadable)


def _split(path: Path) -> str | None:
    name = {"valid": "val", "validation": "val"}.get(path.parts[0].lower(), path.parts[0].lower())
    return name if name in SPLITS else None


def _prefix(path: Path) -> str:
    """Return a file's path without its view suffix; empty if the rest does not identify an item."""
    stem = VIEW.sub("", path.stem)
    return "" if CAMERA.fullmatch(stem) else (path.parent / stem).as_posix()


def _hashes(
    folder: Path, files: Sequence[Path], max_megapixels: float
) -> tuple[dict[Path, NDArray[np.bool_]], tuple[str, ...]]:
    def hashed(path: Path) -> NDArray[np.bool_] | str:
        try:
            photo = decode_photo(folder / path, HASHED_SIZE_PX, max_megapixels)
        except PhotoError as error:
            return str(error)
        return perceptual_hash(photo)

    with ThreadPoolExecutor() as pool:
        results = list(tqdm(pool.map(hashed, files), "read", len(files), unit="photo", disable=None))
    hashes = {path: result for path, result in zip(files, results, strict=True) if not isinstance(result, str)}
    return hashes, tuple(result for result in results if isinstance(result, str))


def _join(items: pd.Series, groups: pd.DataFrame, pairs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Merge the items of similar photographs if class and split agree; modify `items` in place, return the pairs."""
    joined = []
    for first, second, _ in pairs:
        if items[first] != items[second] and tuple(groups.loc[first]) == tuple(groups.loc[second]):
            items[items == items[second]] = items[first]
            joined.append((first, second))
    return joined


def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write labels.csv. Raises: CatalogError: the file exists."""
    path = folder / "labels.csv"
    if path.exists():
        raise CatalogError(path, ["already exists and is never overwritten; move it away to create a new one"])
    write_csv(path, table)


@dataclass(frozen=True)
class Description:
    """Summary of a table.

    Attributes:
        attributes: number of photographs per label of each attribute, most common first
        proposed: attributes that can be tasks, most often labeled first
        faults: violations of the data contract
    """

    num_photos: int
    num_items: int
    classes: Mapping[str, int]
    splits: Mapping[str, int]
    attributes: Mapping[str, Mapping[str, int]]
    proposed: tuple[str, ...]
    faults: tuple[str, ...]


def describe_table(folder: Path) -> Description:
    """Read labels.csv and summarize it; nothing is written.

    Raises:
        CatalogError: the file is missing, malformed or lacks required columns.
    """
    path = folder / "labels.csv"
    raw = read_table(path)
    missing = column_faults(raw)
    if missing:
        raise CatalogError(path, missing)
    rows = [parse_attributes(text) for text in raw["attributes"]]
    names = list(dict.fromkeys(key for row in rows for key in row))
    attributes = {name: dict(Counter(row[name] for row in rows if name in row).most_common()) for name in names}
    proposed = [
        name
        for name, labels in attributes.items()
        if 1 < len(labels) <= MAX_LABELS and len(labels) < sum(labels.values()) and name not in RESERVED_TASKS
    ]
    proposed.sort(key=lambda name: (-sum(attributes[name].values()), names.index(name)))
    faults: tuple[str, ...] = ()
    try:
        read_catalog(folder, DataParams(path=str(folder), attributes=proposed, aliases={}, masked_labels={}))
    except CatalogError as error:
        faults = tuple(error.faults)
    return Description(
        num_photos=len(raw),
        num_items=raw["instance_id"].nunique(),
        classes=dict(Counter(raw["class_label"]).most_common()),
        splits=dict(Counter(raw["split"])) if "split" in raw else {},
        attributes=attributes,
        proposed=tuple(proposed),
        faults=faults,
    )
