"""What all tests share: a small made-up dataset, and a bound on threads so that tests do not fight for cores."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

CLASSES = {"tall_bottle": "ellipse", "soap_bar": "rectangle"}
COLOURS = {"blue": (30, 60, 200), "red": (200, 40, 30)}
ITEMS_PER_SPLIT = {"train": 2, "val": 1, "test": 1}


def make_dataset(folder: Path, side: int = 24) -> list[dict[str, str]]:
    """Draw two classes in two colours, two views an item, and write labels.csv; return its rows."""
    rows: list[dict[str, str]] = []
    (folder / "images").mkdir(parents=True)
    for name, shape in CLASSES.items():
        for colour, rgb in COLOURS.items():
            for split, items in ITEMS_PER_SPLIT.items():
                for item in range(items):
                    for view in range(2):
                        number = len(rows)
                        image = Image.new("RGB", (side, side), (number * 7 % 90 + 130,) * 3)
                        inset = 3 + item + view
                        box = (inset, 2 + view, side - inset, side - 2 - item)
                        getattr(ImageDraw.Draw(image), shape)(box, fill=rgb)
                        path = f"images/{number:03d}.png"
                        image.save(folder / path)
                        rows.append(
                            {
                                "image_path": path,
                                "class_label": name,
                                "attributes": f"color:{colour};material:{'glass' if shape == 'ellipse' else 'soap'}",
                                "split": split,
                                "instance_id": f"{name}-{colour}-{split}-{item}",
                            }
                        )
    write_labels(folder, rows)
    return rows


def write_labels(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, list[dict[str, str]], Callable[[list[dict[str, Any]]], None]]:
    """A folder with the made-up dataset, its rows, and a function that writes changed rows back."""
    folder = tmp_path / "data"
    rows = make_dataset(folder)
    return folder, rows, lambda changed: write_labels(folder, changed)
