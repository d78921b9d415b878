"""Draw any number of photographs: seeded crops, flips and tints of photographs of the sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[1]


def draw_gallery(folder: Path, num_photos: int, first: int = 0, step: int = 1, side_px: int = 96) -> None:
    """Write every `step`-th of `num_photos` JPEG files, a folder per thousand, so that processes can share the work."""
    originals = [Image.open(path).convert("RGB") for path in sorted((ROOT / "data/sample/images").iterdir())]
    for number in range(first, num_photos, step):
        path = folder / f"{number // 1000:04d}/{number:07d}.jpg"
        rng = np.random.default_rng(number)
        photo = originals[int(rng.integers(len(originals)))]
        side = int(min(photo.size) * rng.uniform(0.7, 1))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        photo = photo.resize((side_px, side_px), box=(left, top, left + side, top + side))
        if rng.random() < 0.5:
            photo = ImageOps.mirror(photo)
        tint = rng.uniform(0.85, 1.15, 3)
        tinted = np.clip(np.asarray(photo, dtype=np.float64) * tint, 0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tinted).save(path, quality=85)
