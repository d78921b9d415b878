"""Which colors people would call a pixel, from its place in CIE L*a*b*.

The regions are wide and some overlap, as words do: silver is gray or white without its gloss, old gold is brown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.render.textures import Floats

ACHROMATIC, CHROMATIC = 10.0, 12.0
"""Chroma below which a color has no hue, and from which it has one."""
_RELATED = {"silver": {"gray", "white"}, "gray": {"silver"}, "white": {"silver"}, "gold": {"yellow", "brown"}}
_RELATED |= {"yellow": {"gold"}, "brown": {"gold"}}


def lab(pixels: NDArray[Any]) -> Floats:
    """Convert sRGB in [0, 1] to CIE L*a*b* under D65. Shape (..., 3), as given.

    Source: IEC 61966-2-1; CIE 15:2004.
    """
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(
        [[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920], [0.1804375, 0.0721750, 0.9503041]]
    )
    scaled = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def names(pixels: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Say for every color name which pixels, of sRGB in [0, 1], people would call so."""
    lightness, a, b = np.moveaxis(lab(pixels), -1, 0)
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    dull = chroma < ACHROMATIC
    vivid = (chroma >= CHROMATIC) & (lightness > 5)

    def between(low: float, high: float) -> NDArray[np.bool_]:
        return vivid & ((hue - low) % 360 < (high - low) % 360)

    pinkish = between(325, 38) & (lightness > 45)
    return {
        "black": (lightness < 32) & (chroma < 8),
        "gray": dull & (lightness >= 32) & (lightness < 76),
        "white": (chroma < 14) & (lightness >= 74),
        "silver": dull & (lightness >= 40),
        "red": between(8, 45) & (chroma > 30) & (lightness < 60),
        "pink": pinkish & ~(between(8, 38) & (chroma > 45) & (lightness < 62)),
        "brown": between(25, 92) & (lightness < 62) & (chroma < 52) & ~(between(25, 42) & (chroma > 38)),
        "gold": between(66, 96) & (lightness > 40) & (chroma > 20),
        "yellow": between(82, 112) & (lightness > 58) & (chroma > 34),
        "green": between(110, 190),
        "blue": between(200, 304),
        "purple": between(304, 338),
    }


def shares(pixels: NDArray[Any]) -> dict[str, float]:
    """The share of pixels, (num, 3), that each name fits."""
    return {name: float(fits.mean()) if len(pixels) else 0.0 for name, fits in names(pixels).items()}


def lead(pixels: NDArray[Any], color: str) -> float:
    """How clearly a color label is true of some pixels: above 0 if no other color takes more of them.

    For multicolor, two colors that have a hue, or one and black or white, must share the pixels. Transparent things
    have the colors of what is behind them: their lead is 1.
    """
    if color == "transparent":
        return 1.0
    found = shares(pixels)
    if color == "multicolor":
        first, second = sorted((found[n] for n in found if n not in ("silver", "gold")), reverse=True)[:2]
        return min(second - 0.1, 0.8 - first)
    others = [found[name] for name in found if name != color and name not in _RELATED.get(color, ())]
    return min(found[color] - max(others), found[color] - 0.25)
