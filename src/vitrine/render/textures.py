"""Procedural pictures for surfaces: cloth, wood, tiles, leather, printed labels, scratches. All from a seed.

Colors are sRGB in [0, 1]; heights and masks are in [0, 1]. Every picture is square, (size, size) or (size, size, 3).
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
RGB = tuple[float, float, float]
Generator = np.random.Generator

# Syllables of invented words: no brand name appears in a render.
_SYLLABLES = (
    "ve",
    "lo",
    "mi",
    "ra",
    "so",
    "na",
    "tri",
    "ka",
    "bel",
    "or",
    "zu",
    "fen",
    "pal",
    "dor",
    "nix",
    "au",
    "ly",
)


def noise(rng: Generator, size: int, cells: int, octaves: int = 4) -> Floats:
    """Fractal value noise: octaves of smooth random grids, each twice as fine and half as strong."""
    total, strength, weight = np.zeros((size, size)), 0.0, 1.0
    for _ in range(octaves):
        if cells >= size:
            break
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
        strength += weight
        cells, weight = cells * 2, weight / 2
    total /= strength
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-9)


def tint(mask: Floats, low: RGB | Floats, high: RGB | Floats) -> Floats:
    """Blend two colors, or two pictures, by a mask."""
    return np.asarray(low) * (1 - mask[..., None]) + np.asarray(high) * mask[..., None]


def weave(size: int, threads: int, twill: bool = False) -> Floats:
    """Heights of woven threads."""
    y, x = np.mgrid[:size, :size] * (threads / size)
    if twill:
        return 0.5 + 0.5 * np.sin(2 * np.pi * (x + y) / 2) * np.abs(np.sin(np.pi * x))
    return 0.5 + 0.5 * np.sin(np.pi * x) * np.sin(np.pi * y) * np.sign(np.sin(np.pi * (x + y) / 2) + 1e-9)


def cells(rng: Generator, size: int, num: int) -> tuple[Floats, NDArray[np.int64]]:
    """Voronoi cells: distance to the nearest border (0 on it), and which cell each pixel is in."""
    points = rng.random((num, 2)) * size
    y, x = np.mgrid[:size, :size]
    distances, nearest = cKDTree(points).query(np.column_stack([y.ravel(), x.ravel()]), k=2)
    gap = (distances[:, 1] - distances[:, 0]).reshape(size, size)
    return np.clip(gap / (0.35 * size / np.sqrt(num)), 0, 1), nearest[:, 0].reshape(size, size).astype(np.int64)


def scratches(rng: Generator, size: int, num: int) -> Floats:
    """Thin bright lines in random directions."""
    picture = Image.new("L", (size * 2, size * 2))
    draw = ImageDraw.Draw(picture)
    for _ in range(num):
        x, y = rng.uniform(0, 2 * size, 2)
        angle, length = rng.uniform(0, np.pi), rng.exponential(0.25) * size
        bend = rng.normal(0, 0.1) * length
        middle = (x + length / 2 * np.cos(angle) - bend, y + length / 2 * np.sin(angle) + bend)
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        draw.line([(x, y), middle, end], fill=int(rng.uniform(90, 255)), width=int(rng.integers(1, 4)))
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float64) / 255


def blotches(rng: Generator, size: int, share: float, num_cells: int = 4) -> Floats:
    """Soft spots that cover about `share` of the picture."""
    field = noise(rng, size, num_cells, 5)
    edge = np.quantile(field, 1 - share)
    return np.clip((field - edge) / 0.08 + 0.5, 0, 1) if share > 0 else np.zeros((size, size))


# ---------------------------------------------------------------------------------------------- backgrounds


def bytes_of(color: RGB) -> tuple[int, int, int]:
    """Convert a color to the 8-bit format of Pillow."""
    return (int(255 * color[0]), int(255 * color[1]), int(255 * color[2]))


def muted(rng: Generator, saturation: float = 0.3, value: tuple[float, float] = (0.25, 0.95)) -> RGB:
    """A typical color of floors, walls and tables: mostly gray or beige."""
    hue = rng.random() if rng.random() < 0.25 else rng.choice([0.07, 0.09, 0.12, 0.58]) + rng.normal(0, 0.015)
    return colorsys.hsv_to_rgb(float(hue) % 1.0, saturation * float(rng.beta(1, 3)), float(rng.uniform(*value)))


def vivid(rng: Generator) -> RGB:
    """A typical color of packaging and clothes: red, orange, yellow and blue more often than violet."""
    hue = (
        rng.random() if rng.random() < 0.35 else float(rng.choice([0.0, 0.06, 0.13, 0.58, 0.62]) + rng.normal(0, 0.02))
    )
    return colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.35, 0.9), rng.uniform(0.3, 0.95))


def plain(rng: Generator, size: int) -> Floats:
    base = np.array(muted(rng))
    return np.clip(tint(noise(rng, size, 3, 5), base * 0.9, base * 1.06), 0, 1)


def wood(rng: Generator, size: int) -> Floats:
    """Planks with grain along x."""
    hue, value = rng.uniform(0.05, 0.11), rng.uniform(0.3, 0.85)
    light = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.2, 0.6), value))
    planks = int(rng.integers(1, 7))
    y, x = np.mgrid[:size, :size] / size
    row = np.floor(y * planks).astype(int)
    shift = rng.random(planks)[row]
    warp = noise(rng, size, 3, 3)
    rings = np.sin((y * planks * 9 + 5 * warp + 40 * shift + 0.4 * x) * 2 * np.pi * rng.uniform(0.4, 1.2))
    streaks = Image.fromarray(rng.random((size, max(size // 24, 2))).astype(np.float32))
    fine = np.asarray(streaks.resize((size, size), Image.Resampling.BILINEAR))
    shade = 0.55 + 0.2 * rings + 0.35 * (fine - 0.5) + 0.3 * (shift - 0.5)
    picture = tint(np.clip(shade, 0, 1), light * rng.uniform(0.45, 0.75), light)
    gap = (y * planks) % 1 < 0.02 * planks / 2
    return np.asarray(np.where(gap[..., None] & (planks > 1), picture * 0.45, picture))


def tiles(rng: Generator, size: int) -> Floats:
    rows = int(rng.integers(2, 9))
    y, x = np.mgrid[:size, :size] / size * rows
    if rng.random() < 0.4:
        x = x + 0.5 * (np.floor(y) % 2)
    base, other = np.array(muted(rng)), np.array(muted(rng))
    checker = ((np.floor(x) + np.floor(y)) % 2)[..., None] if rng.random() < 0.35 else 0.0
    jitter = rng.normal(1, 0.04, (rows + 1, rows + 2))[np.floor(y).astype(int), np.floor(x).astype(int)]
    picture = (base * (1 - checker) + other * checker) * jitter[..., None]
    picture = picture * (0.92 + 0.12 * noise(rng, size, 6, 4))[..., None]
    width = rng.uniform(0.015, 0.06)
    grout = (np.minimum(x % 1, y % 1) < width)[..., None]
    return np.clip(np.where(grout, np.array(muted(rng, 0.1)), picture), 0, 1)


def terrazzo(rng: Generator, size: int) -> Floats:
    """Stone with chips of several colors, or fine granite."""
    _, which = cells(rng, size, int(rng.choice([300, 1200, 4000])))
    palette = np.array([muted(rng) for _ in range(5)])
    base = np.array(muted(rng, 0.15, (0.4, 0.95)))
    chips = rng.random(which.max() + 1) < rng.uniform(0.15, 0.6)
    colors = np.where(chips[:, None], palette[rng.integers(0, 5, len(chips))], base)
    return np.clip(colors[which] * (0.9 + 0.2 * noise(rng, size, 8, 4))[..., None], 0, 1)


def cloth(rng: Generator, size: int) -> Floats:
    """Stripes, checks, dots or flowers on woven cloth."""
    y, x = np.mgrid[:size, :size] / size
    base, second, third = (np.array(vivid(rng) if rng.random() < 0.6 else muted(rng)) for _ in range(3))
    count, kind = int(rng.integers(3, 14)), rng.integers(0, 4)
    if kind == 0:
        angle = rng.uniform(0, np.pi)
        picture = tint(
            (np.sin(2 * np.pi * count * (x * np.cos(angle) + y * np.sin(angle))) > rng.uniform(-0.5, 0.7)) * 1.0,
            base,
            second,
        )
    elif kind == 1:
        bars = 0.5 * ((x * count) % 1 < 0.5) + 0.5 * ((y * count) % 1 < 0.5)
        picture = tint(bars, base, second)
    else:
        points = rng.random((count * count, 2))
        tree = cKDTree(points)
        distance, which = tree.query(np.column_stack([y.ravel(), x.ravel()]))
        offset = np.column_stack([y.ravel(), x.ravel()]) - points[which]
        petals = rng.integers(3, 8) if kind == 3 else 0
        angle = np.arctan2(offset[:, 0], offset[:, 1]) + rng.uniform(0, 6, len(points))[which]
        radius = rng.uniform(0.2, 0.6) / count * (1 + 0.45 * np.cos(petals * angle))
        inside = (distance < radius).reshape(size, size) * 1.0
        heart = (distance < 0.3 * radius).reshape(size, size) * 1.0
        picture = tint(heart, tint(inside, base, second), third)
    return np.clip(picture * (0.86 + 0.2 * weave(size, 90) * noise(rng, size, 4, 4))[..., None], 0, 1)


def carpet(rng: Generator, size: int) -> Floats:
    base, other = np.array(muted(rng, 0.6)), np.array(muted(rng, 0.6))
    pattern = blotches(rng, size, rng.uniform(0.1, 0.6), int(rng.integers(3, 12)))
    return np.clip(tint(pattern, base, other) * (0.6 + 0.5 * rng.random((size, size)))[..., None], 0, 1)


def dead_leaves(rng: Generator, size: int) -> Floats:
    """Overlapping opaque discs and boxes of all sizes, with the statistics of a cluttered scene.

    Source: Lee, Mumford and Huang, "Occlusion models for natural images" (2001): radii follow r^-3.
    """
    picture = Image.new("RGB", (size, size), bytes_of(muted(rng)))
    draw = ImageDraw.Draw(picture)
    palette = [vivid(rng) if rng.random() < 0.4 else muted(rng, 0.5) for _ in range(9)]
    for _ in range(350):
        radius = min(0.02 / np.sqrt(1 - rng.random() * 0.995), 0.28) * size
        x, y = rng.uniform(-0.1, 1.1, 2) * size
        shade = rng.uniform(0.5, 1.1)
        fill = tuple(int(min(255, 255 * c * shade)) for c in palette[rng.integers(0, 9)])
        bounds = (x - radius, y - radius * rng.uniform(0.4, 1.5), x + radius, y + radius)
        if bounds[3] > bounds[1]:
            (draw.ellipse if rng.random() < 0.4 else draw.rectangle)(bounds, fill=fill)
    return np.asarray(picture, dtype=np.float64) / 255


def shelf(rng: Generator, size: int) -> Floats:
    """A store shelf: rows of packages, bottles and price tags."""
    picture = Image.new("RGB", (size, size), bytes_of(muted(rng, 0.2)))
    draw = ImageDraw.Draw(picture)
    rows = int(rng.integers(2, 5))
    height = size / rows
    for row in range(rows):
        x = 0.0
        while x < size:
            width, tall = rng.uniform(0.06, 0.16) * size, rng.uniform(0.55, 0.88) * height
            fill, mark = (bytes_of(vivid(rng)) for _ in range(2))
            for _ in range(int(rng.integers(1, 4))):
                top, bottom = (row + 0.93) * height - tall, (row + 0.93) * height
                draw.rounded_rectangle((x, top, x + width * 0.94, bottom), width * rng.uniform(0, 0.4), fill=fill)
                draw.rectangle((x + width * 0.15, top + tall * 0.35, x + width * 0.8, top + tall * 0.65), fill=mark)
                x += width
        draw.rectangle((0, (row + 0.93) * height, size, (row + 1) * height), fill=(225, 225, 220))
    return gaussian_filter(np.asarray(picture, dtype=np.float64) / 255, (1.2, 1.2, 0))


SURFACES: tuple[tuple[Callable[[Generator, int], Floats], float], ...] = (
    (plain, 0.42),
    (wood, 0.16),
    (tiles, 0.14),
    (terrazzo, 0.12),
    (cloth, 0.1),
    (carpet, 0.06),
    (dead_leaves, 0.04),
)
WALLS: tuple[tuple[Callable[[Generator, int], Floats], float], ...] = (
    (plain, 0.5),
    (tiles, 0.1),
    (wood, 0.08),
    (cloth, 0.1),
    (dead_leaves, 0.08),
    (shelf, 0.15),
)


def pick(rng: Generator, choices: tuple[tuple[Callable[[Generator, int], Floats], float], ...], size: int) -> Floats:
    weights = np.array([weight for _, weight in choices])
    return choices[rng.choice(len(choices), p=weights / weights.sum())][0](rng, size)


# -------------------------------------------------------------------------------------------------- printing


def word(rng: Generator, syllables: int = 2) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(syllables))


def _paste(picture: Image.Image, text: str, box: tuple[float, float, float, float], fill: tuple[int, int, int]) -> None:
    """Draw text stretched to fill a box."""
    font = ImageFont.load_default(48)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (max(int(right - left), 1), max(int(bottom - top), 1)))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font)
    size = (max(int(box[2] - box[0]), 1), max(int(box[3] - box[1]), 1))
    picture.paste(fill, (int(box[0]), int(box[1])), mask.resize(size, Image.Resampling.BILINEAR))


def logo(rng: Generator, ink: RGB, size: int = 128) -> tuple[Floats, Floats]:
    """A logo: a word or a simple symbol. Returns colors (size, size, 3) and coverage (size, size)."""
    cover = Image.new("L", (size, size))
    draw = ImageDraw.Draw(cover)
    s = float(size)
    kind = rng.integers(0, 5)
    if kind <= 1:
        name = word(rng, int(rng.integers(1, 4)))
        text = Image.new("RGB", (size, size))
        _paste(
            text,
            name.upper() if rng.random() < 0.5 else name,
            (0.05 * s, 0.35 * s, 0.95 * s, 0.65 * s),
            (255, 255, 255),
        )
        cover = text.convert("L")
    elif kind == 2:
        for k in range(3):
            draw.polygon(
                [
                    (s * (0.1 + 0.22 * k), 0.8 * s),
                    (s * (0.25 + 0.22 * k), 0.8 * s),
                    (s * (0.45 + 0.22 * k), (0.5 - 0.15 * k) * s),
                    (s * (0.32 + 0.22 * k), (0.5 - 0.15 * k) * s),
                ],
                fill=255,
            )
    elif kind == 3:
        draw.ellipse((0.2 * s, 0.2 * s, 0.8 * s, 0.8 * s), outline=255, width=int(0.08 * s))
        draw.ellipse((0.42 * s, 0.42 * s, 0.58 * s, 0.58 * s), fill=255)
    else:
        sides, turn = int(rng.integers(3, 7)), rng.uniform(0, 360)
        draw.regular_polygon((s / 2, s / 2, 0.38 * s), sides, rotation=turn, fill=255)
        draw.regular_polygon((s / 2, s / 2, 0.2 * s), sides, rotation=turn, fill=0)
    colors = np.broadcast_to(np.asarray(ink), (size, size, 3))
    return np.array(colors), np.asarray(cover, dtype=np.float64) / 255


def ink_on(rng: Generator, paper: RGB) -> RGB:
    """An ink color that is legible on the given paper."""
    bright = 0.3 * paper[0] + 0.59 * paper[1] + 0.11 * paper[2]
    if rng.random() < 0.6:
        return (0.95, 0.95, 0.93) if bright < 0.5 else (0.06, 0.06, 0.1)
    hue = rng.random()
    return colorsys.hsv_to_rgb(hue, 0.8, 0.35) if bright > 0.5 else colorsys.hsv_to_rgb(hue, 0.35, 0.95)


def barcode(rng: Generator, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), (245, 245, 242))
    draw = ImageDraw.Draw(picture)
    x = 0.1 * width
    while x < 0.9 * width:
        bar = rng.uniform(0.01, 0.035) * width
        draw.rectangle((x, 0.12 * height, x + bar, 0.7 * height), fill=(15, 15, 15))
        x += bar + rng.uniform(0.015, 0.04) * width
    draw.rectangle((0.2 * width, 0.8 * height, 0.8 * width, 0.9 * height), fill=(60, 60, 60))
    return picture


def printed(rng: Generator, paper: RGB, size: tuple[int, int], crowded: float = 0.5, most: float = 0.3) -> Floats:
    """A printed package: brand, band of color, picture, small print. Shape (size[1], size[0], 3).

    Args:
        size: width and height in pixels.
        crowded: 0 is a single word, 1 is a full advertisement.
        most: maximum share of the paper that is printed on: the rest determines the package's color label.
    """
    while True:
        page = _printed(rng, paper, size, crowded)
        if np.mean(np.abs(page - np.asarray(paper)).max(axis=-1) > 0.1) <= most:
            return page


def _printed(rng: Generator, paper: RGB, size: tuple[int, int], crowded: float) -> Floats:
    width, height = size
    picture = Image.new("RGB", size, bytes_of(paper))
    draw = ImageDraw.Draw(picture)
    ink = ink_on(rng, paper)
    second = vivid(rng) if rng.random() < 0.6 else ink
    if rng.random() < crowded:
        kind = rng.integers(0, 4)
        low, high = sorted(rng.uniform(0.05, 0.95, 2))
        if kind == 0:
            draw.rectangle((0, low * height, width, high * height), fill=bytes_of(second))
        elif kind == 1:
            draw.polygon(
                [(0, high * height), (width, low * height), (width, height), (0, height)], fill=bytes_of(second)
            )
        elif kind == 2:
            draw.ellipse((0.1 * width, low * height, 0.9 * width, (low + 0.5) * height), fill=bytes_of(second))
        else:
            for k in range(int(rng.integers(3, 9))):
                x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.2) * width
                draw.ellipse((x - r, y - r, x + r, y + r), fill=bytes_of(second if k % 2 else vivid(rng)))
    top = rng.uniform(0.12, 0.45)
    tall = rng.uniform(0.1, 0.22) * min(1.0, width / height * 1.2)
    inset = rng.uniform(0.06, 0.2)
    if rng.random() < 0.35 * crowded + 0.1:
        plate = vivid(rng) if rng.random() < 0.5 else (0.95, 0.95, 0.95)
        draw.rounded_rectangle(
            ((inset - 0.04) * width, (top - 0.05) * height, (1.04 - inset) * width, (top + tall + 0.05) * height),
            0.03 * height,
            fill=bytes_of(plate),
        )
        ink = ink_on(rng, plate)
    name = word(rng, int(rng.integers(2, 4)))
    name = name.upper() if rng.random() < 0.5 else name.capitalize()
    _paste(picture, name, (inset * width, top * height, (1 - inset) * width, (top + tall) * height), bytes_of(ink))
    small = ink_on(rng, paper)
    y = top + tall + rng.uniform(0.05, 0.12)
    for _ in range(int(rng.integers(1, 3 + int(9 * crowded)))):
        if y > 0.92:
            break
        reach = rng.uniform(0.3, 0.8)
        line = 0.012 + 0.012 * rng.random()
        start = rng.uniform(0.1, 0.3)
        x = start
        while x < start + reach * 0.7:
            step = rng.uniform(0.02, 0.09)
            draw.rectangle((x * width, y * height, (x + step) * width, (y + line) * height), fill=bytes_of(small))
            x += step + 0.02
        y += line * 2.2
    if rng.random() < 0.35 * crowded:
        code = barcode(rng, max(int(0.4 * width), 8), max(int(0.16 * height), 8))
        picture.paste(code, (int(rng.uniform(0.05, 0.5) * width), int(rng.uniform(0.6, 0.8) * height)))
    return np.asarray(picture, dtype=np.float64) / 255
