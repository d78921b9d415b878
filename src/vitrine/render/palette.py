"""Color names that people would use for a pixel, from its position in CIE L*a*b*.

The regions are wide and some overlap, as color names do: silver is gray or white without its gloss, old gold is brown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab

ACHROMATIC, CHROMATIC = 10.0, 12.0
"""Chroma below which a color has no hue, and chroma from which it has one."""
_RELATED = {"silver": {"gray", "white"}, "gray": {"silver"}, "white": {"silver"}, "gold": {"yellow", "brown"}}
_RELATED |= {"yellow": {"gold"}, "brown": {"gold"}}


def names(pixels: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Return, for every color name, which sRGB pixels in [0, 1] people would call by that name."""
    lightness, a, b = np.moveaxis(rgb2lab(pixels), -1, 0)
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
    """Return the share of pixels, (num, 3), that each name fits."""
    return {name: float(fits.mean()) if len(pixels) else 0.0 for name, fits in names(pixels).items()}


def lead(pixels: NDArray[Any], color: str) -> float:
    """Return how clearly a color label fits some pixels: above 0 if no other color covers more of them.

    For multicolor, two colors that have a hue, or one and black or white, must share the pixels. Transparent items
    show the colors behind them: their lead is 1.
    """
    if color == "transparent":
        return 1.0
    fractions = shares(pixels)
    if color == "multicolor":
        first, second = sorted((fractions[n] for n in fractions if n not in ("silver", "gold")), reverse=True)[:2]
        return min(second - 0.1, 0.8 - first)
    others = [fractions[name] for name in fractions if name != color and name not in _RELATED.get(color, ())]
    return min(fractions[color] - max(others), fractions[color] - 0.25)
