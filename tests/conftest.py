"""Fixtures that all tests share: a small made-up dataset and project folders made from it."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

CLASSES = {"tall_bottle": "ellipse", "soap_bar": "rectangle"}
COLORS = {"blue": (30, 60, 200), "red": (200, 40, 30)}
ITEMS_PER_SPLIT = {"train": 2, "val": 1, "test": 1}
NUMBERS = {"tall_bottle": "007", "soap_bar": "38", "blue": "1e3", "red": "NA", "glass": "true", "soap": "inf"}
"""Labels that type inference would read as numbers or missing values; every task has only such labels."""


def make_dataset(folder: Path, side: int = 24, numbers: bool = False) -> list[dict[str, str]]:
    """Draw two classes in two colors, two views per item, and write labels.csv; return its rows.

    Args:
        numbers: use the labels in NUMBERS and name the items 1, 01, 001 and so on.
    """
    rows: list[dict[str, str]] = []
    labels = NUMBERS if numbers else {name: name for name in NUMBERS}
    (folder / "images").mkdir(parents=True)
    for class_label, shape in CLASSES.items():
        for color, rgb in COLORS.items():
            for split, items in ITEMS_PER_SPLIT.items():
                for item in range(items):
                    material = "glass" if shape == "ellipse" else "soap"
                    name = "0" * (len(rows) // 2) + "1" if numbers else f"{class_label}-{color}-{split}-{item}"
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
                                "class_label": labels[class_label],
                                "attributes": f"color:{labels[color]};material:{labels[material]}",
                                "split": split,
                                "instance_id": name,
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


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let photographs kill processes that start from now on and decode them; see the folder deadly."""
    folders = [str(Path(__file__).with_name("deadly")), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))


@pytest.fixture(scope="session")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder after `dvc repro`: a small dataset, two untrained networks, their indexes and scores."""
    import numpy as np
    import pandas as pd
    import torch

    from vitrine.artifacts import write_csv, write_json
    from vitrine.data.catalog import CORRECTION_COLUMNS, DataParams, decode_photos, read_catalog
    from vitrine.inference.network import Network
    from vitrine.inference.systems import System, save_systems, system_predictions
    from vitrine.labels import LabelSpace
    from vitrine.learning.model import create_model, save_model
    from vitrine.photos import Decoding
    from vitrine.retrieval.index import Index

    root = tmp_path_factory.mktemp("project")
    make_dataset(root / "data/made_up", side=32)
    data = DataParams(path="data/made_up", attributes=["color", "material"], aliases={}, masked_labels={})
    (root / "params.yaml").write_text(yaml.safe_dump({"data": data.model_dump(), "serving": {"backend": "auto"}}))
    table = read_catalog(root / "data/made_up", data)
    space = LabelSpace.derive(table, data.tasks)
    write_csv(root / "data/splits/photos.csv", table)
    write_csv(root / "data/corrections.csv", pd.DataFrame(columns=list(CORRECTION_COLUMNS)))
    write_json(root / "data/splits/decoding.json", {"photo_size_px": 24, "max_megapixels": 50.0})
    photos = decode_photos(root / "data/made_up", table, 24, 50.0)

    raw = {}
    for seed, name in enumerate(("deit", "mobilevit")):
        torch.manual_seed(seed)
        save_model(
            create_model("test_vit", "none", space, Decoding(24, 50.0), 32, 0.0, 0.0), root / "models" / name, {}
        )
        raw[name] = Network.load(root / "models" / name).predict(photos, list(table["image_path"]))
    thresholds = {"class": 0.0, "color": 1.0, "material": None}
    members = {"deit": ("deit",), "mobilevit": ("mobilevit",), "ensemble": ("deit", "mobilevit")}
    systems = {
        name: System(dict.fromkeys(space, names), dict.fromkeys(space, 1.0), thresholds)
        for name, names in members.items()
    }
    save_systems(root / "models/systems.json", systems)
    for name in systems:
        Index.build(name, system_predictions(name, systems, raw), table["instance_id"], {}).save(root / "index" / name)

    scores = [
        {"model": name, "split": "test", "task": task, "accuracy": 0.5, "accuracy_ci_low": 0.4, "accuracy_ci_high": 0.6}
        for name in systems
        for task in space
    ]
    write_csv(root / "plots/evaluate/scores.csv", pd.DataFrame(scores))
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(root / "plots/evaluate/curves.png")
    counts = dict.fromkeys(("train", "val", "test"), 8)
    write_json(root / "data/splits/counts.json", {"photos": counts, "items": counts})
    return root


@pytest.fixture(scope="session")
def judged_folder(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `project_folder` with everything that `vitrine evaluate` reads. Tests must not change it."""
    from judging import make_judged

    root = tmp_path_factory.mktemp("judged")
    make_judged(project_folder, root)
    return root
