"""Pictures are byte-identical for equal numbers and differ for different numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.reporting import figures


def draw_split(path: Path, seed: int) -> None:
    counts = [("a_cup", "train", 5 + seed, 2), ("a_cup", "val", 3, 1), ("hat", "train", 4, 1), ("hat", "test", 2, 1)]
    figures.class_by_split(pd.DataFrame(counts, columns=["class", "split", "photos", "items"]), path)


def draw_curves(path: Path, seed: int) -> None:
    history = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [2, 1 + seed], "val_loss": [2, 1.5], "val_macro_f1": [0.1, 0.4]}
    )
    figures.training_curves({"one": history, "two": history}, path)


def draw_confusion(path: Path, seed: int) -> None:
    figures.confusion(np.array([[3, seed], [0, 0]]), ["a_cup", "hat"], "title", path)


def draw_grid(path: Path, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    tiles = [figures.Tile(photo, ["a line", "another"], good) for good in (True, False, None)]
    figures.photo_grid([figures.GridRow("heading", tiles), figures.GridRow("", tiles[:1])], "title", path)


def draw_projection(path: Path, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(20, 2))
    figures.projection(
        points,
        np.array([0.5, 0.2]),
        np.arange(20) % 12,
        [f"label_{i}" for i in range(12)],
        np.arange(20) > 9,
        "title",
        path,
    )


def draw_accuracies(path: Path, seed: int) -> None:
    ends = {"accuracy_ci_low": 0.1, "accuracy_ci_high": 0.9, "majority_accuracy": 0.2}
    rows = [{"model": m, "task": t, "accuracy": 0.2 * seed, **ends} for m in ("a", "b") for t in ("class", "x", "y")]
    figures.accuracies(pd.DataFrame(rows), path)


def draw_calibration(path: Path, seed: int) -> None:
    shared = {"model": ["a", "a", "b"], "task": ["class", "class", "class"]}
    bins = pd.DataFrame({**shared, "confidence": [0.3, 0.8, 0.5], "accuracy": [0.1 * seed, 0.7, 0.4]})
    curve = pd.DataFrame({**shared, "coverage": [0.5, 1.0, 1.0], "accuracy": [0.9, 0.7, 0.4]})
    figures.calibration(bins, curve, path)


@pytest.mark.parametrize(
    "draw", [draw_accuracies, draw_calibration, draw_split, draw_curves, draw_confusion, draw_grid, draw_projection]
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_are_byte_stable(tmp_path: Path, draw: Callable[[Path, int], None], suffix: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw(tmp_path / f"{name}{suffix}", seed)
    first, second, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "abc")
    assert first == second
    assert first != other
    assert len(first) < 200_000
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.format == {".png": "PNG", ".jpg": "JPEG"}[suffix]
        assert min(image.size) >= 200


def test_a_grid_without_tiles_is_still_a_picture(tmp_path: Path) -> None:
    figures.photo_grid([], "no mistakes", tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 0


def test_text_below_a_photograph_is_complete_and_no_wider_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    long = "1.00 personal care shampoo bottle, 0.97 biodegradablesyntheticfibres"
    figures.photo_grid([figures.GridRow("", [figures.Tile(np.zeros((8, 8, 3), np.uint8), [long])])], "", Path("none"))
    (figure,) = drawn
    figure.canvas.draw()
    written = [text for text in figure.texts if text.get_text()]
    assert "".join("".join(text.get_text() for text in written).split()) == "".join(long.split())
    photograph = figure.axes[0].get_window_extent()
    assert all(text.get_window_extent().width <= 1.1 * photograph.width for text in written)


def test_mistakes_are_grouped_by_confusion() -> None:
    space = LabelSpace({"class": ("a_cup", "hat")})
    probs = {"class": np.array([[0.9, 0.1]] * 8, dtype=np.float32)}
    predictions = Predictions(space, tuple("abcdefgh"), probs, np.zeros((8, 2), dtype=np.float32))
    confusions = [(1, 0, np.arange(7)), (0, 1, np.array([7]))]
    rows = figures.mistake_rows(np.zeros((8, 8, 8, 3), np.uint8), predictions, confusions)
    assert [row.heading for row in rows] == [
        "hat, mistaken for a cup: 7 photographs",
        "a cup, mistaken for hat: 1 photograph",
    ]
    assert [len(row.tiles) for row in rows] == [6, 1]
    assert list(rows[0].tiles[0].lines) == ["90 % sure"]


def test_searches_are_grouped_by_query() -> None:
    hit: dict[str, Any] = {"score": 0.5, "matches": "0.70 blue; 0.60 cup", "relevant": 1}
    found = pd.DataFrame([{"query": "cup", "row": 1, **hit}, {"query": "blue", "row": 0, **hit, "relevant": 0}])
    rows = figures.search_rows(found, np.zeros((2, 8, 8, 3), np.uint8))
    assert [row.heading for row in rows] == ["\u201ccup\u201d", "\u201cblue\u201d"]
    assert [row.tiles[0].good for row in rows] == [True, False]
    assert list(rows[0].tiles[0].lines) == ["0.500", "0.70 blue", "0.60 cup"]
