"""Decode photographs of any format into color arrays, with errors for unusable files. Does not need torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vitrine.errors import VitrineError

MIN_SIDE_PX = 8
"""Photographs with a shorter side are too small to learn from."""

HIGHEST_MAX_MEGAPIXELS = 500.0
"""Largest valid `max_megapixels`; Pillow rejects larger images, also inside icons, whatever a header says."""

DRAFT_GAP = 2
"""JPEG files are decoded at 1/8, 1/4 or 1/2 of their size if that leaves at least this many times the target size per
side: 12 megapixels take a third of the time, and the final resampling is antialiased."""

# Set once at import for the whole process: photographs are decoded in threads, where `warnings.catch_warnings` restores
# the filters in any order, which leaves "ignore" behind. Damaged metadata is no reason to reject a photograph.
Image.MAX_IMAGE_PIXELS = int(HIGHEST_MAX_MEGAPIXELS * 1e6)
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Decoding:
    """How files are decoded to arrays, in training, in evaluation and for new files.

    Attributes:
        photo_size_px: the side of the decoded, square photographs
        max_megapixels: larger files are rejected
    """

    photo_size_px: int
    max_megapixels: float


class PhotoError(VitrineError):
    """A file is missing or is not a usable photograph."""


def decode_photo(path: Path, size_px: int, max_megapixels: float) -> NDArray[np.uint8]:
    """Decode a photograph of any mode to a square color array: its center, the shorter side scaled to `size_px`.

    EXIF orientation is applied, transparency is composited on white, 16-bit values keep their high bits, and only the
    first frame of an animation is used.

    Shape:
        returns: (size_px, size_px, channels)
    Raises:
        PhotoError: the file is missing, empty, truncated, not an image, smaller than MIN_SIDE_PX or too large. The size
            is read from the header, before anything is decoded.
    """
    if not path.is_file():
        raise PhotoError(f"{path}: not found")
    if path.stat().st_size == 0:
        raise PhotoError(f"{path}: is empty (0 bytes)")
    try:
        with Image.open(path) as image:
            _check_size(path, image.size, max_megapixels)
            image.seek(0)
            image.draft(None, (DRAFT_GAP * size_px, DRAFT_GAP * size_px))
            image.load()
            square = ImageOps.fit(_to_rgb(ImageOps.exif_transpose(image)), (size_px, size_px), Image.Resampling.BICUBIC)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(f"{path}: is not an image that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError(f"{path}: is larger than the limit of {max_megapixels:g} megapixels") from None
    except Exception as error:  # decoders raise exceptions of many types
        raise PhotoError(f"{path}: cannot be decoded ({str(error) or type(error).__name__})") from error
    return np.asarray(square, dtype=np.uint8)


def _check_size(path: Path, size: tuple[int, int], max_megapixels: float) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise PhotoError(f"{path}: {width} x {height} px is larger than the limit of {max_megapixels:g} megapixels")
    if min(width, height) < MIN_SIDE_PX:
        raise PhotoError(f"{path}: {width} x {height} px is smaller than {MIN_SIDE_PX} px")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit files have one of several modes; a float image with values up to 1 holds fractions.
        scaled = values * 255 if image.mode == "F" and values.max(initial=0) <= 1 else values / 257
        image = Image.fromarray(np.clip(scaled.round(), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, opaque)
    return image.convert("RGB")
