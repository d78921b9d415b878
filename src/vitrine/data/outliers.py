"""Pictures that belong to none of the classes: photographs listed in a table, and pictures generated from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_csv
from vitrine.labels import display_name, label_words
from vitrine.photos import Decoding, decode_photo

NUM_GENERATED = 20
"""Number of pictures of each generated kind; each picture counts as an item."""


@dataclass(frozen=True)
class Outliers:
    """Decoded pictures that belong to none of the classes.

    Shape:
        photos: (pictures, height, width, channels)
        kinds: (pictures,), what they show
        items: (pictures,), the items that they show; names are unique across kinds
    """

    photos: NDArray[np.uint8]
    kinds: NDArray[np.str_]
    items: NDArray[np.str_]


def read_outliers(folder: Path, kinds: Sequence[str], decoding: Decoding, seed: int) -> Outliers:
    """Read kinds listed in the folder's labels.csv (image_path, kind, instance_id), and generate `blank` and `noise`.

    Raises:
        ArtifactError: the table is missing or lacks a column, or a kind is neither listed nor generated.
        PhotoError: a photograph cannot be read.
    """
    photos: list[NDArray[np.uint8]] = []
    names: list[tuple[str, str]] = []
    path = folder / "labels.csv"
    listed = [kind for kind in kinds if kind not in GENERATED]
    table = read_csv(path, dtype=str) if listed else None
    if table is not None:
        missing = {"image_path", "kind", "instance_id"} - set(table.columns)
        if missing:
            raise ArtifactError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
        unknown = sorted(set(listed) - set(table["kind"]))
        if unknown:
            known = sorted({*table["kind"], *GENERATED})
            raise ArtifactError(
                f"{path}: does not list {', '.join(unknown)}. Choose among these in params.yaml: {', '.join(known)}"
            )
    for kind in kinds:
        if kind in GENERATED:
            generated = GENERATED[kind](np.random.default_rng([seed, len(kind)]), decoding.photo_size_px)
            photos += generated
            names += [(kind, f"{kind}-{number}") for number in range(len(generated))]
        elif table is not None:
            for image_path, item in table.loc[table["kind"] == kind, ["image_path", "instance_id"]].to_numpy():
                photos.append(decode_photo(folder / image_path, decoding.photo_size_px, decoding.max_megapixels))
                names.append((kind, f"{kind}/{item}"))
    side = decoding.photo_size_px
    stacked = np.stack(photos) if photos else np.empty((0, side, side, 3), dtype=np.uint8)
    return Outliers(stacked, np.array([k for k, _ in names], np.str_), np.array([i for _, i in names], np.str_))


def unnamed_kinds(kinds: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Drop kinds that occur in the name of a class: mugs are not outliers if a class is `coffee_mug`."""
    words = {
        word.lower() for name in classes for text in (label_words(name), display_name(name)) for word in text.split()
    }
    return [kind for kind in kinds if not {kind.lower(), f"{kind.lower()}s"} & words]


def blank_pictures(rng: np.random.Generator, side: int) -> list[NDArray[np.uint8]]:
    """Generate blank pictures: gray, white and black, then other colors, every other one with a slight gradient."""
    pictures = []
    for number in range(NUM_GENERATED):
        color = rng.uniform(0, 255, 3) if number >= 3 else np.full(3, (128.0, 255.0, 0.0)[number])
        slope = rng.uniform(-30, 30, 2) if number >= 3 and number % 2 else np.zeros(2)
        across, down = np.meshgrid(np.linspace(-0.5, 0.5, side), np.linspace(-0.5, 0.5, side))
        picture = color + (slope[0] * across + slope[1] * down)[..., None]
        pictures.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    return pictures


def noise_pictures(rng: np.random.Generator, side: int) -> list[NDArray[np.uint8]]:
    """Generate noise: gray or colored cells of random brightness, from single pixels to an eighth of the side."""
    pictures = []
    for number in range(NUM_GENERATED):
        cells = max(1, side // (1, 2, 4, 8, max(1, side // 8))[number % 5])
        low = rng.uniform(0, 155) if number >= 5 else 0.0
        high = rng.uniform(low + 100, 255) if number >= 5 else 255.0
        values = rng.uniform(low, high, (cells, cells, 3 if number % 2 else 1))
        cell = np.arange(side) * cells // side
        picture = np.broadcast_to(values[cell][:, cell], (side, side, 3))
        pictures.append(np.rint(picture).astype(np.uint8))
    return pictures


GENERATED = {"blank": blank_pictures, "noise": noise_pictures}
