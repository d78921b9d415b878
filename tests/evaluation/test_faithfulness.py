"""Faithfulness of heat maps: areas computed by hand, uninformed controls, decisions by intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitrine.artifacts import ArtifactError, write_csv
from vitrine.data.masks import read_masks
from vitrine.evaluation import faithfulness as faith
from vitrine.evaluation.explaining import first_views, headline_metrics, judge_heatmaps, split_rows
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions

SIDE, KEY = 16, ("toy", "class")
SPACE = LabelSpace({"class": ("no", "yes"), "color": ("no", "yes")})


def test_pixels_are_ranked_from_the_hottest_and_ties_by_the_other_map() -> None:
    heat, ties = np.array([[[0.1, 0.9], [0.1, 0.0]]]), np.array([[[0.2, 0.0], [0.8, 0.0]]])
    np.testing.assert_allclose(faith.pixel_ranks(heat, ties), [[[0.5, 0.0], [0.25, 0.75]]])


def test_pixels_outside_every_networks_view_are_ranked_last() -> None:
    noise = faith.within_view(faith.random_maps(3, SIDE, 0), 12)
    ranks = faith.pixel_ranks(np.zeros((3, SIDE, SIDE)), noise)
    inside = faith.within_view(np.ones((SIDE, SIDE)), 12).astype(bool)
    assert inside.sum() == 144 and ranks[:, inside].max() < ranks[:, ~inside].min()


def test_areas_computed_by_hand() -> None:
    # The label's probability falls 1, 0.5, 0 as hot pixels are deleted, and rises 0, 0.25, 1 as they are inserted.
    inner = np.zeros((1, 2, 2, 1, 2))
    inner[0, :, 0, 0, 1], inner[0, :, 1, 0, 1] = 0.5, 0.25
    ends = faith.Ends(np.array([[0.0, 1.0]]), np.array([[[1.0, 0.0], [1.0, 0.0]]]))
    found = faith.curve_measures(inner, ends, np.array([1]))
    assert {name: float(value[0]) for name, value in found.items()} == {
        "deletion_blurred": 0.5, "insertion_blurred": 0.375, "deletion_mean": 0.5, "insertion_mean": 0.375,
        "faithfulness": -0.125,
    }  # fmt: skip


def test_heat_on_the_object_by_hand() -> None:
    maps = np.array([[[0.2, 0.6], [0.2, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    masks = np.array([[[True, True], [False, False]], [[False, True], [True, True]]])
    found = faith.mask_measures(maps, masks)
    np.testing.assert_allclose(found["pointing"], [1, 0])
    np.testing.assert_allclose(found["energy"], [0.8, 0])


class Toy:
    """A system that sees only a square: the brighter the square, the higher the probability of "yes".

    Args:
        corner: of the square that it sees. marked: corner of the square that its heat maps mark.
    """

    view_px = SIDE

    def __init__(self, corner: int, marked: int) -> None:
        self.corner, self.marked = corner, marked

    def predict_task(self, photos: NDArray[np.uint8], task: str) -> NDArray[np.float32]:
        square = photos[:, self.corner : self.corner + 5, self.corner : self.corner + 5]
        bright = square.mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - bright, bright], axis=1).astype(np.float32)

    def predict(self, photos: NDArray[np.uint8]) -> Predictions:
        probs = {task: self.predict_task(photos, task) for task in SPACE}
        return Predictions(SPACE, tuple(map(str, range(len(photos)))), probs, np.zeros((len(photos), 1), np.float32))

    def heatmaps(self, photos: NDArray[np.uint8], codes: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        heat = np.zeros((len(photos), SIDE, SIDE), np.float32)
        heat[:, self.marked : self.marked + 5, self.marked : self.marked + 5] = 1
        return dict.fromkeys(codes, heat)


def judged(explainer: Toy, with_masks: bool = True) -> Any:
    photos = np.full((12, SIDE, SIDE, 3), 10, np.uint8)
    photos[:, :5, :5] = 250  # the square that counts is in a corner, where a spot in the center misses it
    photos += np.arange(12, dtype=np.uint8)[:, None, None, None] % 5
    mask = photos[0, ..., 0] > 128
    masks = [mask if with_masks and row != 3 else None for row in range(12)]
    items = np.repeat(np.arange(6), 2)
    return judge_heatmaps(
        photos, items, masks, np.array([20.0, 20, 20]), {"toy": explainer}, {"toy": Toy(0, 11)},
        lambda images: {("toy", task): probs for task, probs in explainer.predict(images).probs.items()}, 5,
    )  # fmt: skip


def test_a_map_of_the_relevant_square_beats_all_controls_and_another_map_does_not() -> None:
    good, bad = judged(Toy(0, 0)), judged(Toy(0, 11))
    for found, beaten in ((good, set(faith.CONTROLS)), (bad, {"gaussian"})):
        rows = found.rows[found.rows["task"] == "class"]
        differences = faith.deciding_differences(rows)
        assert list(differences) == list(faith.CONTROLS)
        # A spot in the center is even worse than the wrong corner; random weights mark that very corner.
        assert {name for name, (_, low, _) in differences.items() if low > 0} == beaten, differences
        assert (found.codes[KEY] == 1).all() and found.probs[KEY].min() > 0.9
    energy = good.rows.query("measure == 'energy' and method == 'heat map' and task == 'class'").iloc[0]
    assert energy["n"] == 11 and energy["value"] == pytest.approx(1)
    assert good.rows["value"].between(good.rows["value_ci_low"], good.rows["value_ci_high"]).all()


def test_without_masks_there_are_no_object_measures() -> None:
    found = judged(Toy(0, 0), with_masks=False)
    assert not set(found.rows["measure"]) & set(faith.MASK_MEASURES)
    metrics, intervals = headline_metrics(found, {KEY: True, ("toy", "color"): False})
    assert set(metrics) == {"toy_faithfulness", "num_shown"} and metrics["num_shown"] == 1
    assert set(intervals) == {"toy_faithfulness"}


def test_only_the_deciding_measure_is_written_for_val() -> None:
    rows, shown = judged(Toy(0, 0)).rows, {KEY: True, ("toy", "color"): False}
    assert set(split_rows(rows, "val", shown)["measure"]) == {faith.FAITHFULNESS}
    test = split_rows(rows, "test", shown)
    assert len(test) == len(rows) and test.query("task == 'color'")["shown"].sum() == 0


def test_controls_are_the_same_for_the_same_seed() -> None:
    np.testing.assert_array_equal(faith.random_maps(2, SIDE, 1), faith.random_maps(2, SIDE, 1))
    assert (faith.random_maps(2, SIDE, 1) != faith.random_maps(2, SIDE, 2)).any()
    spot = faith.gaussian_map(SIDE)
    assert spot.max() == spot[7, 7] == spot[8, 8] and spot[0, 0] == spot.min()


def test_the_first_views_of_every_item_are_measured() -> None:
    table = pd.DataFrame({"split": ["val", "test", "val", "val", "val"], "instance_id": ["a", "b", "a", "a", "c"]})
    assert first_views(table, "val", 1).tolist() == [0, 4] and first_views(table, "val", 2).tolist() == [0, 2, 4]


# -- masks -----------------------------------------------------------------------------------------------------------


def masked_folder(folder: Path, num_masks: int, extra: int = 0) -> Path:
    write_csv(folder / "labels.csv", pd.DataFrame({"image_path": ["a.png", "b.png", "c.png"]}))
    stack = np.zeros((4 * num_masks + extra, 4), bool)
    stack[4:6] = True
    Image.fromarray(stack).save(folder / "masks.png")
    return folder


def test_masks_belong_to_their_rows_and_are_scaled(tmp_path: Path) -> None:
    assert read_masks(tmp_path, ["a.png"], 4) == {}
    folder = masked_folder(tmp_path, 2)
    found = read_masks(folder, ["b.png", "c.png", "elsewhere.png"], 8)
    assert set(found) == {"b.png"}  # c has no mask
    assert found["b.png"].shape == (8, 8) and found["b.png"][:4].all() and not found["b.png"][4:].any()


@pytest.mark.parametrize(("num", "extra"), [(4, 0), (2, 1)])
def test_masks_that_do_not_fit_the_table_are_refused(tmp_path: Path, num: int, extra: int) -> None:
    with pytest.raises(ArtifactError, match=r"are not square masks for the 3 rows of labels\.csv"):
        read_masks(masked_folder(tmp_path, num, extra), ["a.png"], 4)


def test_the_sample_has_masks_under_a_megabyte() -> None:
    folder = Path(__file__).parents[2] / "data/sample"
    paths = pd.read_csv(folder / "labels.csv")["image_path"].tolist()
    masks = read_masks(folder, paths, 128)
    assert list(masks) == paths and all(0.02 < mask.mean() < 1 for mask in masks.values())
    assert (folder / "masks.png").stat().st_size < 1e6
