"""Outliers belong to none of the product classes, and the committed ones match their params."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitrine.data.outliers import unnamed_kinds
from vitrine.params import read_section
from vitrine.render.items import CLASSES
from vitrine.render.outliers import FAMILIES, MATERIALS, OutlierParams, jobs, make_outlier, render_outliers
from vitrine.render.products import build

FOLDER = Path(__file__).parents[2] / "data/outliers"


def test_the_kinds_are_not_classes_of_the_sample() -> None:
    assert unnamed_kinds(list(MATERIALS), list(CLASSES)) == list(MATERIALS) == list(FAMILIES)


@pytest.mark.parametrize("kind", MATERIALS)
def test_outliers_stand_on_the_ground_and_differ(kind: str) -> None:
    sizes = set()
    for number in range(8):
        item = make_outlier(1, kind, number)
        assert item == make_outlier(1, kind, number)
        points = np.concatenate([part.mesh.positions for part in build(item, "standing")])
        assert np.isfinite(points).all() and -0.5 < points[:, 2].min() < 0.3
        sizes.add(points.max(axis=0).round(4).tolist()[2])
    assert len(sizes) > 1


def test_the_committed_photographs_match_the_params() -> None:
    params = read_section("render", OutlierParams, FOLDER / "params.yaml")
    table = pd.read_csv(FOLDER / "labels.csv", dtype=str)
    work = jobs(params)
    assert table["image_path"].tolist() == [job.image_path for job in work]
    assert table["kind"].tolist() == [job.item.class_label for job in work]
    sizes = [(FOLDER / path).stat().st_size for path in table["image_path"]]
    assert len(list((FOLDER / "images").iterdir())) == len(table) and sum(sizes) < 700_000


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    params = OutlierParams(seed=2, items_per_kind=1, views_per_item=1, image_size_px=24, samples_per_pixel=1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        render_outliers(tmp_path / name, params)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two")]
    assert len(files[0]) == 5 and [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]
