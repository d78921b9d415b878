"""Where the object is in each photograph: masks that a dataset may have beside its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrine.artifacts import ArtifactError, read_csv

MASKS = "masks.png"


def read_masks(folder: Path, image_paths: Sequence[str], size_px: int) -> dict[str, NDArray[np.bool_]]:
    """Read the masks of some photographs of a dataset; none of a photograph that has none, or if there is no file.

    `masks.png` has square masks below each other, one bit a pixel, in the order of the rows of labels.csv.

    Args:
        size_px: side to which the masks are scaled: that of the decoded photographs.

    Shape:
        returns: {image path: (size_px, size_px)}
    Raises:
        ArtifactError: the file is not a picture of square masks, or there are more masks than rows.
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
            "file, or write one mask a row, below each other"
        )
    masks = stack.reshape(num, side, side)
    place = {name: row for row, name in enumerate(rows[:num])}
    return {name: _scaled(masks[place[name]], size_px) for name in image_paths if name in place}


def _scaled(mask: NDArray[np.bool_], size_px: int) -> NDArray[np.bool_]:
    if len(mask) == size_px:
        return mask
    resized = Image.fromarray(mask).convert("L").resize((size_px, size_px), Image.Resampling.NEAREST)
    return np.asarray(resized) > 127
