"""Items stay whole, equal seeds give equal splits, and copies across splits are found."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrine.data.splits import (
    SplitError,
    SplitParams,
    check_duplicates,
    count_by_split,
    exact_duplicates,
    near_duplicates,
    split_items,
)

TASKS = ["class", "color"]


def params(**changes: Any) -> SplitParams:
    values = {"source": "seeded", "seed": 3, "val_fraction": 0.2, "test_fraction": 0.2, "photo_size_px": 16}
    return SplitParams(**{**values, "max_megapixels": 1.0, "near_duplicate_bits": 4, **changes})


def table(num_classes: int = 4, items: int = 10, views: int = 3, rare: bool = True) -> pd.DataFrame:
    rows = [
        {"image_path": f"{c}-{i}-{v}", "instance_id": f"{c}-{i}", "class": f"c{c}", "color": f"k{i % 3}"}
        for c in range(num_classes) for i in range(items) for v in range(views)
    ]  # fmt: skip
    drawn = pd.DataFrame(rows)
    if rare:
        drawn.loc[drawn["instance_id"] == "1-7", "color"] = "gold"
    return drawn


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.3), st.floats(0.1, 0.3))
def test_items_stay_whole_and_every_label_is_seen_in_train(seed: int, val: float, test: float) -> None:
    drawn = table()
    split = split_items(drawn, TASKS, params(seed=seed, val_fraction=val, test_fraction=test))
    assert split.groupby(drawn["instance_id"]).nunique().max() == 1
    assert set(split) == {"train", "val", "test"}
    for task in TASKS:
        assert set(drawn.loc[split == "train", task]) == set(drawn[task])
    shares = split.value_counts(normalize=True)
    assert abs(shares["val"] - val) < 0.12
    assert abs(shares["test"] - test) < 0.12
    per_class = pd.crosstab(drawn["class"], split, normalize="index")
    assert (per_class.max() - per_class.min()).max() < 0.35


def test_the_same_seed_gives_the_same_split_in_any_order_of_rows() -> None:
    drawn = table()
    first = split_items(drawn, TASKS, params())
    shuffled = drawn.sample(frac=1, random_state=1)
    assert split_items(shuffled, TASKS, params()).sort_index().equals(first)
    assert not split_items(drawn, TASKS, params(seed=4)).equals(first)


@pytest.mark.parametrize(
    ("num", "changes", "reason"),
    [
        (3, {}, r"test_fraction: 0\.2 of 3 items is 1, and 0 are free \(3 stay in train"),  # colors of one item each
        (2, {}, r"test_fraction: 0\.2 of 2 items is 0"),
        (10, {"test_fraction": 0.49, "val_fraction": 0.49}, r"val_fraction: 0\.49 of 10 items is 5, and 2 are free"),
        (10, {"val_fraction": 0.01}, r"val_fraction: 0\.01 of 10 items is 0"),
    ],
)
def test_too_few_items_are_an_error(num: int, changes: dict[str, float], reason: str) -> None:
    with pytest.raises(SplitError, match=rf"split\.{reason}"):
        split_items(table(1, num, 2, rare=False), TASKS, params(**changes))


def test_every_class_contributes_its_share_to_within_one_item() -> None:
    sizes = {"a": 3, "b": 20, "c": 41, "d": 100}
    rows = [{"instance_id": f"{label}{k}", "class": label} for label, size in sizes.items() for k in range(size)]
    drawn = pd.DataFrame(rows)
    chosen = [split_items(drawn, ["class"], params(seed=seed)) for seed in range(40)]
    for split in chosen:
        counts = pd.crosstab(drawn["class"], split)
        assert counts["test"].sum() == counts["val"].sum() == round(0.2 * len(drawn))
        for label, size in sizes.items():
            assert (counts.loc[label, ["test", "val"]] - 0.2 * size).abs().max() < 1.5
    rates = np.mean([split[drawn["class"] == "c"] == "test" for split in chosen], axis=0)
    assert (rates[1:] > 0).all()  # over the seeds, every item is drawn but the one that train keeps


def test_exact_copies_across_splits_are_found_and_refused(dataset: Any) -> None:
    folder, rows, _ = dataset
    drawn = pd.DataFrame(rows)
    assert exact_duplicates(folder, drawn).empty
    train, test = drawn[drawn["split"] == "train"].iloc[0], drawn[drawn["split"] == "test"].iloc[0]
    shutil.copy(folder / train["image_path"], folder / test["image_path"])
    other = drawn[drawn["split"] == "train"].iloc[1]
    shutil.copy(folder / train["image_path"], folder / other["image_path"])  # a copy within a split does not leak
    pairs = exact_duplicates(folder, drawn)
    found = {frozenset(pair) for pair in pairs[["image_path_a", "image_path_b"]].itertuples(index=False, name=None)}
    assert found == {frozenset((copy["image_path"], test["image_path"])) for copy in (train, other)}
    with pytest.raises(SplitError, match=rf"two splits.*(?s:.*){test['image_path']}"):
        check_duplicates(pairs)
    check_duplicates(pairs.iloc[:0])


def test_near_copies_across_splits_are_listed() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    photos = np.stack([np.asarray(Image.fromarray(c).resize((64, 64), Image.Resampling.BICUBIC)) for c in coarse])
    photos[3] = np.clip(photos[0].astype(int) + 6, 0, 255)  # slightly brighter: visually identical
    drawn = pd.DataFrame({"image_path": list("abcd"), "split": ["train", "val", "train", "test"]})
    pairs = near_duplicates(photos, drawn, 4)
    assert pairs[["image_path_a", "split_a", "image_path_b", "split_b"]].values.tolist() == [
        ["a", "train", "d", "test"]
    ]
    assert pairs["distance_bits"].iloc[0] <= 4
    assert near_duplicates(photos, drawn.assign(split="train"), 4).empty


def test_counts_are_of_photographs_and_of_items() -> None:
    drawn = table(2, 2, 3, rare=False).assign(split=["train"] * 9 + ["val"] * 3)
    assert count_by_split(drawn).values.tolist() == [["c0", "train", 6, 2], ["c1", "train", 3, 1], ["c1", "val", 3, 1]]
