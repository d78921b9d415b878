"""Object masks of photographs, which a dataset may have next to its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrine.artifacts import ArtifactError, read_csv

MASKS = "masks.png"


def read_masks(folder: Path, image_paths: Sequence[str], size_px: int) -> dict[str, NDArray[np.bool_]]:
    """Read the masks of photographs in a dataset; omit photographs without a mask, or all if there is no file.

    `masks.png` has square masks stacked vertically, one bit per pixel, in the row order of labels.csv.

    Args:
        size_px: side of the decoded photographs, to which the masks are scaled.

    Shape:
        returns: {image path: (size_px, size_px)}
    Raises:
        ArtifactError: the file is not an image of square masks, or there are more masks than rows.
    """
    path = folder / MASKS
    if not path.is_file():
        return {}
    try:
        with Image.open(path) as image:
            stack = np.asarray(image.convert("1"), dtype=np.bool_)
    except OSError as error:
        raise ArtifactError(f"{path}: is not an image that can be read ({error})") from None
    side, rows = stack.shape[1], read_csv(folder / "labels.csv", dtype=str)["image_path"]
    num = len(stack) // side
    if len(stack) % side or num > len(rows):
        raise ArtifactError(
            f"{path}: {side} x {len(stack)} px are not square masks for the {len(rows)} rows of labels.csv. Delete the "
            "file, or write one mask per row, stacked vertically"
        )
    masks = stack.reshape(num, side, side)
    place = {name: row for row, name in enumerate(rows[:num])}
    return {name: _scaled(masks[place[name]], size_px) for name in image_paths if name in place}


def _scaled(mask: NDArray[np.bool_], size_px: int) -> NDArray[np.bool_]:
    if len(mask) == size_px:
        return mask
    resized = Image.fromarray(mask).convert("L").resize((size_px, size_px), Image.Resampling.NEAREST)
    return np.asarray(resized) > 127
