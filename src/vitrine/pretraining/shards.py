"""Shards: concatenated image files of photographs and renders, with labels if there are any."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vitrine.artifacts import ArtifactError, read_npz, write_npz
from vitrine.labels import CLASS_TASK, LabelSpace

RENDERED_TASKS = {CLASS_TASK: "class_label", "color": "color", "material": "material", "condition": "condition"}
"""Pretraining tasks and the shard columns that hold their labels."""


def write_shard(path: Path, files: Sequence[bytes], **columns: NDArray[Any]) -> None:
    """Write image files as a shard: concatenated `bytes`, their `ends`, and other columns with one row per file."""
    ends = np.cumsum([len(file) for file in files])
    write_npz(path, {**columns, "bytes": np.frombuffer(b"".join(files), dtype=np.uint8), "ends": ends})


def read_shard(path: Path) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Decode a shard.

    Returns:
        pictures, shape (pictures, height, width, channels); their labels, one column per task, none for photographs
    Raises:
        ArtifactError: the file is missing or corrupt.
    """
    arrays = read_npz(path)
    starts = [0, *arrays["ends"][:-1]]
    pictures: list[NDArray[np.uint8]] = []
    for start, end in tqdm(zip(starts, arrays["ends"], strict=True), path.stem, len(starts), leave=False, disable=None):
        with Image.open(io.BytesIO(arrays["bytes"][start:end].tobytes())) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    columns = {task: arrays[column] for task, column in RENDERED_TASKS.items() if column in arrays}
    table = pd.DataFrame(columns, index=range(len(pictures))).astype("object")
    return np.stack(pictures), table.where(table != "", None)


@dataclass(frozen=True)
class Pictures:
    """Pictures and labels for pretraining.

    Attributes:
        digest: hash that identifies the pictures and labels

    Shape:
        photos: (photos, height, width, channels), without labels
        renders: (renders, height, width, channels); codes[task]: (renders,), MISSING where unlabeled
    """

    photos: NDArray[np.uint8]
    renders: NDArray[np.uint8]
    label_space: LabelSpace
    codes: Mapping[str, NDArray[np.int64]]
    digest: str


def read_pictures(photo_shards: Sequence[Path], render_shards: Sequence[Path]) -> Pictures:
    """Decode all shards into memory; 22,693 photographs of 144 px take 1.4 GB.

    Raises:
        ArtifactError: a shard is missing or corrupt, or a render has no labels.
    """
    digest = hashlib.sha256()
    for path in (*photo_shards, *render_shards):
        if not path.is_file():
            raise ArtifactError(f"{path}: not found. Create it with: dvc repro pretrain/dvc.yaml")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    photos = _joined([read_shard(path)[0] for path in photo_shards])
    rendered = [read_shard(path) for path in render_shards]
    renders = _joined([pictures for pictures, _ in rendered])
    if not rendered:
        return Pictures(photos, renders, LabelSpace({}), {}, digest.hexdigest())
    table = pd.concat([labels for _, labels in rendered], ignore_index=True)
    missing = [task for task in RENDERED_TASKS if task not in table]
    if missing:
        raise ArtifactError(f"{render_shards[0].parent}: renders without labels for {', '.join(missing)}")
    space = LabelSpace({task: tuple(sorted(table[task].dropna().unique())) for task in RENDERED_TASKS})
    return Pictures(photos, renders, space, space.encode(table), digest.hexdigest())


def _joined(parts: list[NDArray[np.uint8]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty((0, 1, 1, 3), np.uint8)
