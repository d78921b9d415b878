"""A filled-in queue becomes part of a dataset whole or not at all."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import make_dataset
from PIL import Image

from vitrine.data.catalog import CatalogError, DataParams, read_catalog
from vitrine.data.labeling import QueuedPhoto, add_labels, dataset_path, write_queue

TASKS = ["color", "material"]
PARAMS = DataParams(
    path="data", attributes=TASKS, aliases={"color": {"crimson": "red"}}, masked_labels={"color": ["?"]}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    photos = []
    for number in range(3):
        path = tmp_path / f"new_{number}.png"
        Image.new("RGB", (20, 20), (number * 80, 0, 0)).save(path)
        photos.append(QueuedPhoto(path, f"item {number}", "Possibly tall bottle"))
    write_queue(tmp_path / "queue.csv", photos, TASKS)
    return tmp_path / "queue.csv"


def fill(queue: Path, **by_row: dict[str, str]) -> None:
    with queue.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, values in by_row.items():
        rows[int(number[1:])].update(values)
    with queue.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_with_a_class_are_added_and_the_others_wait(folder: Path, queue: Path) -> None:
    before = snapshot(folder)
    fill(queue, r0={"class_label": "soap_bar", "color": "crimson"}, r2={"class_label": "cap", "material": "wool"})
    files = add_labels(queue, folder, PARAMS)
    assert [file.name for file in files] == ["new_0.png", "new_2.png"]
    new = read_catalog(folder, PARAMS).iloc[-2:]
    assert new["class"].tolist() == ["soap_bar", "cap"] and set(new["split"]) == {"train"}
    assert new["color"].tolist() == ["red", None] and new["material"].tolist() == [None, "wool"]
    after = snapshot(folder)
    assert {path: after[path] for path in before if path != "labels.csv"} == {
        path: content for path, content in before.items() if path != "labels.csv"
    }
    assert after["labels.csv"].startswith(before["labels.csv"].replace(b"\r\n", b"\n").rstrip(b"\n"))
    assert after[dataset_path(files[0])] == files[0].read_bytes()
    with pytest.raises(CatalogError, match=r"is in labels\.csv already"):
        add_labels(queue, folder, PARAMS)
    assert snapshot(folder) == after


def test_without_a_class_nothing_is_added(folder: Path, queue: Path) -> None:
    before = snapshot(folder)
    assert add_labels(queue, folder, PARAMS) == [] and snapshot(folder) == before


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"file": "gone.png"}, "line 2: gone.png: not found"),
        ({"instance_id": "tall_bottle-blue-train-0"}, "is soap_bar here and tall_bottle elsewhere"),
        ({"file": __file__}, "is not an image that can be read"),
        ({"color": "?"}, "line 2, column color: '\\?' is masked by data.masked_labels"),
        ({"color": "red;material:soap"}, "has ':' or ';', which separate attributes"),
        ({"class_label": "Soap_bar"}, "differs only in case from 'soap_bar'"),
    ],
)
def test_faults_are_named_and_nothing_is_written(folder: Path, queue: Path, row: dict[str, str], fault: str) -> None:
    fill(queue, r0={"class_label": "soap_bar", **row}, r1={"class_label": "cap"})
    before = snapshot(folder)
    with pytest.raises(CatalogError, match=fault):
        add_labels(queue, folder, PARAMS)
    assert snapshot(folder) == before


def test_a_queue_is_never_overwritten_and_needs_its_columns(folder: Path, queue: Path) -> None:
    with pytest.raises(CatalogError, match="may hold labels"):
        write_queue(queue, [], TASKS)
    with pytest.raises(CatalogError, match="columns missing: size"):
        add_labels(queue, folder, PARAMS.model_copy(update={"attributes": [*TASKS, "size"]}))
    with pytest.raises(CatalogError, match="not found; make it with: vitrine label next INDEX"):
        add_labels(queue.with_name("gone.csv"), folder, PARAMS)


def test_a_dataset_that_a_pipeline_makes_is_refused(folder: Path, queue: Path) -> None:
    (folder / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(CatalogError, match=r"is made by the dvc\.yaml beside it"):
        add_labels(queue, folder, PARAMS)
