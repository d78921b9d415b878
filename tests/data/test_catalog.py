"""Valid datasets are read unchanged; all faults of an invalid one are reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitrine.data.catalog import (
    CORRECTION_COLUMNS,
    CORRECTIONS,
    CatalogError,
    DataParams,
    apply_corrections,
    check_table,
    dataset_name,
    decode_photos,
    parse_attributes,
    read_catalog,
)


def params(**changes: Any) -> DataParams:
    values = {"path": "data", "attributes": ["color", "material"], "aliases": {}, "masked_labels": {}}
    return DataParams(**{**values, **changes})


def faults_of(folder: Path, **changes: Any) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        read_catalog(folder, params(**changes))
    assert str(folder / "labels.csv") in str(caught.value)
    return caught.value.faults


def test_a_valid_dataset_is_read_unchanged(dataset: Any) -> None:
    folder, rows, _ = dataset
    table = read_catalog(folder, params())
    assert list(table.columns) == ["image_path", "split", "instance_id", "caption", "class", "color", "material"]
    assert len(table) == len(rows) == 32
    assert list(table.index[:2]) == [2, 3]
    assert table.iloc[0].to_dict() == {
        "image_path": "images/000.png", "split": "train", "instance_id": "tall_bottle-blue-train-0",
        "caption": "", "class": "tall_bottle", "color": "blue", "material": "glass",
    }  # fmt: skip
    check_table(folder, table, params().tasks)
    assert decode_photos(folder, table, 16, 1.0).shape == (32, 16, 16, 3)


def test_unknown_columns_captions_and_other_attributes_are_fine(dataset: Any) -> None:
    folder, rows, write = dataset
    write([{**row, "attributes": row["attributes"] + ";size:small", "price": "3", "caption": "a, b"} for row in rows])
    table = read_catalog(folder, params(attributes=["size"]))
    assert list(table.columns)[-2:] == ["class", "size"]
    assert set(table["size"]) == {"small"}
    assert table["caption"].iloc[0] == "a, b"


def test_aliases_merge_labels_and_masked_labels_become_missing(dataset: Any) -> None:
    folder, _, _ = dataset
    table = read_catalog(folder, params(aliases={"color": {"red": "scarlet"}}, masked_labels={"material": ["soap"]}))
    assert set(table["color"]) == {"blue", "scarlet"}
    assert table.loc[table["class"] == "soap_bar", "material"].isna().all()


def test_a_missing_attribute_is_not_a_fault(dataset: Any) -> None:
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
        ("line 4, column attributes", "unique keys"),
        ("line 5, column split: 'dev'", "is not one of train, val, test"),
        ("line 6, column image_path: '../secret.png'", "is not inside the dataset's folder"),
        ("line 7, column image_path: '/etc/passwd'", "is not inside the dataset's folder"),
        ("line 8, column image_path", "more than once"),
        ("line 9, column image_path", "more than once"),
        ("line 10, column instance_id", "is empty"),
        ("line 11, column image_path", "is not inside the dataset's folder"),
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
    assert "is not inside the dataset's folder" in faults_of(folder)[0]


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
        (b"", "contains no photographs"),
        (b"image_path,class_label,attributes,split,instance_id\n", "contains no photographs"),
        (b"image_path,split\na.png,train\n", "column missing: class_label, attributes, instance_id"),
        (b"image_path,image_path,class_label,attributes,instance_id\n1,2,3,4,5\n", "duplicate column 'image_path'"),
        (b"image_path,class_label,attributes,instance_id\na.png,cup\n", "line 2: 2 fields, but the header has 4"),
        (b"image_path,class_label\n\xff\xfe,cup\n", "not UTF-8"),
        (b'image_path,class_label\n\n"a.png,cup\nb.png,mug\n', "line 3: the row that starts here is not valid CSV"),
        (
            b"image_path;class_label;attributes;instance_id\na;cup;color:red, or so;1\n",
            "line 1: fields are separated by ';'",
        ),
        (b"image_path\tclass_label\tattributes\tinstance_id\na\tcup\tcolor:red\t1\n", r"separated by '\t'"),
        ("image_path,class_label,attributes,instance_id\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_table_is_one_clear_fault(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    (fault,) = faults_of(tmp_path)
    assert reason in fault


def test_a_missing_file_is_one_clear_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path)[0].startswith("not found")


def test_params_that_do_not_fit_the_data_are_faults(dataset: Any) -> None:
    folder, _, _ = dataset
    assert "no row has 'weight'" in faults_of(folder, attributes=["color", "weight"])[0]
    assert "'taste' is not a task" in faults_of(folder, aliases={"taste": {"a": "b"}})[0]
    assert "'taste' is not a task" in faults_of(folder, masked_labels={"taste": ["a"]})[0]
    for name in ("class", "split", "row", "all_tasks"):
        assert f"'{name}' is reserved and cannot be a task" in faults_of(folder, attributes=[name])[0]
    assert "duplicate 'color'" in faults_of(folder, attributes=["color", "color"])[0]


def table_faults(table: pd.DataFrame, tasks: tuple[str, ...] = ("class", "color")) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        check_table(Path("labels.csv"), table, tasks)
    return caught.value.faults


def learnable() -> pd.DataFrame:
    """Return four items with two views each, in two classes and two colors; lines 2 to 9."""
    items = [(label, f"{label}-{number}") for label in ("cup", "hat") for number in range(2)]
    rows = [{"instance_id": item, "class": label, "color": "red" if item.endswith("0") else "blue", "split": "train"}
            for label, item in items for _ in range(2)]  # fmt: skip
    table = pd.DataFrame(rows, index=range(2, 10), dtype="object")
    rest = pd.concat([table.assign(split=split, instance_id=split + table["instance_id"]) for split in ("val", "test")])
    return pd.concat([table, rest.set_axis(range(10, 26))])


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
        check_table(folder / "labels.csv", read_catalog(folder, params()), params().tasks)
    assert caught.value.faults == [
        "split 'val' has no photographs",
        "item 'tall_bottle-blue-train-0' is in several splits: test, train",
        "color 'gold' does not occur in train (lines 30, 31, 32, 33): move an item with it to train, add an alias in "
        "data.aliases, or list it in data.masked_labels",
    ]
    masked = read_catalog(folder, params(masked_labels={"color": ["gold"]}))
    assert len(table_faults(masked, ("class", "color", "material"))) == 2


def test_an_item_with_two_classes_is_a_fault_that_names_its_lines() -> None:
    table = learnable()
    table.loc[3, "class"] = "hat"
    assert table_faults(table) == [
        "item 'cup-0' has several classes: 'cup' (line 2), 'hat' (line 3); correct class_label or instance_id"
    ]


@pytest.mark.parametrize(
    ("task", "kept", "fault"),
    [
        (
            "color",
            "red",
            "color: train has only the label 'red', but training needs at least two; add photographs with other",
        ),
        (
            "color",
            None,
            "color: train has no label, but training needs at least two; add photographs with other labels, or",
        ),
        (
            "class",
            "cup",
            "class: train has only the label 'cup', but training needs at least two; add photographs with other labels",
        ),
    ],
)
def test_a_task_with_fewer_than_two_labels_in_train_is_a_fault(task: str, kept: str | None, fault: str) -> None:
    table = learnable()
    table[task] = table[task].where(table[task] == kept, None)
    faults = table_faults(table)
    assert len(faults) == 1 and faults[0].startswith(fault)
    only_elsewhere = learnable()
    only_elsewhere.loc[only_elsewhere["split"] == "train", task] = kept
    assert table_faults(only_elsewhere)[-1].startswith(fault)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_task_without_labels_in_val_or_test_is_a_fault(split: str) -> None:
    table = learnable()
    table.loc[table["split"] == split, "color"] = None
    (fault,) = table_faults(table)
    assert fault.startswith(f"color: no photograph in {split} has a label, so it cannot be evaluated; add labels, or")


def test_ids_and_labels_that_differ_only_in_case_are_faults_and_leading_zeros_are_not() -> None:
    table = learnable()
    check_table(Path("labels.csv"), table, ["class", "color"])
    table.loc[[4, 5], "instance_id"] = "CUP-0"
    table.loc[[4, 5], "color"] = "Red"
    assert table_faults(table) == [
        "instance_id 'cup-0' (line 2) and 'CUP-0' (line 4) differ only in case: use the same spelling",
        "color 'red' (line 2) and 'Red' (line 4) differ only in case: merge them in data.aliases",
    ]
    zeros = {"cup-0": "1", "cup-1": "01", "hat-0": "001", "hat-1": "0001"}
    check_table(Path("labels.csv"), learnable().replace({"instance_id": zeros}), ["class", "color"])


def test_spaces_around_fields_are_stripped(dataset: Any) -> None:
    folder, rows, write = dataset
    before = read_catalog(folder, params())
    write([{f" {key}": f" {value} " for key, value in row.items()} for row in rows])
    text = (folder / "labels.csv").read_text(encoding="utf-8")
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as Excel saves it
    pd.testing.assert_frame_equal(read_catalog(folder, params()), before)
    rows[1]["image_path"] = f" {rows[0]['image_path']}"
    write(rows)
    assert [fault.split(":")[0] for fault in faults_of(folder)] == [f"line {k}, column image_path" for k in (2, 3)]


def test_a_row_has_the_number_of_its_first_line_even_after_multiline_captions(dataset: Any) -> None:
    folder, rows, write = dataset
    captions = ["a\u2028b\x0bc\x0cd\x85e\x1ef", "over\nthree\nlines", "plain"]
    rows = [{**row, "caption": caption} for row, caption in zip(rows[:3], captions, strict=True)]
    write(rows)
    table = read_catalog(folder, params())
    assert list(table.index) == [2, 3, 6]
    assert table["caption"].tolist() == captions


AWKWARD = ["38", "007", "1e3", "true", "NA", "None", "nan", "inf", "null", "-0", "1_000", "0x1F", "2024-01-31"]


def test_labels_that_look_like_numbers_or_missing_values_stay_text(dataset: Any) -> None:
    folder, rows, write = dataset
    labels = [AWKWARD[number % len(AWKWARD)] for number in range(len(rows))]
    zeros = {row["instance_id"]: "0" * number + "1" for number, row in enumerate(rows)}
    attributes = [f"color:{label};material:{label}" for label in labels]
    changed = zip(rows, labels, attributes, strict=True)
    write(
        [{**row, "class_label": c, "attributes": a, "instance_id": zeros[row["instance_id"]]} for row, c, a in changed]
    )
    table = read_catalog(folder, params())
    for task in params().tasks:
        assert table[task].tolist() == labels
    assert table["instance_id"].tolist() == [zeros[row["instance_id"]] for row in rows]


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


# -- corrections --------------------------------------------------------------------------------------------------


def correct(root: Path, table: pd.DataFrame, *lines: str, **changes: Any) -> pd.DataFrame:
    (root / CORRECTIONS).parent.mkdir(exist_ok=True)
    (root / CORRECTIONS).write_text("\n".join([",".join(CORRECTION_COLUMNS), *lines]) + "\n", encoding="utf-8")
    return apply_corrections(root, table, params(**{"path": "data/mine", **changes}))


PHOTOS = pd.DataFrame(
    {"image_path": ["images/0.png", "images/1.png"], "class": "cup", "color": "red", "material": None},
    index=[2, 3],
    dtype="object",
)


@pytest.mark.parametrize(
    "path", ["data/mine", "data/mine/", "./data/mine", "data//mine", "data/other/../mine", "{root}/data/mine"]
)
@pytest.mark.parametrize("dataset", ["data/mine", "./data/mine/", "{root}/data/mine"])
def test_corrections_match_their_dataset_however_its_path_is_written(tmp_path: Path, path: str, dataset: str) -> None:
    line = f"{dataset.format(root=tmp_path)},images/1.png,color,blue"
    corrected = correct(tmp_path, PHOTOS, line, path=path.format(root=tmp_path))
    assert corrected["color"].tolist() == ["red", "blue"]
    assert dataset_name(tmp_path, path.format(root=tmp_path)) == "data/mine"


def test_corrections_respect_aliases_and_masks_and_later_lines_win(tmp_path: Path) -> None:
    lines = ["images/0.png,color,grey", "images/1.png,color,gold", "images/1.png,class,hat", "images/1.png,class, mug "]
    changes = {"aliases": {"color": {"grey": "gray"}}, "masked_labels": {"color": ["gold"]}}
    corrected = correct(tmp_path, PHOTOS, *(f"data/mine,{line}" for line in lines), **changes)
    assert corrected["color"].tolist() == ["gray", None]
    assert corrected["class"].tolist() == ["cup", "mug"]


def test_corrections_of_other_datasets_are_ignored_and_all_unmatched_ones_are_named(tmp_path: Path) -> None:
    for file in ("data/other/labels.csv", "data/fetched/dvc.yaml", "data/pulled.dvc"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    others = [f"data/{name},images/9.png,taste,sour" for name in ("other", "./fetched/", "pulled")]
    pd.testing.assert_frame_equal(correct(tmp_path, PHOTOS, *others), PHOTOS)
    wrong = ["data/mien,images/0.png,color,blue", "data,images/0.png,color,blue", "data/mine,images/9.png,color,blue"]
    wrong += ["data/mine,images/0.png,taste,sour", "data/mine,images/0.png,color, ", ",,color,blue"]
    with pytest.raises(CatalogError) as caught:
        correct(tmp_path, PHOTOS, *others, *wrong)
    assert caught.value.faults == [
        "line 5, column dataset: 'data/mien' is not a dataset; data.path is data/mine",
        "line 6, column dataset: 'data' is not a dataset; data.path is data/mine",
        "line 7, column image_path: 'images/9.png' is not in data/mine/labels.csv",
        "line 8, column task: 'taste' is not one of class, color, material",
        "line 9: label empty",
        "line 10: dataset, image_path empty",
    ]
    assert str(tmp_path / CORRECTIONS) in str(caught.value)
