"""Make a project with predictions, and external photographs, for tests of `vitrine evaluate`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from conftest import write_labels
from PIL import Image

SPLIT = {
    "source": "column", "seed": 1, "val_fraction": 0.2, "test_fraction": 0.2, "photo_size_px": 24,
    "max_megapixels": 50.0, "near_duplicate_bits": 4,
}  # fmt: skip
EVALUATE = {"sure_accuracy": 0.8, "calibration_bins": 3, "svm_c": 1.0, "num_confusions": 2}
CLASSES, COLORS = ("tall_bottle", "soap_bar"), ("blue", "red")


def make_judged(project: Path, root: Path) -> None:
    """Copy a project folder and add the photographs, predictions and params of a full `dvc repro`.

    The test photographs are noise, so that they are not near duplicates of the drawings in train.
    """
    from vitrine.artifacts import write_npy
    from vitrine.data.catalog import decode_photos
    from vitrine.inference.predictor import Predictor
    from vitrine.inference.systems import load_systems
    from vitrine.labels import read_photo_table

    shutil.copytree(project, root, dirs_exist_ok=True)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(yaml.safe_dump({**params, "split": SPLIT, "evaluate": EVALUATE}))
    table = read_photo_table(root / "data/splits/photos.csv")
    rng = np.random.default_rng(0)
    for name in table.loc[table["split"] == "test", "image_path"]:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "data/made_up" / name)
    photos = decode_photos(root / "data/made_up", table, 24, 50.0)
    write_npy(root / "data/splits/photos.npy", photos)
    for name in load_systems(root / "models/systems.json"):
        predictor = Predictor.load(name, root / "models", root / "exports")
        predictor.predict(photos, list(table["image_path"])).save(root / f"predictions/{name}.npz")


def make_theirs(
    folder: Path, num_items: int = 6, classes: Sequence[str] = CLASSES, colors: Sequence[str] = COLORS
) -> list[dict[str, str]]:
    """Write unique photographs of noise, two views per item, and labels.csv; return its rows."""
    rng, rows = np.random.default_rng(num_items), []
    (folder / "images").mkdir(parents=True)
    for item in range(num_items):
        for view in range(2):
            path = f"images/{item}_{view}.png"
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / path)
            color = colors[item // 2 % len(colors)]
            row = {"image_path": path, "class_label": classes[item % len(classes)], "instance_id": f"their-{item}"}
            rows.append(row | {"attributes": f"color:{color};material:glass" if color else "material:glass"})
    write_labels(folder, rows)
    return rows
