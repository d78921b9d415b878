"""The label space comes from train alone and travels unchanged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vitrine.artifacts import ArtifactError, write_csv
from vitrine.labels import MISSING, LabelSpace, read_photos

TABLE = pd.DataFrame(
    {
        "split": ["train", "train", "test"],
        "class": ["hat", "cup", "cup"],
        "color": ["red", None, None],
        "image_path": ["1", "2", "3"],
    }
)


def test_labels_are_those_of_train_in_order() -> None:
    space = LabelSpace.derive(pd.concat([TABLE, TABLE.assign(split="val", color="blue")]), ["class", "color"])
    assert space.labels == {"class": ("cup", "hat"), "color": ("red",)}
    assert space.tasks == ("class", "color")
    assert space.num_labels("class") == 2


def test_codes_follow_the_labels_and_mark_missing_ones() -> None:
    codes = LabelSpace.derive(TABLE, ["class", "color"]).encode(TABLE)
    assert codes["class"].tolist() == [1, 0, 0]
    assert codes["color"].tolist() == [0, MISSING, MISSING]


def test_a_label_outside_the_space_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="class: labels outside the label space: mug"):
        LabelSpace.derive(TABLE, ["class"]).encode(TABLE.assign(**{"class": "mug"}))


def test_the_space_survives_json_with_its_order() -> None:
    space = LabelSpace({"zeta": ("b", "a"), "alpha": ("c",)})
    assert list(LabelSpace.from_json(space.to_json())) == ["zeta", "alpha"]
    assert LabelSpace.from_json(space.to_json()) == space
    with pytest.raises(ArtifactError, match="not a label space"):
        LabelSpace.from_json([{"task": "a"}])


def test_photos_are_read_as_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "photos.csv", TABLE.assign(color=["01", None, "NA"]))
    table = read_photos(tmp_path / "photos.csv")
    assert table["image_path"].tolist() == ["1", "2", "3"]
    assert table["color"][2] == "NA"
    assert pd.isna(table["color"][1])
