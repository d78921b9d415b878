"""A dataset that keeps the contract is read as it is; every breach is named, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitrine.catalog import CatalogError, DataParams, check_splits, decode_photos, parse_attributes, read_catalog


def params(**changes: Any) -> DataParams:
    values = {"path": "data", "attributes": ["color", "material"], "aliases": {}, "masked_labels": {}}
    return DataParams(**{**values, **changes})


def faults_of(folder: Path, **changes: Any) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        read_catalog(folder, params(**changes))
    assert str(folder / "labels.csv") in str(caught.value)
    return caught.value.faults


def test_a_good_dataset_is_read_as_it_is(dataset: Any) -> None:
    folder, rows, _ = dataset
    table = read_catalog(folder, params())
    assert list(table.columns) == ["image_path", "split", "instance_id", "caption", "class", "color", "material"]
    assert len(table) == len(rows) == 32
    assert list(table.index[:2]) == [2, 3]
    assert table.iloc[0].to_dict() == {
        "image_path": "images/000.png", "split": "train", "instance_id": "tall_bottle-blue-train-0",
        "caption": "", "class": "tall_bottle", "color": "blue", "material": "glass",
    }  # fmt: skip
    check_splits(folder, table, params().tasks)
    assert decode_photos(folder, table, 16, 1.0).shape == (32, 16, 16, 3)


def test_unknown_columns_captions_and_other_attributes_are_fine(dataset: Any) -> None:
    folder, rows, write = dataset
    write([{**row, "attributes": row["attributes"] + ";size:small", "price": "3", "caption": "a, b"} for row in rows])
    table = read_catalog(folder, params(attributes=["size"]))
    assert list(table.columns)[-2:] == ["class", "size"]
    assert set(table["size"]) == {"small"}
    assert table["caption"].iloc[0] == "a, b"


def test_aliases_join_labels_and_masked_ones_are_missing(dataset: Any) -> None:
    folder, _, _ = dataset
    table = read_catalog(folder, params(aliases={"color": {"red": "scarlet"}}, masked_labels={"material": ["soap"]}))
    assert set(table["color"]) == {"blue", "scarlet"}
    assert table.loc[table["class"] == "soap_bar", "material"].isna().all()


def test_a_missing_attribute_is_no_fault(dataset: Any) -> None:
    folder, rows, write = dataset
    rows[0]["attributes"], rows[1]["attributes"] = "material:glass", "color:;material:glass"
    write(rows)
    table = read_catalog(folder, params())
    assert list(table["color"].isna()[:3]) == [True, True, False]


def test_all_faults_are_reported_at_once(dataset: Any) -> None:
    folder, rows, write = dataset
    rows[0]["class_label"] = " "
    rows[1]["attributes"] = "color=blue"
    rows[2]["attributes"] = "color:blue;color:red"
    rows[3]["split"] = "dev"
    rows[4]["image_path"] = "../secret.png"
    rows[5]["image_path"] = "/etc/passwd"
    rows[6]["image_path"] = rows[7]["image_path"]
    rows[8]["instance_id"] = ""
    rows[9]["image_path"] = "images\\009.png"
    write(rows)
    faults = faults_of(folder)
    expected = [
        ("line 2, column class_label", "is empty"),
        ("line 3, column attributes: 'color=blue'", "key:value"),
        ("line 4, column attributes", "every key once"),
        ("line 5, column split: 'dev'", "none of train, val, test"),
        ("line 6, column image_path: '../secret.png'", "leaves the dataset's folder"),
        ("line 7, column image_path: '/etc/passwd'", "leaves the dataset's folder"),
        ("line 8, column image_path", "more than once"),
        ("line 9, column image_path", "more than once"),
        ("line 10, column instance_id", "is empty"),
        ("line 11, column image_path", "leaves the dataset's folder"),
    ]
    assert len(faults) == len(expected)
    for start, reason in expected:
        assert any(fault.startswith(start) and reason in fault for fault in faults), (start, faults)


def test_a_link_out_of_the_folder_is_refused(dataset: Any) -> None:
    folder, rows, write = dataset
    Image.new("RGB", (24, 24)).save(folder.parent / "outside.png")
    (folder / "images" / "link.png").symlink_to(folder.parent / "outside.png")
    rows[0]["image_path"] = "images/link.png"
    write(rows)
    assert "leaves the dataset's folder" in faults_of(folder)[0]


def test_every_broken_photograph_is_named(dataset: Any) -> None:
    folder, rows, _ = dataset
    table = read_catalog(folder, params())
    (folder / rows[0]["image_path"]).unlink()
    (folder / rows[1]["image_path"]).write_bytes(b"")
    (folder / rows[2]["image_path"]).write_bytes(b"nonsense")
    Image.new("L", (2000, 2000)).save(folder / rows[3]["image_path"])
    with pytest.raises(CatalogError) as caught:
        decode_photos(folder, table, 16, 1.0)
    reasons = ["not found", "0 bytes", "not an image", "larger than the limit"]
    assert len(caught.value.faults) == 4
    for line, (fault, reason) in enumerate(zip(caught.value.faults, reasons, strict=True), start=2):
        assert fault.startswith(f"line {line}, column image_path: 'images/")
        assert reason in fault


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no photographs"),
        (b"image_path,class_label,attributes,split,instance_id\n", "holds no photographs"),
        (b"image_path,split\na.png,train\n", "column missing: class_label, attributes, instance_id"),
        (b"image_path,image_path,class_label,attributes,instance_id\n1,2,3,4,5\n", "'image_path' stands twice"),
        (b"image_path,class_label,attributes,instance_id\na.png,cup\n", "line 2: 2 fields where the header has 4"),
        (b"image_path,class_label\n\xff\xfe,cup\n", "not UTF-8"),
        (b'image_path,class_label\n"a.png,cup\n', "not CSV"),
    ],
)
def test_a_file_that_is_no_table_is_one_clear_fault(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    assert any(reason in fault for fault in faults_of(tmp_path))


def test_no_file_is_one_clear_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path)[0].startswith("not found")


def test_params_that_do_not_fit_the_data_are_faults(dataset: Any) -> None:
    folder, _, _ = dataset
    assert "no row has 'weight'" in faults_of(folder, attributes=["color", "weight"])[0]
    assert "'taste' is no task" in faults_of(folder, aliases={"taste": {"a": "b"}})[0]
    assert "'taste' is no task" in faults_of(folder, masked_labels={"taste": ["a"]})[0]
    assert "cannot name a task" in faults_of(folder, attributes=["split"])[0]
    assert "stands twice" in faults_of(folder, attributes=["color", "color"])[0]


def test_splits_that_leak_or_cannot_be_learned_are_faults(dataset: Any) -> None:
    folder, rows, write = dataset
    rows[1]["split"] = "test"  # the second view of the first item
    for row in rows:
        if row["split"] == "val":
            row["split"] = "test"
        if row["split"] == "test" and "red" in row["attributes"] and row["class_label"] == "soap_bar":
            row["attributes"] = "color:gold;material:soap"
    write(rows)
    with pytest.raises(CatalogError) as caught:
        check_splits(folder / "labels.csv", read_catalog(folder, params()), params().tasks)
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 3
    assert "split 'val' has no photographs" in text
    assert "item 'tall_bottle-blue-train-0' is in several splits: test, train" in text
    assert "color 'gold' is never seen in train (line 30" in text
    assert "data.masked_labels" in text
    masked = read_catalog(folder, params(masked_labels={"color": ["gold"]}))
    with pytest.raises(CatalogError) as caught:
        check_splits(folder / "labels.csv", masked, params().tasks)
    assert "gold" not in str(caught.value)


def test_labels_that_look_like_numbers_or_nothing_stay_text(dataset: Any) -> None:
    folder, rows, write = dataset
    write([{**row, "class_label": {"tall_bottle": "007", "soap_bar": "NA"}[row["class_label"]]} for row in rows])
    assert set(read_catalog(folder, params())["class"]) == {"007", "NA"}


@given(st.dictionaries(st.text("abc_", min_size=1), st.text("xyz -", min_size=1).filter(str.strip), max_size=5))
def test_attributes_survive_writing_and_parsing(attributes: dict[str, str]) -> None:
    text = ";".join(f"{key}:{value}" for key, value in attributes.items())
    assert parse_attributes(text) == {key: value.strip() for key, value in attributes.items()}


def test_order_of_rows_does_not_matter(dataset: Any) -> None:
    folder, rows, write = dataset
    before = read_catalog(folder, params()).set_index("image_path").sort_index()
    write([rows[row] for row in np.random.default_rng(0).permutation(len(rows))])
    after = read_catalog(folder, params()).set_index("image_path").sort_index()
    pd.testing.assert_frame_equal(before, after)
