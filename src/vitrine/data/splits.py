"""Split photographs by item, and find duplicates in different splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from sklearn.model_selection import StratifiedGroupKFold

from vitrine.errors import VitrineError
from vitrine.labels import CLASS_TASK
from vitrine.params import Section
from vitrine.photos import HIGHEST_MAX_MEGAPIXELS


class SplitError(VitrineError):
    """The photographs cannot be split as requested, or the split leaks."""


class SplitParams(Section):
    """How photographs are split and decoded."""

    source: Literal["column", "seeded"]
    seed: Annotated[int, Field(ge=0)]
    val_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    photo_size_px: Annotated[int, Field(ge=16, le=1024)]
    max_megapixels: Annotated[float, Field(gt=0, le=HIGHEST_MAX_MEGAPIXELS)]
    near_duplicate_bits: Annotated[int, Field(ge=0, lt=32)]


def assign_folds(table: pd.DataFrame, num_folds: int, seed: int) -> NDArray[np.int64]:
    """Assign photographs to folds by item, stratified by class. Shape: (photos,).

    Raises:
        SplitError: a class has fewer items than there are folds.
    """
    fewest = table.groupby(CLASS_TASK)["instance_id"].nunique()
    if fewest.min() < num_folds:
        raise SplitError(
            f"{num_folds} folds need at least {num_folds} items of every class; '{fewest.idxmin()}' has "
            f"{fewest.min()}. Add items"
        )
    folds = np.full(len(table), -1, dtype=np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(table, table[CLASS_TASK], table["instance_id"])):
        folds[rows] = fold
    return folds


def split_items(table: pd.DataFrame, tasks: list[str], params: SplitParams) -> pd.Series:
    """Split items at random, stratified by class; the same seed gives the same split.

    The items of a label that only one or two items have go to train: elsewhere the label could not be learned.

    Returns:
        train, val or test for every row of the table.
    Raises:
        SplitError: there are too few items for the fractions.
    """
    classes = table.groupby("instance_id")[CLASS_TASK].first()
    fixed = _rare_items(table, tasks)
    split = pd.Series("train", index=classes.index)
    for number, (name, fraction) in enumerate((("test", params.test_fraction), ("val", params.val_fraction))):
        num_items = round(fraction * len(classes))
        free = classes[(split == "train") & ~classes.index.isin(fixed)]
        if not 0 < num_items <= len(free):
            raise SplitError(
                f"split.{name}_fraction: {fraction:g} of {len(classes)} items is {num_items}, and {len(free)} are free "
                f"({len(fixed)} stay in train, where every label must occur): change the fraction or add items"
            )
        split[_spread_over_classes(free, num_items, np.random.default_rng([params.seed, number]))] = name
    return table["instance_id"].map(split)


def _spread_over_classes(classes: pd.Series, num: int, rng: np.random.Generator) -> pd.Index:
    """Sample items in proportion to class sizes, to within one item: evenly spaced draws from a random start.

    Source:
        systematic sampling within strata; Cochran, Sampling Techniques, chapter 8.
    """
    shuffled = classes.iloc[rng.permutation(len(classes))]
    groups = shuffled.groupby(shuffled)
    starts = rng.random(groups.ngroups)[groups.ngroup()]
    places = (groups.cumcount() + starts) / groups.transform("size")
    return places.nsmallest(num).index


def _rare_items(table: pd.DataFrame, tasks: list[str]) -> set[str]:
    """Select items to keep in train so that every label occurs there."""
    fixed: set[str] = set()
    for task in tasks:
        for _, rows in table.dropna(subset=[task]).groupby(task, sort=True):
            names = sorted(set(rows["instance_id"]))
            if len(names) <= 2:
                fixed.update(names)
            elif not fixed.intersection(names):
                fixed.add(names[0])
    return fixed


def exact_duplicates(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """List pairs of identical files in different splits; see `near_duplicates` for the columns."""
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in table["image_path"]]
    return _pairs(table, [(first, second, 0) for first, second in _equal_pairs(digests)])


def _equal_pairs(keys: list[str]) -> list[tuple[int, int]]:
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [
        (group[i], group[j]) for group in rows.values() for i in range(len(group)) for j in range(i + 1, len(group))
    ]


def perceptual_hash(photo: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the 64-bit perceptual hash of a photograph. Shape: (height, width, channels) -> (64,)."""
    return np.asarray(imagehash.phash(Image.fromarray(photo)).hash).ravel()


def similar_pairs(bits: NDArray[np.bool_], max_bits: int) -> list[tuple[int, int, int]]:
    """List pairs of rows that differ in at most `max_bits` bits, with their distance. Shape: bits: (photos, 64)."""
    pairs = []
    for row in range(len(bits)):
        # Hamming distances to all later photographs at once.
        distances = (bits[row] != bits[row + 1 :]).sum(axis=1)
        pairs += [
            (row, row + 1 + int(offset), int(distances[offset])) for offset in np.flatnonzero(distances <= max_bits)
        ]
    return pairs


def near_duplicates(photos: NDArray[np.uint8], table: pd.DataFrame, max_bits: int) -> pd.DataFrame:
    """List pairs of photographs in different splits whose perceptual hashes differ in at most `max_bits` bits.

    Shape:
        photos: (photos, height, width, channels), in the table's order
    Returns:
        image_path_a, split_a, image_path_b, split_b, distance_bits, nearest first.
    """
    pairs = similar_pairs(np.stack([perceptual_hash(photo) for photo in photos]), max_bits)
    return _pairs(table, pairs)


def _pairs(table: pd.DataFrame, pairs: list[tuple[int, int, int]]) -> pd.DataFrame:
    paths, splits = list(table["image_path"]), list(table["split"])
    rows = [(paths[a], splits[a], paths[b], splits[b], distance) for a, b, distance in pairs if splits[a] != splits[b]]
    columns = ["image_path_a", "split_a", "image_path_b", "split_b", "distance_bits"]
    return pd.DataFrame(rows, columns=columns).sort_values(["distance_bits", *columns[:4]], ignore_index=True)


def check_duplicates(exact: pd.DataFrame) -> None:
    """Check that no file is in two splits. Raises: SplitError: there are such files."""
    if len(exact):
        lines = [
            f"  {row.image_path_a} ({row.split_a}) = {row.image_path_b} ({row.split_b})" for row in exact.itertuples()
        ]
        raise SplitError(
            "the same photograph is in two splits; remove one of each pair from labels.csv, or give both the "
            "same instance_id and split:\n" + "\n".join(lines)
        )


def training_table(table: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Keep only what training may use: the photographs of train and val, by row, without paths, items or captions.

    So correcting a test label or editing a caption changes neither the file nor the models trained on it.

    Columns:
        row (position in the table), split, and one per task
    """
    numbered = table.reset_index(drop=True).rename_axis("row").reset_index()
    return numbered.loc[numbered["split"] != "test", ["row", "split", *tasks]]


def count_by_split(table: pd.DataFrame) -> pd.DataFrame:
    """Count photographs and items per class and split. Columns: class, split, photos, items."""
    groups = table.groupby([CLASS_TASK, "split"])["instance_id"]
    return groups.agg(photos="size", items="nunique").reset_index()
