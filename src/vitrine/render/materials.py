"""Colors, materials and their wear as Mitsuba BSDFs.

The BSDFs are dictionaries for `mitsuba.load_dict`; this module does not import Mitsuba itself.

Source: the opaque ones are Disney's principled BSDF as implemented in Mitsuba
(Burley, "Physically-based shading at Disney", 2012).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vitrine.render import palette, textures
from vitrine.render.textures import RGB, Floats, Generator

TEXTURE_PX = 256

# Hue (turns), saturation and value ranges that people call by these names, in the sun and in the shade.
COLORS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "black": ((0.0, 1.0), (0.0, 0.15), (0.04, 0.14)),
    "white": ((0.08, 0.16), (0.0, 0.08), (0.86, 0.98)),
    "gray": ((0.0, 1.0), (0.0, 0.07), (0.42, 0.62)),
    "silver": ((0.5, 0.65), (0.0, 0.05), (0.70, 0.84)),
    "gold": ((0.105, 0.13), (0.45, 0.68), (0.72, 0.92)),
    "blue": ((0.545, 0.64), (0.45, 0.88), (0.3, 0.88)),
    "brown": ((0.04, 0.085), (0.42, 0.75), (0.25, 0.55)),
    "green": ((0.24, 0.45), (0.36, 0.85), (0.28, 0.78)),
    "yellow": ((0.125, 0.165), (0.65, 0.98), (0.80, 1.0)),
    "pink": ((0.89, 0.97), (0.28, 0.62), (0.84, 1.0)),
    "purple": ((0.73, 0.82), (0.36, 0.75), (0.3, 0.68)),
    "red": ((0.965, 1.005), (0.75, 0.95), (0.5, 0.88)),
}
MATERIALS = ("plastic", "metal", "synthetic", "fabric", "leather", "glass", "rubber", "soap", "cotton")
CONDITIONS = ("mint", "new", "used", "worn")
_WEAR = {"mint": 0.0, "new": 0.0, "used": 0.6, "worn": 1.0}


@dataclass(frozen=True)
class Finish:
    """Appearance of an item's main surfaces; one per item, so that all its views agree."""

    material: str
    color: str
    condition: str
    rgb: RGB
    transparent: bool

    @property
    def wear(self) -> float:
        """0 is untouched, 1 is worn out."""
        return _WEAR[self.condition]


def sample_rgb(rng: Generator, color: str) -> RGB:
    """Draw an sRGB color that people would call by this name; transparent and multicolor have a base color, too."""
    if color == "transparent":
        return colorsys.hsv_to_rgb(rng.choice([0.08, 0.5, 0.58, 0.0]), rng.uniform(0, 0.12), rng.uniform(0.85, 1.0))
    if color == "multicolor":
        return textures.vivid(rng)
    while True:
        hue, saturation, value = (rng.uniform(low, high) for low, high in COLORS[color])
        sampled = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
        light = np.array([sampled, sampled]) * [[1.0], [1.0 if color == "white" else 0.8]]
        if palette.names(light)[color].all():
            return sampled


def bitmap(picture: Floats, raw: bool = False) -> dict[str, Any]:
    """A texture of sRGB colors, or of raw numbers. Row 0 of the picture is at the top (v = 1)."""
    if raw:
        data: NDArray[Any] = np.ascontiguousarray(picture, dtype=np.float32)
        data = data[..., None] if data.ndim == 2 else data
    else:
        data = np.ascontiguousarray(np.round(np.clip(picture, 0, 1) * 255), dtype=np.uint8)
    return {"type": "bitmap", "picture": data, "raw": raw, "wrap_mode": "repeat"}


def linear(color: RGB) -> list[float]:
    """Convert sRGB to linear light.

    Source: IEC 61966-2-1.
    """
    return [float(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in color]


def rgb(color: RGB) -> dict[str, Any]:
    return {"type": "rgb", "value": linear(color)}


def simple(color: RGB, roughness: float = 0.5, metallic: float = 0.0, specular: float = 0.5) -> dict[str, Any]:
    """A surface of one color: soles, buckles, caps, clutter."""
    return {
        "type": "twosided",
        "bsdf": {
            "type": "principled",
            "base_color": rgb(color),
            "roughness": float(roughness),
            "metallic": float(metallic),
            "specular": float(specular),
        },
    }


def picture(texture: Floats, roughness: float = 0.6, specular: float = 0.4, clearcoat: float = 0.0) -> dict[str, Any]:
    """A surface with a picture on it: printed cardboard, floors, dials."""
    return {
        "type": "twosided",
        "bsdf": {
            "type": "principled",
            "base_color": bitmap(texture),
            "roughness": float(roughness),
            "specular": float(specular),
            "clearcoat": float(clearcoat),
            "clearcoat_gloss": 0.9,
        },
    }


def metal(color: str, roughness: float = 0.2) -> dict[str, Any]:
    """Metal trim: buckles, zippers, bezels."""
    tone = {"gold": (0.85, 0.66, 0.33), "silver": (0.82, 0.82, 0.84), "black": (0.12, 0.12, 0.13)}
    return simple(tone[color], roughness=roughness, metallic=1.0)


def pattern(rng: Generator, finish: Finish, size: int = TEXTURE_PX) -> Floats:
    """The colors of a surface before wear: plain, or several colors if multicolor."""
    if finish.color == "multicolor":
        kind = rng.integers(0, 2)
        names = rng.choice(["red", "blue", "green", "yellow", "pink", "purple", "white"], 4, replace=False)
        inks = np.array([sample_rgb(rng, str(name)) for name in names])
        if kind == 0:
            bands = (np.arange(size) * int(rng.integers(8, 14)) // size) % 4
            return np.array(np.broadcast_to(inks[bands][:, None, :], (size, size, 3)))
        _, which = textures.cells(rng, size, int(rng.integers(30, 90)))
        return inks[which % 4]
    return np.array(np.broadcast_to(np.asarray(finish.rgb), (size, size, 3)))


def stamp(
    base: Floats, colors: Floats, cover: Floats, center: tuple[float, float], extent: tuple[float, float]
) -> Floats:
    """Overlay a picture on another, at a position in u and v (both in [0, 1], v upward)."""
    from PIL import Image

    size = base.shape[0]
    width, height = max(int(extent[0] * size), 2), max(int(extent[1] * size), 2)
    left, top = int(center[0] * size - width / 2), int((1 - center[1]) * size - height / 2)
    box = (max(left, 0), max(top, 0), min(left + width, size), min(top + height, size))
    if box[0] >= box[2] or box[1] >= box[3]:
        return base
    scaled = (
        np.asarray(Image.fromarray((colors * 255).astype(np.uint8)).resize((width, height)), dtype=np.float64) / 255
    )
    mask = np.asarray(Image.fromarray((cover * 255).astype(np.uint8)).resize((width, height)), dtype=np.float64) / 255
    part = slice(box[1] - top, box[3] - top), slice(box[0] - left, box[2] - left)
    result = base.copy()
    region = result[box[1] : box[3], box[0] : box[2]]
    result[box[1] : box[3], box[0] : box[2]] = textures.tint(mask[part], region, scaled[part])
    return result


def surface(rng: Generator, finish: Finish, colors: Floats | None = None, repeat: float = 1.0) -> dict[str, Any]:
    """The BSDF of an item's main surface: its material's gloss and relief, its colors, its wear.

    Args:
        colors: (size, size, 3) sRGB; by default the finish's own pattern.
        repeat: how often the relief repeats over the surface; larger for larger things.
    """
    size = TEXTURE_PX
    rng = np.random.default_rng(rng.integers(2**63))  # so that draws below do not affect the item's shape
    base = pattern(rng, finish) if colors is None else colors
    printed = np.abs(base - np.asarray(finish.rgb)).max(axis=-1) > 0.25
    wear, material = finish.wear, finish.material
    relief: Floats | None = None
    relief_depth = 0.0
    roughness, specular, metallic, sheen, clearcoat, flatness = 0.5, 0.5, 0.0, 0.0, 0.0, 0.0

    if material == "plastic":  # molded: soft highlights, one even color
        roughness, specular, flatness = rng.uniform(0.28, 0.5), 0.5, 0.4
    elif material == "metal":
        lacquered = finish.color in ("white", "black", "multicolor")
        metallic, roughness = (0.3, 0.25) if lacquered else (0.95, rng.uniform(0.16, 0.34))
        clearcoat = 0.8 if lacquered else 0.0
        base = base if lacquered else np.clip(base * 1.08 + 0.02, 0, 1)
        if rng.random() < 0.5:  # brushed
            streaks = np.repeat(textures.noise(rng, size, 64, 2)[:, :1], size, axis=1)
            base = np.clip(base * (0.9 + 0.16 * streaks[..., None]), 0, 1)
    elif material == "rubber":  # matte, with fine grooves
        roughness, specular = rng.uniform(0.7, 0.9), 0.2
        grooves = np.sin(np.arange(size) * 2 * np.pi * 20 * repeat / size)
        relief, relief_depth = np.array(np.broadcast_to(0.5 + 0.5 * grooves[:, None], (size, size))), 0.002
    elif material == "soap":
        roughness, specular, flatness = rng.uniform(0.35, 0.55), 0.45, 0.5
        base = np.clip(base * (0.94 + 0.1 * textures.noise(rng, size, 3, 4))[..., None], 0, 1)
    elif material == "glass":
        roughness, specular, clearcoat = 0.03, 0.9, 1.0
    elif material == "leather":  # grain
        border, _ = textures.cells(rng, size, int(rng.choice([500, 900, 1600]) * repeat))
        relief, relief_depth = border, rng.uniform(0.003, 0.006)
        roughness, specular = rng.uniform(0.3, 0.45), 0.6
        base = np.clip(base * (0.9 + 0.16 * textures.noise(rng, size, 4, 4))[..., None], 0, 1)
        base = base * (0.72 + 0.28 * np.clip(border * 2.5, 0, 1))[..., None]
    elif material == "synthetic":  # smooth nylon with a grid of stronger threads
        y, x = np.mgrid[:size, :size] * (rng.choice([14, 20]) * repeat / size)
        grid = np.maximum(np.abs(x % 1 - 0.5), np.abs(y % 1 - 0.5)) > 0.44
        relief, relief_depth = gaussian_filter(grid * 1.0, 1.0), 0.002
        roughness, specular, sheen = rng.uniform(0.3, 0.45), 0.6, 0.3
        base = np.clip(base * (1.0 - 0.12 * grid[..., None]), 0, 1)
    elif material == "fabric":  # coarse threads of two shades
        threads = textures.weave(size, int(44 * repeat), twill=True)
        relief, relief_depth = threads, 0.006
        roughness, specular, sheen = 0.95, 0.08, 0.6
        shade = 0.8 + 0.24 * np.repeat(rng.random((size, size // 8)), 8, axis=1)[:, :size]
        base = np.clip(base * ((0.82 + 0.18 * threads) * shade)[..., None], 0, 1)
    else:  # cotton: soft, matte, even
        threads = textures.weave(size, int(100 * repeat))
        relief, relief_depth = threads, 0.002
        roughness, specular, sheen = 1.0, 0.03, 0.8
        base = np.clip(base * (0.95 + 0.05 * threads)[..., None], 0, 1)

    base, roughness_map = worn(rng, base, roughness, wear, soft=material in ("synthetic", "fabric", "cotton"))
    inner: dict[str, Any] = {
        "type": "principled",
        "base_color": bitmap(base),
        "roughness": bitmap(roughness_map, raw=True),
        "metallic": float(metallic),
        "specular": float(specular),
        "sheen": float(sheen),
        "sheen_tint": 0.5,
        "clearcoat": float(clearcoat * (1 - 0.7 * wear)),
        "clearcoat_gloss": 0.9,
        "flatness": float(flatness),
    }
    if relief is not None:
        inner = {"type": "bumpmap", "height": bitmap(relief, raw=True), "scale": float(relief_depth * 4), "bsdf": inner}
    opaque = {"type": "twosided", "bsdf": inner}
    if not finish.transparent:
        return opaque
    # A tint must be visible against any background, and so must prints.
    tinted = finish.color != "transparent"
    if material == "glass":  # reflects light, and transmits less of it the darker it is
        share = 0.6 if finish.color in ("black", "white") else rng.uniform(0.35, 0.5) if tinted else 0.03
        pale = (finish.rgb[0] ** 0.5, finish.rgb[1] ** 0.5, finish.rgb[2] ** 0.5)  # light passes through two walls
        cover = np.where(printed & (colors is not None), 1.0, share + 0.15 * wear)
        return {"type": "blendbsdf", "weight": bitmap(cover, raw=True), "clear": clear(pale), "bsdf": opaque}
    share = 0.78 if finish.color in ("black", "white") else rng.uniform(0.5, 0.65) if tinted else 0.18
    opacity = np.where(printed & (colors is not None), 1.0, np.minimum(share + 0.12 * wear, 1.0))
    inner |= {"roughness": rng.uniform(0.16, 0.26), "specular": 0.9}  # hazy, with soft highlights
    # Transparent without refraction: light passes straight through a mask, so that few paths are enough.
    return {"type": "mask", "opacity": bitmap(opacity, raw=True), "bsdf": {"type": "twosided", "bsdf": inner}}


def clear(color: RGB) -> dict[str, Any]:
    """A thin, tinted wall that transmits light."""
    tinted = tuple(float(c) ** 0.6 for c in color)
    return {
        "type": "thindielectric",
        "int_ior": 1.5,
        "specular_transmittance": {"type": "rgb", "value": linear((tinted[0], tinted[1], tinted[2]))},
    }


def worn(rng: Generator, base: Floats, roughness: float, wear: float, *, soft: bool) -> tuple[Floats, Floats]:
    """Fade, stain, scratch and scuff a surface. Returns its colors and a map of its roughness."""
    size = base.shape[0]
    rough = np.full((size, size), roughness)
    if wear < 0.01:
        return base, rough
    amount = wear * rng.uniform(0.85, 1.15)
    heavy = max(amount - 0.6, 0.0)  # only worn-out items are faded, frayed and stained
    gray = base.mean(axis=-1, keepdims=True)
    fade = textures.noise(rng, size, 3, 4)[..., None] * (0.12 * amount + 0.5 * heavy)
    base = base * (1 - fade) + (0.75 * gray + 0.2) * fade
    dirt = textures.blotches(rng, size, min(0.2 * amount + 0.3 * heavy, 0.4)) * min(0.6 + 0.4 * heavy, 0.9)
    base = textures.tint(dirt, base, base * np.array([0.52, 0.44, 0.34]))
    dust = textures.noise(rng, size, 24, 3)[..., None] * 0.25 * amount
    base = base * (1 - dust) + 0.62 * dust
    if soft:
        fray = textures.blotches(rng, size, min(0.2 * amount + 0.2 * heavy, 0.3), 12) * min(0.5 + 0.5 * heavy, 0.8)
        base = textures.tint(fray, base, np.clip(base * 0.6 + 0.32, 0, 1))
    else:
        lines = textures.scratches(rng, size, int(110 * amount + 120 * heavy)) * 0.8
        base = textures.tint(lines, base, np.clip(base * 0.5 + 0.4, 0, 1))
        rough = rough + 0.3 * lines
    edges = 1 - np.clip(np.minimum(*np.mgrid[:size, :size][:, ::1] / size) / 0.05, 0, 1)
    scuffs = edges * textures.noise(rng, size, 12, 3) * amount * 0.8
    base = textures.tint(np.clip(scuffs, 0, 1), base, np.clip(base * 0.6 + 0.3, 0, 1))
    rough = np.clip(rough + 0.25 * amount * textures.noise(rng, size, 4, 4) + 0.2 * dirt, 0.05, 1)
    return np.clip(base, 0, 1), rough
