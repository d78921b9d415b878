"""What things are made of: colours, materials and their wear as Mitsuba BSDFs.

The BSDFs are dictionaries for `mitsuba.load_dict`; this module does not import Mitsuba itself.

Source: the opaque ones are Disney's principled BSDF as Mitsuba has it
(Burley, "Physically-based shading at Disney", 2012).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.render import textures
from vitrine.render.textures import RGB, Floats, Generator

TEXTURE_PX = 256

# Hue (turns), saturation and value ranges that people call by these names.
COLORS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "black": ((0.0, 1.0), (0.0, 0.35), (0.03, 0.17)),
    "white": ((0.08, 0.16), (0.0, 0.08), (0.86, 0.98)),
    "gray": ((0.0, 1.0), (0.0, 0.10), (0.33, 0.62)),
    "silver": ((0.5, 0.65), (0.0, 0.05), (0.70, 0.84)),
    "gold": ((0.105, 0.13), (0.45, 0.68), (0.72, 0.92)),
    "blue": ((0.545, 0.65), (0.40, 0.85), (0.18, 0.85)),
    "brown": ((0.035, 0.085), (0.38, 0.75), (0.20, 0.55)),
    "green": ((0.22, 0.46), (0.28, 0.8), (0.2, 0.78)),
    "yellow": ((0.125, 0.165), (0.65, 0.98), (0.80, 1.0)),
    "pink": ((0.90, 0.985), (0.25, 0.62), (0.80, 1.0)),
    "purple": ((0.72, 0.83), (0.3, 0.7), (0.2, 0.62)),
    "red": ((0.965, 1.01), (0.72, 0.95), (0.5, 0.9)),
}
MATERIALS = ("plastic", "metal", "synthetic", "fabric", "leather", "glass", "rubber", "soap", "cotton")
CONDITIONS = ("mint", "new", "used", "worn")
_WEAR = {"mint": 0.0, "new": 0.06, "used": 0.5, "worn": 1.0}


@dataclass(frozen=True)
class Finish:
    """What an item's main surfaces look like; one per item, so that all its views agree."""

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
    """An sRGB colour that people would call by this name; transparent and multicolor have a base colour too."""
    if color == "transparent":
        return colorsys.hsv_to_rgb(rng.choice([0.08, 0.5, 0.58, 0.0]), rng.uniform(0, 0.12), rng.uniform(0.85, 1.0))
    if color == "multicolor":
        return textures.vivid(rng)
    hue, saturation, value = (rng.uniform(low, high) for low, high in COLORS[color])
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def bitmap(picture: Floats, raw: bool = False) -> dict[str, Any]:
    """A texture of sRGB colours, or of raw numbers. Row 0 of the picture is at the top (v = 1)."""
    if raw:
        data: NDArray[Any] = np.ascontiguousarray(picture, dtype=np.float32)
        data = data[..., None] if data.ndim == 2 else data
    else:
        data = np.ascontiguousarray(np.round(np.clip(picture, 0, 1) * 255), dtype=np.uint8)
    return {"type": "bitmap", "picture": data, "raw": raw, "wrap_mode": "repeat"}


def linear(color: RGB) -> list[float]:
    """sRGB to linear light.

    Source: IEC 61966-2-1.
    """
    return [float(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in color]


def rgb(color: RGB) -> dict[str, Any]:
    return {"type": "rgb", "value": linear(color)}


def simple(color: RGB, roughness: float = 0.5, metallic: float = 0.0, specular: float = 0.5) -> dict[str, Any]:
    """A surface of one colour: soles, buckles, caps, clutter."""
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
    """Trims: buckles, zips, bezels."""
    tone = {"gold": (0.85, 0.66, 0.33), "silver": (0.82, 0.82, 0.84), "black": (0.12, 0.12, 0.13)}
    return simple(tone[color], roughness=roughness, metallic=1.0)


def pattern(rng: Generator, finish: Finish, size: int = TEXTURE_PX) -> Floats:
    """The colours of a surface before wear: plain, or for multicolor several colours together."""
    if finish.color == "multicolor":
        kind = rng.integers(0, 3)
        if kind == 0:
            return textures.cloth(rng, size)
        palette = np.array([textures.vivid(rng) for _ in range(4)])
        if kind == 1:
            bands = (np.arange(size) * int(rng.integers(3, 6)) // size) % 4
            return np.array(np.broadcast_to(palette[bands][:, None, :], (size, size, 3)))
        _, which = textures.cells(rng, size, int(rng.integers(6, 40)))
        return palette[which % 4]
    return np.array(np.broadcast_to(np.asarray(finish.rgb), (size, size, 3)))


def stamp(
    base: Floats, colours: Floats, cover: Floats, centre: tuple[float, float], extent: tuple[float, float]
) -> Floats:
    """Lay a picture over another, at a place in u and v (both in [0, 1], v upwards)."""
    from PIL import Image

    size = base.shape[0]
    width, height = max(int(extent[0] * size), 2), max(int(extent[1] * size), 2)
    left, top = int(centre[0] * size - width / 2), int((1 - centre[1]) * size - height / 2)
    box = (max(left, 0), max(top, 0), min(left + width, size), min(top + height, size))
    if box[0] >= box[2] or box[1] >= box[3]:
        return base
    scaled = (
        np.asarray(Image.fromarray((colours * 255).astype(np.uint8)).resize((width, height)), dtype=np.float64) / 255
    )
    mask = np.asarray(Image.fromarray((cover * 255).astype(np.uint8)).resize((width, height)), dtype=np.float64) / 255
    part = slice(box[1] - top, box[3] - top), slice(box[0] - left, box[2] - left)
    result = base.copy()
    region = result[box[1] : box[3], box[0] : box[2]]
    result[box[1] : box[3], box[0] : box[2]] = textures.tint(mask[part], region, scaled[part])
    return result


def surface(rng: Generator, finish: Finish, colours: Floats | None = None, repeat: float = 1.0) -> dict[str, Any]:
    """The BSDF of an item's main surface: its material's gloss and relief, its colours, its wear.

    Args:
        colours: (size, size, 3) sRGB; by default the finish's own pattern.
        repeat: how often the relief repeats over the surface; larger for larger things.
    """
    size = TEXTURE_PX
    rng = np.random.default_rng(rng.integers(2**63))  # however much is drawn here, the item's shape stays the same
    base = pattern(rng, finish) if colours is None else colours
    printed = np.abs(base - np.asarray(finish.rgb)).max(axis=-1) > 0.25
    wear, material = finish.wear, finish.material
    relief: Floats | None = None
    relief_depth = 0.0
    roughness, specular, metallic, sheen, clearcoat, flatness = 0.5, 0.5, 0.0, 0.0, 0.0, 0.0

    if material == "plastic":
        roughness, clearcoat = rng.uniform(0.15, 0.45), rng.choice([0.0, 0.0, 0.8])
    elif material == "metal":
        bare = finish.color in ("silver", "gold") or (finish.color not in ("white", "black") and rng.random() < 0.35)
        metallic, roughness = (1.0, rng.uniform(0.12, 0.4)) if bare else (0.1, rng.uniform(0.2, 0.4))
        clearcoat = 0.0 if bare else 0.8  # lacquer
        if rng.random() < 0.5:
            streaks = np.repeat(textures.noise(rng, size, 64, 2)[:, :1], size, axis=1)
            base = np.clip(base * (0.88 + 0.2 * streaks[..., None]), 0, 1)
    elif material == "rubber":
        roughness, specular = rng.uniform(0.55, 0.8), 0.3
    elif material == "soap":
        roughness, specular, flatness = rng.uniform(0.35, 0.55), 0.45, 0.5
        base = np.clip(base * (0.94 + 0.1 * textures.noise(rng, size, 3, 4))[..., None], 0, 1)
    elif material == "glass":
        roughness, specular, clearcoat = 0.06, 0.6, 1.0
    elif material == "leather":
        border, _ = textures.cells(rng, size, int(rng.choice([900, 2000, 4000])))
        relief, relief_depth = border, rng.uniform(0.001, 0.004)
        roughness, specular = rng.uniform(0.32, 0.55), 0.55
        base = np.clip(base * (0.85 + 0.22 * textures.noise(rng, size, 4, 4))[..., None], 0, 1)
        base = base * (0.86 + 0.14 * np.clip(border * 3, 0, 1))[..., None]
    else:
        threads = {"synthetic": 120, "fabric": 84, "cotton": 100}[material] * repeat
        relief = textures.weave(size, int(threads), twill=material == "fabric")
        relief_depth = {"synthetic": 0.002, "fabric": 0.004, "cotton": 0.003}[material]
        roughness = {"synthetic": rng.uniform(0.5, 0.7), "fabric": 0.9, "cotton": 1.0}[material]
        specular = {"synthetic": 0.4, "fabric": 0.12, "cotton": 0.05}[material]
        sheen = {"synthetic": 0.25, "fabric": 0.7, "cotton": 0.5}[material]
        base = base * (0.9 + 0.1 * relief)[..., None]
        if material == "cotton":
            base = base * (0.92 + 0.12 * rng.random((size, size)))[..., None]
        base = np.clip(base, 0, 1)

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
    opacity = np.where(printed & (colours is not None), 1.0, rng.uniform(0.12, 0.5) + 0.15 * wear)
    inner |= {"roughness": 0.08 + 0.1 * float(rng.random()), "specular": 0.9, "clearcoat": 1.0}
    # Seen through rather than refracted: light finds its way through a mask, so that few paths are enough.
    return {"type": "mask", "opacity": bitmap(opacity, raw=True), "bsdf": {"type": "twosided", "bsdf": inner}}


def clear(color: RGB) -> dict[str, Any]:
    """A thin wall that lets light through, tinted."""
    tinted = tuple(float(c) ** 0.6 for c in color)
    return {
        "type": "thindielectric",
        "int_ior": 1.5,
        "specular_transmittance": {"type": "rgb", "value": linear((tinted[0], tinted[1], tinted[2]))},
    }


def worn(rng: Generator, base: Floats, roughness: float, wear: float, *, soft: bool) -> tuple[Floats, Floats]:
    """Fade, stain, scratch and scuff a surface. Returns its colours and a map of its roughness."""
    size = base.shape[0]
    rough = np.full((size, size), roughness)
    if wear < 0.01:
        return base, rough
    amount = wear * rng.uniform(0.6, 1.2)
    gray = base.mean(axis=-1, keepdims=True)
    fade = textures.noise(rng, size, 3, 4)[..., None] * 0.45 * amount
    base = base * (1 - fade) + (0.75 * gray + 0.2) * fade
    dirt = textures.blotches(rng, size, min(0.32 * amount, 0.5)) * 0.6
    base = textures.tint(dirt, base, base * np.array([0.52, 0.44, 0.34]))
    if soft:
        fray = textures.blotches(rng, size, min(0.2 * amount, 0.35), 12) * 0.5
        base = textures.tint(fray, base, np.clip(base * 0.7 + 0.25, 0, 1))
    else:
        lines = textures.scratches(rng, size, int(110 * amount)) * 0.8
        base = textures.tint(lines, base, np.clip(base * 0.55 + 0.38, 0, 1))
        rough = rough + 0.3 * lines
    edges = 1 - np.clip(np.minimum(*np.mgrid[:size, :size][:, ::1] / size) / 0.05, 0, 1)
    scuffs = edges * textures.noise(rng, size, 12, 3) * amount * 0.7
    base = textures.tint(np.clip(scuffs, 0, 1), base, np.clip(base * 0.6 + 0.3, 0, 1))
    rough = np.clip(rough + 0.25 * amount * textures.noise(rng, size, 4, 4) + 0.2 * dirt, 0.05, 1)
    return np.clip(base, 0, 1), rough
