"""Outliers are read by kind or generated from a seed, and left out if a class has their name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrine.artifacts import ArtifactError
from vitrine.data.outliers import NUM_GENERATED, read_outliers, unnamed_kinds
from vitrine.photos import Decoding, PhotoError

DECODING = Decoding(16, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = ["image_path,kind,instance_id"]
    for number, kind in enumerate(("mug", "mug", "book")):
        Image.new("RGB", (20, 30), (80 * number, 10, 10)).save(tmp_path / f"images/{number}.png")
        rows.append(f"images/{number}.png,{kind},{number // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_photographs_and_generated_pictures_are_read_together(folder: Path) -> None:
    found = read_outliers(folder, ["mug", "blank"], DECODING, 1)
    assert found.photos.shape == (2 + NUM_GENERATED, 16, 16, 3) and found.photos.dtype == np.uint8
    assert found.kinds.tolist() == ["mug"] * 2 + ["blank"] * NUM_GENERATED
    assert len(set(found.items)) == 1 + NUM_GENERATED, "two views of one mug"
    assert (found.photos[2] == 128).all(), "the gray square"
    assert len(read_outliers(folder, [], DECODING, 1).photos) == 0


def test_generated_pictures_need_no_folder_and_depend_on_the_seed(tmp_path: Path) -> None:
    first, again, other = (read_outliers(tmp_path, ["noise"], DECODING, seed).photos for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.std(axis=(1, 2, 3)).min() > 5


def test_invalid_folders_have_clear_errors(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not list toy\. Choose .*: blank, book, mug, noise"):
        read_outliers(folder, ["toy"], DECODING, 1)
    (folder / "images/2.png").unlink()
    with pytest.raises(PhotoError, match=r"2\.png: not found"):
        read_outliers(folder, ["book"], DECODING, 1)
    (folder / "labels.csv").write_text("image_path,kind\na,b\n")
    with pytest.raises(ArtifactError, match="lacks the columns instance_id"):
        read_outliers(folder, ["b"], DECODING, 1)


def test_a_kind_contained_in_a_class_name_is_not_an_outlier() -> None:
    kinds = ["mug", "book", "toy", "noise"]
    assert unnamed_kinds(kinds, ["coffee_mug", "note_books", "toyota"]) == ["toy", "noise"]
