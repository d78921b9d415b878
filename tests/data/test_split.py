"""On plausible data, the split stage works, or stops with one clear message and writes nothing."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import NUMBERS, make_dataset, write_labels

from vitrine.artifacts import read_json
from vitrine.data.catalog import CatalogError
from vitrine.data.splits import SplitError
from vitrine.labels import LabelSpace, read_photo_table

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
MINE: dict[str, Any] = {"path": "data/mine", "attributes": ["color", "material"], "aliases": {}, "masked_labels": {}}

Rows = list[dict[str, str]]
Split = Callable[..., pd.DataFrame]


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """Return a function that runs the stage on given rows and params and returns photos.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    folder = tmp_path / "data/mine"
    default_rows = make_dataset(folder)
    (tmp_path / "data/corrections.csv").write_text("dataset,image_path,task,label\n")

    def run(rows: Rows | None = None, split: dict[str, Any] | None = None, **data: Any) -> pd.DataFrame:
        write_labels(folder, default_rows if rows is None else rows)
        params = {"data": {**MINE, **data}, "split": {**PARAMS["split"], "photo_size_px": 16, **(split or {})}}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        runpy.run_path(str(ROOT / "stages/split.py"))["main"]()
        return read_photo_table(tmp_path / "data/splits/photos.csv")

    return run


def rows_of(folder: Path) -> Rows:
    return pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False).to_dict("records")


def changed_rows(**changes: Callable[[dict[str, str]], str]) -> Rows:
    """Return the rows that the fixture wrote, with some columns recomputed."""
    rows = rows_of(Path("data/mine"))
    return [{**row, **{column: change(row) for column, change in changes.items()}} for row in rows]


def first_items(num: int) -> Rows:
    """Return the rows of the first items of each class."""
    table = pd.DataFrame(rows_of(Path("data/mine")))
    number = table.groupby("class_label")["instance_id"].transform(lambda ids: pd.factorize(ids)[0])
    return table[number < num].to_dict("records")


@pytest.fixture(autouse=True)
def _dataset(split: Split) -> None:
    """Start every test from the dataset."""


@pytest.mark.parametrize("num", [3, 4, 8])
def test_few_items_per_class_are_split_as_params_say(split: Split, num: int) -> None:
    table = split(first_items(num), {"source": "seeded"}, attributes=["material"])
    assert table.groupby("split")["instance_id"].nunique().to_dict() == {
        "train": 2 * num - 2 * round(0.17 * 2 * num), "val": round(0.17 * 2 * num), "test": round(0.17 * 2 * num)
    }  # fmt: skip
    assert set(table.loc[table["split"] == "train", "class"]) == {"tall_bottle", "soap_bar"}


@pytest.mark.parametrize("num", [1, 2])
def test_too_few_items_per_class_are_one_clear_message(split: Split, num: int) -> None:
    with pytest.raises(SplitError, match=rf"split\.test_fraction: 0\.17 of {2 * num} items .* add items"):
        split(first_items(num), {"source": "seeded"}, attributes=["material"])
    assert not Path("data/splits").exists()


def test_a_masked_class_is_left_out_and_counted(split: Split) -> None:
    rows = changed_rows(class_label=lambda row: "misc" if "red" in row["attributes"] else row["class_label"])
    table = split(rows, masked_labels={"class": ["misc"]}, attributes=["material"])
    assert len(table) == 16 and set(table["class"]) == {"tall_bottle", "soap_bar"}
    counted = read_json(Path("data/splits/counts.json"))
    assert counted["photos"] == {"train": 8, "val": 4, "test": 4}
    assert counted["missing"] == {"class": 16, "material": 0}


@pytest.mark.parametrize(
    ("changes", "params", "fault"),
    [
        ({"class_label": lambda row: "cup"}, {}, "class: train has only the label 'cup'"),
        ({"attributes": lambda row: "color:red;material:wood"}, {}, "color: train has only the label 'red'"),
        ({}, {"masked_labels": {"color": ["red", "blue"]}}, "color: train has no label"),
        (
            {"class_label": lambda row: "cup" if row["image_path"] == "images/000.png" else row["class_label"]},
            {},
            r"item 'tall_bottle-blue-train-0' has several classes: 'cup' \(line 2\), 'tall_bottle' \(line 3\)",
        ),
    ],
)
@pytest.mark.parametrize("source", ["column", "seeded"])
def test_unlearnable_data_is_one_clear_message(
    split: Split, changes: Any, params: dict[str, Any], fault: str, source: str
) -> None:
    with pytest.raises(CatalogError, match=fault):
        split(changed_rows(**changes), {"source": source}, **params)
    assert not Path("data/splits").exists()


def test_a_task_without_labels_in_train_is_one_clear_message(split: Split) -> None:
    rows = changed_rows(attributes=lambda row: row["attributes"] if row["split"] != "train" else "material:wood")
    with pytest.raises(CatalogError, match="color: train has no label"):
        split(rows, attributes=["color"])


@pytest.mark.parametrize(
    ("source", "fault"), [("column", "split 'train' has no photographs"), ("seeded", r"split\.test_fraction.* 0 items")]
)
def test_only_masked_classes_are_one_clear_message(split: Split, source: str, fault: str) -> None:
    with pytest.raises((CatalogError, SplitError), match=fault):
        split(None, {"source": source}, masked_labels={"class": ["soap_bar", "tall_bottle"]})


def test_a_correction_fixes_an_item_with_two_classes(split: Split) -> None:
    rows = changed_rows(class_label=lambda row: "cup" if row["image_path"] == "images/000.png" else row["class_label"])
    with Path("data/corrections.csv").open("a", encoding="utf-8") as file:
        file.write("data/mine,images/000.png,class,tall_bottle\n")
    assert split(rows, path="./data/mine/")["class"].iloc[0] == "tall_bottle"


def test_labels_and_ids_that_look_like_numbers_are_unchanged(split: Split, tmp_path: Path) -> None:
    rows = make_dataset(tmp_path / "data/numbers", numbers=True)
    table = split(path="data/numbers")
    assert table["class"].tolist() == [row["class_label"] for row in rows]
    assert table["instance_id"].tolist() == [row["instance_id"] for row in rows]
    assert table["instance_id"].nunique() == 16
    space = LabelSpace.from_json(read_json(Path("data/splits/label_space.json")))
    assert sorted(label for labels in space.labels.values() for label in labels) == sorted(NUMBERS.values())
    assert all((codes >= 0).all() for codes in space.encode(table).values())
