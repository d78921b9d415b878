"""Decode files one after another. Processes that decode import this module alone, and so start at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.photos import PhotoError, decode_photo

Fault = tuple[str, str]
"""The path of a file that is no photograph, and what is wrong with it."""

Decoded = tuple[NDArray[np.uint8], list[str], list[Fault]]


def decode_files(paths: Sequence[str], size_px: int, max_megapixels: float) -> Decoded:
    """Decode the files that are photographs.

    Shape:
        returns: (photos, size_px, size_px, channels), their paths, and what is wrong with the other files
    """
    photos, names = [], []
    faults: list[Fault] = []
    for path in paths:
        try:
            photos.append(decode_photo(Path(path), size_px, max_megapixels))
            names.append(path)
        except PhotoError as error:
            faults.append((path, str(error).removeprefix(f"{path}: ")))
    stacked = np.stack(photos) if photos else np.empty((0, size_px, size_px, 3), dtype=np.uint8)
    return stacked, names, faults
