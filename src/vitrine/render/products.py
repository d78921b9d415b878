"""The ten families of products, each a parametric range of shapes built from a few solids.

Every family is a function from an item to parts; it draws from the item's own generator, so that all views of an item
show the same object. Lengths are in decimeters; objects stand on z = 0 and face -y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitrine.render import materials, textures
from vitrine.render.items import Item
from vitrine.render.materials import Finish, metal, picture, sample_rgb, simple, stamp, surface
from vitrine.render.meshes import (
    Mesh,
    box,
    curve,
    ellipsoid,
    extrude,
    grid,
    join,
    lathe,
    loft,
    smooth,
    tube,
)
from vitrine.render.textures import RGB, Floats, Generator

PX = materials.TEXTURE_PX
_SIZE_FACTOR = {"small": 0.82, "medium": 1.0, "large": 1.2}


@dataclass(frozen=True)
class Part:
    """A solid and its surface.

    role: "body" determines the item's color label; "extra" belongs to the item, but does not affect its color label
        (a tag, a dial); "scene" does not belong to the item (a dish, a hand).
    """

    mesh: Mesh
    bsdf: dict[str, Any]
    role: str = "body"


def build(item: Item, pose: str) -> list[Part]:
    """Build the item's shape and surfaces; a watch's strap is open if it lies flat, otherwise closed."""
    rng = item.rng
    finish = Finish(
        material=item.material,
        color=item.color,
        condition=item.condition,
        rgb=sample_rgb(rng, item.color),
        transparent=item.color == "transparent" or item.material == "glass",
    )
    return _FAMILIES[item.class_label](item, finish, rng, pose)


def _neutral(rng: Generator) -> RGB:
    """Black, white or gray: the color of soles, pumps and buckles."""
    value = float(rng.choice([0.05, 0.12, 0.5, 0.9, 0.95]))
    return (value, value, value)


def _trim(rng: Generator) -> str:
    return str(rng.choice(["gold", "silver", "silver", "black"]))


def _label(
    rng: Generator,
    finish: Finish,
    base: Floats,
    *,
    around: bool,
    crowded: float,
    v: tuple[float, float],
    u_extent: float,
) -> Floats:
    """Print on a body's front and back, or all around it, between two heights (in v); the body's color stays dominant.

    Ink directly on the body may fill the given area; a plate of another color is at most half as wide and tall.
    """
    middle, tall = (v[0] + v[1]) / 2, v[1] - v[0]
    on_body = rng.random() < 0.6
    paper: RGB = finish.rgb if on_body else (textures.vivid(rng) if rng.random() < 0.25 else (0.93, 0.93, 0.9))
    if not on_body:
        u_extent, tall = min(u_extent, 0.2), tall * 0.55
    front, back = (textures.printed(rng, paper, (160, 220), c) for c in (crowded, min(1.0, crowded + 0.3)))
    for at, art in ((0.5, front), (0.0, back), (1.0, back)):
        cover = np.ones(art.shape[:2])
        if on_body:  # ink directly on the body
            cover = np.clip(np.abs(art - np.asarray(paper)).max(axis=-1) * 6, 0, 1)
        base = stamp(base, art, cover, (at, middle), (u_extent, tall))
    if around:
        edge = np.abs(np.abs(np.linspace(1, 0, base.shape[0]) - middle) - tall / 2) < 0.012
        base = np.where(edge[:, None, None], np.asarray(textures.vivid(rng)), base)
    return base


def _paper_tag(rng: Generator, top: tuple[float, float, float], bottom: tuple[float, float, float]) -> list[Part]:
    """A paper tag on a string, from one point to another."""
    art = np.asarray(textures.barcode(rng, 60, 90), dtype=np.float64) / 255
    high, low = np.array(top), np.array(bottom)
    half = np.array([0.3 * np.linalg.norm(high - low), 0, 0])
    sheet = np.array([[low - half, low + half], [high - half, high + half]])
    x, y, z = top
    string = curve((x - 0.12, y, z + 0.2), (x - 0.06, y - 0.02, z + 0.12), top, num=6)
    return [
        Part(grid(sheet), picture(art, 0.7), "extra"),
        Part(tube(string, 0.025), simple((0.9, 0.9, 0.85)), "extra"),
    ]


def _tagged(
    item: Item, rng: Generator, *tags: tuple[tuple[float, float, float], tuple[float, float, float]]
) -> list[Part]:
    """Return a paper tag for each given place if the item is new, else none."""
    return [part for tag in tags for part in _paper_tag(rng, *tag)] if item.condition == "new" else []


def _stickered(item: Item, colors: Floats, low: float, high: float, width: float) -> Floats:
    """Put white barcode stickers on the front and back of new items only, at different heights."""
    if item.condition != "new":
        return colors
    rng = np.random.default_rng([*item.seed, 6])
    for u in (0.08, 0.35, 0.6, 0.85):
        code = np.asarray(textures.barcode(rng, 90, 60), dtype=np.float64) / 255
        at = (u + rng.uniform(-0.04, 0.04), rng.uniform(low, high))
        colors = stamp(colors, code, np.ones(code.shape[:2]), at, (width, width * rng.uniform(0.7, 1.1)))
    return colors


def _seal(item: Item, ring: Mesh) -> list[Part]:
    """Return a strip of printed film around the cap if the item is new, else nothing."""
    if item.condition != "new":
        return []
    strip = np.full((16, 64, 3), (0.96, 0.96, 0.94))
    strip[5:11, ::2] = np.array([0.8, 0.1, 0.1])
    return [Part(ring, picture(strip, 0.2, 0.6, 0.6), "extra")]


def _dented(item: Item, body: Mesh, depth_dm: float = 0.03) -> Mesh:
    """Deform the body if the item is worn."""
    rng = np.random.default_rng([*item.seed, 7])
    return body.wrinkled(rng, depth_dm, 0.6) if item.condition == "worn" else body


def _disc(radius: float, z: float, exponent: float = 2.0) -> Mesh:
    """A flat disc that faces up, with its texture mapped on like a photograph."""
    theta = np.linspace(0, 2 * np.pi, 49)
    x = np.sign(np.cos(theta)) * np.abs(np.cos(theta)) ** (2 / exponent)
    y = np.sign(np.sin(theta)) * np.abs(np.sin(theta)) ** (2 / exponent)
    rim = np.column_stack([radius * x, radius * y, np.full_like(theta, z)])
    points = np.stack([rim, np.broadcast_to([0.0, 0.0, z], rim.shape)])
    uv = np.stack([np.column_stack([0.5 + 0.5 * x, 0.5 + 0.5 * y]), np.full((len(theta), 2), 0.5)])
    return grid(points, uv)


def _ring(radius: float, width: float) -> Mesh:
    """A wire around the z axis, on the ground."""
    angle = np.linspace(0, 2 * np.pi, 49)
    return tube(np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.full(49, width / 2)]), width)


def _cap(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size] ** 0.4
    height = rng.uniform(1.0, 1.35)
    knots = [(0.0, 0.86), (0.35 * height, 0.87), (0.68 * height, 0.70), (0.9 * height, 0.40), (height, 0.0)]
    if rng.random() < 0.4:  # a structured front stands up higher
        knots[2] = (0.72 * height, 0.78)
    profile = smooth(knots, 32)
    depth = rng.uniform(1.08, 1.2)
    crown = loft(
        profile[:, 0],
        profile[:, 1],
        profile[:, 1] * depth,
        center_y=-0.06 * profile[:, 0] / height,
        closed=(False, False),
    )
    colors = materials.pattern(rng, finish)
    second = (
        sample_rgb(rng, str(rng.choice(["white", "black", "red", "blue", "gray"])))
        if rng.random() < 0.12
        else finish.rgb
    )
    if rng.random() < 0.05:  # a mesh back, trucker style
        u = np.linspace(0, 1, PX)
        back = (np.abs(u - 0.5) > 0.17)[None, :, None]
        colors = np.where(back, np.asarray(second) * (0.7 + 0.3 * textures.weave(PX, 60))[..., None], colors)
    for k in range(6):
        column = int((k / 6 + 1 / 12 * (k % 1)) * PX) % PX
        colors[:, column : column + 2] *= 0.62
        eye = slice(int(0.36 * PX), int(0.38 * PX) + 2), slice((column + PX // 12) % PX, (column + PX // 12) % PX + 3)
        colors[eye] *= 0.4
    if rng.random() < 0.85:
        art, cover = textures.logo(rng, textures.ink_on(rng, finish.rgb))
        colors = stamp(
            colors, art, cover, (0.5, rng.uniform(0.3, 0.42)), (rng.uniform(0.12, 0.22), rng.uniform(0.22, 0.4))
        )
    fabric = surface(rng, finish, colors)
    reach, curl = rng.uniform(0.62, 0.85), rng.uniform(0.05, 0.45)
    angle = np.radians(np.linspace(-72, 72, 33))
    inner = np.column_stack([0.87 * np.sin(angle), -0.87 * depth * np.cos(angle), np.full(33, 0.03)])
    outer = np.column_stack(
        [0.92 * np.sin(angle), -0.87 * depth * np.cos(angle) - reach * np.cos(angle * 0.98) ** 0.55, np.full(33, -0.1)]
    )
    rows = []
    for s in np.linspace(0, 1, 12):
        row = inner * (1 - s) + outer * s
        row[:, 2] -= curl * np.sin(angle) ** 2 * (0.35 + 0.65 * s) - 0.04 * np.sin(np.pi * s)
        rows.append(row)
    brim_finish = Finish(finish.material, "", finish.condition, second, False)
    brim_colors = np.array(np.broadcast_to(np.asarray(second), (PX, PX, 3)))
    for v in np.linspace(0.12, 0.95, 7):
        brim_colors[int(v * PX)] *= 0.72
    brim = grid(np.stack(rows))
    edge = tube(rows[-1], 0.035)
    lower = grid(np.stack([row - [0, 0, 0.035] for row in rows]))
    button = ellipsoid(0.16, 0.16, 0.08).moved(y=-0.06, z=height)
    band = loft([0.0, 0.14], [0.845, 0.845], [0.845 * depth] * 2, closed=(False, False))
    under = simple((second[0] * 0.6, second[1] * 0.6, second[2] * 0.6), 0.9, specular=0.1)
    parts = [
        Part(crown.wrinkled(rng, 0.012 + 0.05 * finish.wear * rng.random(), 0.9), fabric),
        Part(join(brim, edge), surface(rng, brim_finish, brim_colors)),
        Part(lower, under),
        Part(button, simple(second, 0.8, specular=0.2)),
        Part(band, under),
        *_tagged(
            item,
            rng,
            ((0.35, -0.68 * depth, 0.95 * height), (0.4, -0.93 * depth, 0.55 * height)),
            ((-0.3, 0.62 * depth, 0.92 * height), (-0.34, 0.92 * depth, 0.5 * height)),
        ),
    ]
    return [replace(part, mesh=part.mesh.scaled(scale)) for part in parts]


def _dial(rng: Generator, finish: Finish) -> Floats:
    size = 192
    tones = [(0.95, 0.95, 0.93), (0.06, 0.06, 0.08), (0.08, 0.12, 0.3), (0.75, 0.75, 0.77), finish.rgb]
    face: RGB = tones[int(rng.integers(0, len(tones)))]
    dial = Image.new("RGB", (size, size), textures.bytes_of(face))
    draw = ImageDraw.Draw(dial)
    ink = textures.bytes_of((0.95, 0.93, 0.85) if sum(face) < 1.5 else (0.08, 0.08, 0.1))
    middle = size / 2

    def point(turn: float, radius: float) -> tuple[float, float]:
        angle = 2 * np.pi * turn
        return (float(middle + radius * middle * np.sin(angle)), float(middle - radius * middle * np.cos(angle)))

    for k in range(60):
        long = k % 5 == 0
        draw.line([point(k / 60, 0.78 if long else 0.87), point(k / 60, 0.93)], fill=ink, width=5 if long else 1)
    for place in rng.choice([0.25, 0.5, 0.75], int(rng.choice([0, 0, 1, 3])), replace=False):
        x, y = point(float(place), 0.42)
        draw.ellipse((x - 20, y - 20, x + 20, y + 20), outline=ink, width=2)
        draw.line([(x, y), (x + 9, y - 12)], fill=ink, width=2)
    hours, minutes = rng.random(2)
    draw.line([point(hours + 0.5, 0.1), point(hours, 0.48)], fill=ink, width=8)
    draw.line([point(minutes + 0.5, 0.1), point(minutes, 0.74)], fill=ink, width=5)
    seconds = rng.random()
    draw.line([point(seconds + 0.5, 0.2), point(seconds, 0.84)], fill=(200, 60, 40), width=2)
    draw.ellipse((middle - 7, middle - 7, middle + 7, middle + 7), fill=ink)
    return np.asarray(dial, dtype=np.float64) / 255


def _watch(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    radius = rng.uniform(0.17, 0.23) * _SIZE_FACTOR[item.size] ** 0.5
    exponent = 2.0 if rng.random() < 0.78 else rng.uniform(4, 8)
    is_metal = finish.material == "metal"
    shiny = item.color if item.color in ("silver", "gold", "black") else str(rng.choice(["gold", "silver"]))
    # A metal, rubber or plastic watch has one color; a leather strap comes with a metal case.
    has_trim_case = finish.material == "leather" or (is_metal and item.color in ("silver", "gold", "black"))
    case_metal = metal(shiny, rng.uniform(0.12, 0.3)) if has_trim_case else surface(rng, finish)
    profile = smooth([(-0.08, 0.86), (-0.04, 1.0), (0.03, 1.02), (0.07, 0.97), (0.085, 0.86)], 16)
    case = loft(profile[:, 0], profile[:, 1] * radius, exponent=exponent)
    ring_angle = np.linspace(0, 2 * np.pi, 49)
    ring_x = np.sign(np.cos(ring_angle)) * np.abs(np.cos(ring_angle)) ** (2 / exponent) * radius * 0.9
    ring_y = np.sign(np.sin(ring_angle)) * np.abs(np.sin(ring_angle)) ** (2 / exponent) * radius * 0.9
    bezel = tube(np.column_stack([ring_x, ring_y, np.full_like(ring_x, 0.085)]), rng.uniform(0.025, 0.05), 0.03)
    crown = lathe([(0, 0.03), (0.05, 0.03), (0.06, 0.01)], 8, 16).rotated("y", 90).moved(x=radius)
    width = radius * rng.uniform(0.85, 1.15)
    # A strap around the wrist: an ellipse in the y-z plane, open at the case.
    half_y, half_z = rng.uniform(0.29, 0.34), rng.uniform(0.22, 0.28)
    turn = np.linspace(np.radians(58), np.radians(-238), 72)
    loop = np.column_stack([np.zeros(72), half_y * np.cos(turn), half_z * np.sin(turn) - half_z + 0.0])
    flat_y = np.linspace(radius * 0.8, radius * 0.8 + 0.75, 24)
    flats = [
        np.column_stack([np.zeros(24), sign * flat_y, -0.06 - 0.06 * (flat_y - flat_y[0]) ** 2]) for sign in (1, -1)
    ]
    colors = materials.pattern(rng, finish)
    u = np.arange(PX) / PX
    if is_metal:
        links = int(rng.integers(18, 34))
        joint = ((u * links) % 1 < 0.16)[None, :, None]
        colors = np.where(joint, colors * 0.25, colors)
        if rng.random() < 0.5:
            middle_row = (np.abs((np.arange(PX) / PX) % 0.5 - 0.25) < 0.06)[:, None, None]
            colors = np.where(middle_row & ~joint, colors * 0.8, colors)
    elif finish.material == "leather" and rng.random() < 0.6:
        stitched = (np.abs(np.abs((np.arange(PX) / PX) % 0.5 - 0.25) - 0.17) < 0.012)[:, None] & ((u * 60) % 1 < 0.6)[
            None, :
        ]
        colors = np.where(stitched[..., None], np.asarray(textures.ink_on(rng, finish.rgb)), colors)
    strap = surface(rng, finish, colors)
    dial, _ = materials.worn(rng, _dial(rng, finish), 0.25, 0.8 * finish.wear, soft=False)
    shared = [
        Part(join(case, crown), case_metal, "extra" if finish.material == "leather" else "body"),
        Part(bezel, case_metal, "extra" if finish.material == "leather" else "body"),
        Part(_disc(radius * 0.88, 0.088, exponent), picture(dial, 0.25, 0.5, 0.8), "extra"),
    ]
    if item.condition == "new":  # a film on the glass, with a pull tab
        tab = (0.2, 0.75, 0.3) if item.color in ("brown", "gold", "pink", "white") else (0.97, 0.45, 0.08)
        film = {"type": "mask", "opacity": 0.15, "bsdf": simple((0.85, 0.9, 0.95), 0.1, specular=0.9)}
        pull = box(radius * 0.55, radius * 0.9, 0.012, 0.005, 3).moved(x=radius * 0.3, y=-radius * 1.1, z=0.115)
        shared += [Part(_disc(radius * 0.95, 0.112, exponent), film, "extra"), Part(pull, simple(tab, 0.4), "extra")]
    if pose != "standing":
        taper = 1 - 0.15 * np.sin(np.linspace(0, np.pi, 72))
        strap_mesh = tube(loop, width * taper, 0.045, exponent=4)
    else:
        strap_mesh = join(*(tube(path, width * np.linspace(1, 0.78, 24), 0.04, exponent=4) for path in flats))
        shared.append(Part(box(width * 1.1, 0.06, 0.05, 0.02, 3).moved(y=-radius * 0.8 - 0.76, z=-0.07), metal(shiny)))
    return [Part(strap_mesh, strap), *shared]


def _container(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size]
    round_jar = rng.random() < 0.4
    if round_jar:
        width = depth = rng.uniform(0.42, 0.7) * scale
        height, exponent = rng.uniform(0.7, 1.9) * scale, 2.0
    else:
        width, depth = rng.uniform(0.6, 1.0) * scale, rng.uniform(0.45, 0.75) * scale
        height, exponent = rng.uniform(0.4, 1.1) * scale, rng.uniform(4, 7)
    taper = rng.uniform(0.78, 1.0)
    knots = smooth([(0.0, 0.93 * taper), (0.05, taper), (0.5, (1 + taper) / 2), (1.0, 1.0)], 24)
    body = loft(knots[:, 0] * height, knots[:, 1] * width, knots[:, 1] * depth, exponent=exponent, closed=(True, False))
    finish = replace(finish, transparent=finish.transparent or rng.random() < 0.2)
    colors = materials.pattern(rng, finish)
    if rng.random() < 0.45:
        colors = _label(
            rng,
            finish,
            colors,
            around=rng.random() < 0.3,
            crowded=rng.uniform(0, 0.7),
            v=(0.25, 0.75),
            u_extent=rng.uniform(0.12, 0.25),
        )
    colors = _stickered(item, colors, 0.35, 0.65, 0.16)
    if rng.random() < 0.25:
        for v in np.linspace(0.3, 0.8, int(rng.integers(2, 6))):
            colors[int(v * PX) : int(v * PX) + 3] *= 0.75
    parts = [Part(_dented(item, body), surface(rng, finish, colors))]
    if finish.material == "glass":
        parts.append(Part(_thick_base(width, depth, 0.12 * height, exponent), _solid_glass(finish)))
    if item.color == "transparent" and rng.random() < 0.4:
        level = rng.uniform(0.2, 0.45)
        filling = np.clip(
            textures.tint(textures.cells(rng, PX, 700)[0], (0.35, 0.2, 0.08), textures.muted(rng, 0.8, (0.5, 0.95))),
            0,
            1,
        )
        parts.append(
            Part(
                loft(
                    np.linspace(0.03, level, 6) * height,
                    np.linspace(taper, 1, 6) * width * 0.94,
                    np.linspace(taper, 1, 6) * depth * 0.94,
                    exponent=exponent,
                ),
                picture(filling, 0.8),
            )
        )
    lid_color = (
        finish.rgb if item.color != "transparent" else sample_rgb(rng, str(rng.choice(["white", "white", "gray"])))
    )
    lid_finish = Finish("plastic", item.color, item.condition, lid_color, False)
    tall = rng.uniform(0.1, 0.2)
    if round_jar and item.color != "transparent" and rng.random() < 0.5:
        tall = rng.uniform(0.3, 0.5)
    overhang = rng.uniform(1.02, 1.08)
    profile = smooth(
        [(-0.06, overhang), (tall * 0.7, overhang), (tall * 0.95, overhang * 0.96), (tall, overhang * 0.85)], 12
    )
    lid = loft(
        profile[:, 0] + height,
        profile[:, 1] * width,
        profile[:, 1] * depth,
        exponent=exponent,
        flutes=(48, 0.008) if round_jar and tall > 0.25 else (0, 0.0),
    )
    inset = loft([height + tall, height + tall + 0.025], [0.72 * width] * 2, [0.72 * depth] * 2, exponent=exponent)
    parts.append(Part(join(lid, inset) if rng.random() < 0.6 else lid, surface(rng, lid_finish)))
    seal = np.array([height - 0.11, height + 0.02])
    parts += _seal(item, loft(seal, [1.025 * overhang * width] * 2, [1.025 * overhang * depth] * 2, exponent=exponent))
    if not round_jar and rng.random() < 0.6:  # clips on the sides
        clip = box(0.06, depth * 0.6, 0.28, 0.02, 4)
        parts.append(
            Part(
                join(
                    clip.moved(x=width * overhang + 0.02, z=height - 0.05),
                    clip.moved(x=-width * overhang - 0.02, z=height - 0.05),
                ),
                simple(lid_color, 0.4),
            )
        )
    return parts


def _thick_base(width: float, depth: float, tall: float, exponent: float) -> Mesh:
    """The solid bottom that distinguishes glass from plastic."""
    z = np.array([0.0, 0.2, 1.0]) * tall
    return loft(z, np.array([0.84, 0.92, 0.9]) * width, np.array([0.84, 0.92, 0.9]) * depth, exponent=exponent)


def _solid_glass(finish: Finish) -> dict[str, Any]:
    """Thick glass: dark and bright streaks of its own tint, sharp highlights."""
    shade = (0.62, 0.74, 0.7) if finish.color == "transparent" else tuple(0.8 * c for c in finish.rgb)
    bsdf = simple((shade[0], shade[1], shade[2]), 0.04, specular=1.0)
    return {"type": "mask", "opacity": 0.55, "bsdf": bsdf}


def _sneakers(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    length = 2.8 * _SIZE_FACTOR[item.size] ** 0.4
    high = rng.uniform(0.88, 1.0) if rng.random() < 0.8 else rng.uniform(1.25, 1.5)
    stations = smooth(
        [
            (0.0, 0.05, 0.55 * high),
            (0.02, 0.24, 0.9 * high),
            (0.08, 0.36, high),
            (0.2, 0.40, 0.92 * high),
            (0.32, 0.39, 0.93 * high),
            (0.45, 0.40, 0.76),
            (0.6, 0.47, 0.6),
            (0.75, 0.50, 0.48),
            (0.88, 0.45, 0.40),
            (0.96, 0.30, 0.28),
            (1.0, 0.04, 0.1),
        ],
        64,
    )
    sole_height = rng.uniform(0.2, 0.3)
    angle = np.linspace(0, np.pi, 33)
    side = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.75
    up = np.sin(angle) ** 0.8
    bend = 0.05 * np.sin(np.pi * stations[:, 0])
    points = np.stack(
        [
            np.broadcast_to((stations[:, 0] - 0.5)[:, None] * length, (64, 33)),
            stations[:, 1][:, None] * side[None, :] + bend[:, None],
            sole_height * 0.8 + stations[:, 2][:, None] * up[None, :],
        ],
        axis=-1,
    )
    v, u = np.meshgrid(np.linspace(0, 1, 33), stations[:, 0], indexing="xy")
    upper = grid(points, np.stack([u, v], axis=-1))
    colors = materials.pattern(rng, finish)
    accent: RGB = sample_rgb(rng, str(rng.choice(["white", "black", "gray", "red", "blue", "green", "yellow"])))
    if rng.random() < 0.45:
        colors[:, int(rng.uniform(0.8, 0.88) * PX) :] = accent if rng.random() < 0.4 else np.asarray(finish.rgb) * 0.7
    if rng.random() < 0.4:
        colors[:, : int(rng.uniform(0.06, 0.16) * PX)] = accent
    kind = rng.integers(0, 4)
    for low in (0.2, 0.8):
        if kind == 0:
            for k in range(3):
                x = int((0.42 + 0.07 * k) * PX)
                for row in range(int((low - 0.14) * PX), int((low + 0.14) * PX)):
                    shift = int((row - low * PX) * (0.35 if low < 0.5 else -0.35))
                    colors[row % PX, max(x + shift, 0) : x + shift + 6] = accent
        elif kind == 1:
            art, cover = textures.logo(rng, accent)
            colors = stamp(colors, art, cover, (0.5, low), (0.2, 0.22))
        elif kind == 2:
            wave = low * PX + 0.09 * PX * np.sin(np.linspace(0, 3.3, PX))
            rows = np.abs(np.arange(PX)[:, None] - (PX - wave)[None, :]) < 7
            span = (np.arange(PX) > 0.15 * PX) & (np.arange(PX) < 0.75 * PX)
            colors = np.where((rows & span[None, :])[..., None], np.asarray(accent), colors)
    footprint = np.concatenate(
        [
            np.column_stack([(stations[:, 0] - 0.5) * length, -stations[:, 1] + bend]),
            np.column_stack([(stations[::-1, 0] - 0.5) * length, stations[::-1, 1] + bend[::-1]]),
        ]
    )
    footprint = np.concatenate([footprint, footprint[:1]])
    sole_color = (0.93, 0.93, 0.91) if rng.random() < 0.55 else _neutral(rng) if rng.random() < 0.5 else finish.rgb
    heights = np.array([0.0, 0.02, 0.5, 0.9, 1.0]) * sole_height
    sole = extrude(footprint, heights, [0.98, 1.03, 1.05, 1.03, 1.0])
    tread = extrude(footprint, [-0.02, 0.05], [1.0, 1.035])
    opening = np.linspace(0, 2 * np.pi, 33)
    collar_x = (-0.5 + 0.2) * length + 0.145 * length * np.cos(opening)
    collar_y = 0.25 * np.sin(opening) + 0.02
    collar_z = sole_height * 0.8 + high * 0.93 - 0.03 * np.cos(opening) + 0.05 * (np.cos(opening) < -0.5)
    rim = np.column_stack([collar_x, collar_y, collar_z])
    hole = np.stack(
        [np.broadcast_to(rim.mean(axis=0) + np.array([0, 0, 0.03]), rim.shape), rim + np.array([0, 0, 0.02])]
    )
    lining = simple((0.08, 0.08, 0.09) if rng.random() < 0.6 else _neutral(rng), 0.95, specular=0.1)
    tongue = (
        ellipsoid(0.5, 0.42, 0.14, 3)
        .rotated("y", 38)
        .moved(x=(-0.5 + 0.37) * length, z=sole_height * 0.8 + high * 0.95)
    )
    lace_color = (0.95, 0.95, 0.93) if rng.random() < 0.5 else (0.07, 0.07, 0.08) if rng.random() < 0.6 else accent
    laces = []
    for k, s in enumerate(np.linspace(0.37, 0.64, int(rng.integers(4, 7)))):
        top = float(np.interp(s, stations[:, 0], stations[:, 2])) + sole_height * 0.8
        wide = 0.19 + 0.02 * k
        for sign in (1, -1):
            laces.append(
                tube(
                    curve(
                        ((s - 0.5) * length, -sign * wide, top - 0.10),
                        ((s - 0.49) * length, 0, top + 0.03),
                        ((s - 0.475) * length, sign * wide, top - 0.12),
                        num=9,
                    ),
                    0.055,
                    0.03,
                )
            )
    bow = [
        tube(
            curve(
                ((0.36 - 0.5) * length, 0, sole_height + high * 0.86),
                ((0.38 - 0.5) * length, y, sole_height + high * 0.86),
                ((0.4 - 0.5) * length, y * 1.2, sole_height + high * 0.7),
                num=9,
            ),
            0.045,
            0.03,
        )
        for y in (0.24, -0.24)
    ]
    one = [
        Part(upper.wrinkled(rng, 0.004 + 0.02 * finish.wear, 0.7), surface(rng, finish, colors)),
        Part(sole, surface(rng, Finish("rubber", "", item.condition, sole_color, False))),
        Part(tread, simple(_neutral(rng), 0.9)),
        Part(tube(rim, 0.12), surface(rng, finish)),
        Part(grid(hole), simple((0.03, 0.03, 0.03), 1.0, specular=0.0)),
        Part(tongue, surface(rng, finish)),
        Part(join(*laces, *bow), simple(lace_color, 0.9, specular=0.1)),
        Part(box(0.04, 0.3, 0.5 * high, 0.02, 4).moved(x=-0.5 * length + 0.02, z=sole_height + 0.4 * high), lining),
    ]
    if item.condition == "new":  # stuffed with tissue, tagged on both sides
        tissue = ellipsoid(0.78, 0.44, 0.5, 2.4).wrinkled(np.random.default_rng(item.seed), 0.05, 0.15)
        middle = rim.mean(axis=0)
        one.append(Part(tissue.moved(*middle).moved(z=0.06), simple((0.95, 0.94, 0.9), 0.9), "extra"))
    one += _tagged(
        item,
        rng,
        *(((0.05, y, sole_height + 0.55), (0.12, 1.12 * y, sole_height + 0.02)) for y in (-0.5, 0.56)),
    )
    if rng.random() < 0.65:
        turn, gap = rng.normal(0, 12), rng.uniform(1.15, 1.4)
        other = [
            replace(part, mesh=part.mesh.scaled(1, -1, 1).rotated("z", turn).moved(y=gap, x=rng.normal(0, 0.15)))
            for part in one
        ]
        one = [*one, *other]
    return one


def _deodorant(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size] ** 0.7
    # Cans are metal; roll-ons, sticks and flasks are plastic.
    kind = "flask" if finish.transparent else str(rng.choice(["roll", "stick"]))
    kind = "spray" if finish.material == "metal" else kind
    cap_color: RGB = (
        finish.rgb
        if rng.random() < 0.5 or kind in ("roll", "stick")
        else sample_rgb(rng, str(rng.choice(["white", "black", "gray"])))
    )
    cap_bsdf = simple(cap_color, rng.uniform(0.3, 0.5))
    colors = materials.pattern(rng, finish)
    colors = _label(
        rng,
        finish,
        colors,
        around=rng.random() < 0.3,
        crowded=rng.uniform(0.2, 0.8),
        v=(0.12, 0.82),
        u_extent=rng.uniform(0.3, 0.45),
    )
    colors = _stickered(item, colors, 0.25, 0.7, 0.16)
    if kind == "spray":
        radius, height = rng.uniform(0.2, 0.27) * scale, rng.uniform(1.1, 1.5) * scale
        body = lathe([(0, radius * 0.92), (0.03, radius), (height - 0.06, radius), (height, radius * 0.82)])
        cap_height, cap_radius = rng.uniform(0.25, 0.42) * scale, radius * rng.choice([0.8, 0.9])
        dome = rng.uniform(0.6, 0.98)
        cap = lathe(
            [
                (height - 0.01, cap_radius),
                (height + cap_height * 0.8, cap_radius * 0.97),
                (height + cap_height * 0.96, cap_radius * dome * 0.9),
                (height + cap_height, cap_radius * 0.3 * dome),
            ]
        )
        parts = [Part(_dented(item, body), surface(rng, finish, colors)), Part(cap, cap_bsdf)]
        parts += [  # the bare rims of a can
            Part(lathe([(height - 0.05, radius * 1.0), (height + 0.06, radius * 0.8)], 8), metal("silver", 0.12)),
            Part(_ring(radius * 0.99, 0.03), metal("silver", 0.12)),
        ]
        parts += _seal(item, lathe([(height + 0.04, cap_radius * 1.03), (height + 0.16, cap_radius * 1.03)], 4))
    elif kind == "roll":
        radius, height = rng.uniform(0.2, 0.26) * scale, rng.uniform(0.6, 0.8) * scale
        body = lathe([(0, radius * 0.8), (0.1, radius), (height * 0.7, radius * 0.92), (height, radius * 0.72)])
        cap = lathe(
            [
                (height - 0.02, radius * 0.8),
                (height + 0.12, radius * 0.84),
                (height + 0.35 * scale, radius * 0.8),
                (height + 0.47 * scale, radius * 0.5),
                (height + 0.5 * scale, 0.0),
            ]
        )
        parts = [Part(body, surface(rng, finish, colors)), Part(cap, cap_bsdf)]
        parts += _seal(item, lathe([(height - 0.03, radius * 0.86), (height + 0.13, radius * 0.87)], 4))
    elif kind == "stick":
        wide, deep, height = 0.32 * scale, 0.16 * scale, rng.uniform(0.85, 1.1) * scale
        body = loft(
            np.array([0, 0.04, 0.5, 0.96, 1]) * height,
            np.array([0.95, 1, 1, 1, 0.97]) * wide,
            np.array([0.95, 1, 1, 1, 0.97]) * deep,
            exponent=2.6,
        )
        cap = loft(
            np.array([0, 0.03, 0.3, 0.4, 0.42]) * scale + height,
            np.array([1.0, 1.02, 1.0, 0.85, 0.5]) * wide,
            np.array([1.0, 1.02, 1, 0.85, 0.5]) * deep,
            exponent=2.6,
        )
        parts = [Part(body, surface(rng, finish, colors)), Part(cap, cap_bsdf)]
        parts += _seal(item, loft([height - 0.04, height + 0.09], [1.04 * wide] * 2, [1.04 * deep] * 2, exponent=2.6))
    else:
        wide, deep, height = (
            rng.uniform(0.28, 0.42) * scale,
            rng.uniform(0.12, 0.2) * scale,
            rng.uniform(0.7, 1.0) * scale,
        )
        shape = loft(
            np.array([0, 0.03, 0.5, 0.95, 1]) * height,
            np.array([0.96, 1, 1, 1, 0.9]) * wide,
            np.array([0.96, 1, 1, 1, 0.9]) * deep,
            exponent=rng.uniform(3, 8),
        )
        fluid = loft(
            np.array([0.06, 0.1, 0.6]) * height,
            np.array([0.84, 0.88, 0.88]) * wide,
            np.array([0.8] * 3) * deep,
            exponent=5,
        )
        neck = lathe([(height, 0.09), (height + 0.1, 0.09)], 6).scaled(1)
        cap = (
            box(0.24, 0.24, rng.uniform(0.25, 0.4), 0.03, 5).moved(z=height + 0.28)
            if rng.random() < 0.5
            else lathe([(height + 0.1, 0.13), (height + 0.42, 0.13), (height + 0.45, 0.1)])
        )
        parts = [Part(shape, surface(rng, finish, colors)), Part(neck, metal(_trim(rng))), Part(cap, cap_bsdf)]
        parts += _seal(item, lathe([(height + 0.06, 0.14), (height + 0.2, 0.14)], 4))
        if finish.transparent:
            tone = finish.rgb if finish.color != "transparent" else (0.97, 0.9, 0.75)
            parts.append(Part(fluid, materials.clear((tone[0] * 0.9, tone[1] * 0.9, tone[2] * 0.9))))
    return parts


def _shampoo(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size] ** 0.7
    wide = rng.uniform(0.34, 0.46) * scale
    deep = wide * rng.uniform(0.5, 0.85)
    height = rng.uniform(1.35, 1.9) * scale
    cap_color: RGB = finish.rgb if rng.random() < 0.6 else sample_rgb(rng, str(rng.choice(["white", "black", "gray"])))
    colors = materials.pattern(rng, finish)
    colors = _label(
        rng,
        finish,
        colors,
        around=rng.random() < 0.2,
        crowded=rng.uniform(0.4, 1.0),
        v=(0.1, 0.78),
        u_extent=rng.uniform(0.33, 0.46),
    )
    colors = _stickered(item, colors, 0.25, 0.6, 0.15)
    kind = "pump" if finish.material == "glass" else str(rng.choice(["flip", "flip", "pump", "tube"]))
    exponent = rng.uniform(2.0, 3.2)
    parts: list[Part] = []
    if kind == "tube":  # stands on its cap, crimped end up
        z = np.linspace(0.25, 1, 24)
        body = loft(z * height, wide * (0.82 + 0.2 * z), np.maximum(deep * (1.08 - z) * 1.2, 0.015), exponent=2.2)
        parts += [Part(_dented(item, body), surface(rng, finish, colors))]
        cap = loft(
            np.array([0, 0.02, 0.22, 0.26]) * height,
            np.array([0.8, 0.84, 0.88, 0.8]) * wide,
            np.array([0.85, 0.9, 0.95, 0.9]) * deep,
        )
        parts.append(Part(cap, simple(cap_color, 0.35)))
        parts += _seal(item, loft([0.2 * height, 0.27 * height], [0.93 * wide] * 2, [0.99 * deep] * 2))
    else:
        waist = rng.uniform(-0.1, 0.08)
        shoulder = rng.uniform(0.7, 0.9)
        body = loft(
            *(lambda t: (t[:, 0] * height, t[:, 1] * wide, t[:, 1] ** 1.15 * deep))(
                smooth([(0, 0.9), (0.04, 1), (0.45, 1 - waist), (shoulder, 0.95), (0.96, 0.5), (1.0, 0.36)], 40)
            ),
            exponent=exponent,
        )
        parts.append(Part(_dented(item, body), surface(rng, finish, colors)))
        if finish.material == "glass":
            parts.append(Part(_thick_base(wide, deep, 0.1 * height, exponent), _solid_glass(finish)))
        if kind == "flip":
            width = rng.uniform(0.42, 0.6)
            cap = loft(
                np.array([-0.04, 0.0, 0.2, 0.26]) * scale + height,
                np.array([width, width * 1.05, width, width * 0.9]) * wide,
                np.array([width, width * 1.05, width, width * 0.9]) * max(deep, 0.7 * wide),
            )
            parts += _seal(
                item,
                loft(
                    np.array([-0.03, 0.12]) * scale + height,
                    [1.09 * width * wide] * 2,
                    [1.09 * width * max(deep, 0.7 * wide)] * 2,
                ),
            )
            parts.append(Part(cap, simple(cap_color, 0.35)))
        else:
            collar = lathe(
                [(height - 0.03, 0.16 * scale), (height + 0.14, 0.16 * scale), (height + 0.16, 0.1 * scale)], 12
            )
            stem = lathe([(height + 0.1, 0.05), (height + 0.34, 0.05)], 6)
            head = ellipsoid(0.26, 0.22, 0.12, 3).moved(z=height + 0.38)
            spout = tube(
                curve((0, 0, height + 0.39), (0, -0.25, height + 0.39), (0, -0.42, height + 0.32), num=12), 0.11, 0.08
            )
            parts += _seal(item, lathe([(height, 0.175 * scale), (height + 0.14, 0.175 * scale)], 4))
            pump = join(collar, stem, head, spout).rotated("z", float(rng.uniform(-60, 60)))
            parts.append(Part(pump, simple(cap_color, 0.35)))
    return parts


def _soap(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    """A bar, bare or in a paper sleeve with open ends, if the material is soap; a film pack if it is plastic."""
    wide, deep, tall = rng.uniform(0.78, 1.0), rng.uniform(0.5, 0.66), rng.uniform(0.24, 0.4)
    scale = _SIZE_FACTOR[item.size] ** 0.6
    used = item.condition in ("used", "worn")
    if finish.material == "plastic":
        parts = _soap_pack(item, finish, rng, wide, deep, tall)
        return [replace(part, mesh=part.mesh.scaled(scale)) for part in parts]
    exponent = rng.uniform(2.8, 4.5)
    sleeved = rng.random() < (0.25 if used else 0.5) or item.condition == "new"
    bar_tall = tall * {"used": 0.8, "worn": 0.55}.get(item.condition, 1.0)
    body = ellipsoid(wide, deep, bar_tall, exponent).moved(z=bar_tall / 2)
    wear_rng = np.random.default_rng([*item.seed, 7])
    body = body.wrinkled(wear_rng, {"used": 0.012, "worn": 0.04}.get(item.condition, 0.0), 0.3)
    parts = [Part(body, surface(rng, finish, materials.pattern(rng, finish)))]
    art = materials.pattern(rng, finish)
    if sleeved:
        front = textures.printed(rng, finish.rgb, (256, 160), rng.uniform(0.3, 0.9))
        cover = np.clip(np.abs(front - np.asarray(finish.rgb)).max(axis=-1) * 6, 0, 1)
        for u in (0.25, 0.75):
            art = stamp(art, np.rot90(front), np.rot90(cover), (u, 0.5), (0.3, 0.9))
        art = _stickered(item, art, 0.3, 0.7, 0.2)
        art, _ = materials.worn(rng, art, 0.5, finish.wear, soft=False)
        # A square tube around the bar, along x: u runs around it.
        ring = loft(
            [-0.34 * wide, 0.34 * wide], [0.54 * tall] * 2, [0.53 * deep] * 2, exponent=9, closed=(False, False)
        )
        parts.append(Part(ring.rotated("y", 90).moved(z=tall / 2), picture(art, 0.6, 0.3)))
    elif not used:
        emboss, cover = textures.logo(rng, (finish.rgb[0] * 0.72, finish.rgb[1] * 0.72, finish.rgb[2] * 0.72))
        plate = _disc(0.5, 0.0).scaled(0.62 * wide, 0.55 * deep, 1).moved(z=bar_tall + 0.002)
        parts.append(Part(plate, picture(stamp(art, emboss, cover, (0.5, 0.5), (0.9, 0.9)), 0.5)))
    if not sleeved and rng.random() < 0.3:
        dish = loft([0, 0.05, 0.14], [0.4, 0.56, 0.68], [0.3, 0.42, 0.5], exponent=3, closed=(True, False))
        parts.append(Part(dish.moved(z=-0.06), simple(textures.muted(rng), 0.3), "scene"))
    return [replace(part, mesh=part.mesh.scaled(scale)) for part in parts]


def _soap_pack(item: Item, finish: Finish, rng: Generator, wide: float, deep: float, tall: float) -> list[Part]:
    """A bar in glossy printed film with crimped ends."""
    art = textures.printed(rng, finish.rgb, (256, 160), rng.uniform(0.4, 1.0))
    square = np.asarray(Image.fromarray((art * 255).astype(np.uint8)).resize((PX, PX)), dtype=np.float64) / 255
    if finish.color == "multicolor":
        square = np.where(
            (np.abs(square - np.asarray(finish.rgb)).max(axis=-1) < 0.05)[..., None],
            materials.pattern(rng, finish),
            square,
        )
    if item.condition == "new":
        code = np.asarray(textures.barcode(rng, 90, 60), dtype=np.float64) / 255
        at = (rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.7))
        square = stamp(square, code, np.ones(code.shape[:2]), at, (0.3, 0.3))
    square, rough = materials.worn(rng, square, 0.16, finish.wear, soft=False)
    bsdf = picture(square, float(rough.mean()), 0.6, 0.9)
    creases = 0.012 + 0.015 * finish.wear
    pack = box(wide, deep, tall, 0.1, 12).moved(z=tall / 2).wrinkled(rng, creases, 0.3)
    parts = [Part(pack, bsdf)]
    for sign in (-1, 1):
        fin = box(0.18, deep * 0.96, 0.02, 0.008, 6).moved(x=sign * (wide / 2 + 0.06), z=tall / 2)
        parts.append(Part(fin.wrinkled(rng, 0.016, 0.07), bsdf))
    return parts


def _bottle(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size]
    radius, height = rng.uniform(0.32, 0.42) * scale**0.4, rng.uniform(1.9, 2.5) * scale**0.5
    kind = (
        "flask"
        if finish.material == "metal"
        else str(rng.choice(["waist", "plain"]))
        if finish.material == "glass"
        else str(rng.choice(["ribbed", "fluted", "fluted", "waist", "plain"]))
    )
    neck = rng.uniform(0.4, 0.62)
    shoulder = rng.uniform(0.68, 0.82)
    knots = [(0, 0.86), (0.02, 0.97), (0.06, 1.0), (shoulder, 1.0), (0.93, neck), (1.0, neck)]
    if kind == "waist":
        knots = [
            (0, 0.9),
            (0.04, 1),
            (0.4, 0.98),
            (0.52, 0.8),
            (0.62, 0.98),
            (shoulder + 0.04, 1),
            (0.94, neck),
            (1, neck),
        ]
    table = smooth(knots, 90)
    outline = table[:, 1].copy()
    if kind == "ribbed":
        count = int(rng.integers(6, 22))
        inside = (table[:, 0] > 0.1) & (table[:, 0] < shoulder)
        outline = outline - inside * rng.uniform(0.02, 0.06) * (0.5 + 0.5 * np.sin(2 * np.pi * count * table[:, 0]))
    grooves = int(rng.integers(6, 40))
    flutes = (grooves, rng.uniform(0.3, 0.7) / grooves) if kind == "fluted" else (0, 0.0)
    body = loft(table[:, 0] * height, outline * radius, flutes=flutes, closed=(True, False), segments=160)
    # Most plastic bottles and all glass bottles are transparent.
    clear = finish.material == "plastic" and rng.random() < 0.65
    finish = replace(finish, transparent=finish.transparent or clear)
    colors = materials.pattern(rng, finish)
    if rng.random() < 0.45:
        colors = _label(
            rng,
            finish,
            colors,
            around=rng.random() < 0.2,
            crowded=rng.uniform(0, 0.5),
            v=(0.2, 0.6),
            u_extent=rng.uniform(0.1, 0.3),
        )
    colors = _stickered(item, colors, 0.3, 0.6, 0.15)
    if rng.random() < 0.25:  # volume marks
        for v in np.linspace(0.35, 0.85, 8):
            colors[int(v * PX) : int(v * PX) + 2, int(0.62 * PX) : int(0.7 * PX)] = textures.ink_on(rng, finish.rgb)
    parts = [Part(_dented(item, body), surface(rng, finish, colors))]
    if finish.material == "glass":
        parts.append(Part(_thick_base(radius, radius, 0.09 * height, 2.0), _solid_glass(finish)))
    if finish.transparent and rng.random() < 0.4:
        level = rng.uniform(0.3, 0.7)
        inside = table[:, 0] < level
        parts.append(
            Part(
                loft(table[inside, 0] * height + 0.02, outline[inside] * radius * 0.95, closed=(False, True)),
                materials.clear((0.85, 0.93, 0.97)),
            )
        )
    cap_color = (
        finish.rgb
        if rng.random() < 0.6 and item.color != "transparent"
        else sample_rgb(rng, str(rng.choice(["black", "white", "gray"])))
    )
    cap_bsdf = metal("silver") if rng.random() < 0.2 else simple(cap_color, rng.uniform(0.3, 0.6))
    wide = max(neck * radius * 1.12, 0.17)
    cap_height = rng.uniform(0.22, 0.45)
    cap = lathe([(height - 0.08, wide), (height + cap_height * 0.85, wide * 0.97), (height + cap_height, wide * 0.85)])
    pieces = [cap]
    if rng.random() < 0.3:
        pieces.append(
            lathe(
                [(height + cap_height, 0.1), (height + cap_height + 0.18, 0.08), (height + cap_height + 0.2, 0.05)], 10
            )
        )
    if rng.random() < 0.4:
        top = height + cap_height
        pieces.append(
            tube(
                curve(
                    (-wide, 0, top - 0.15),
                    (-wide * 0.9, 0, top + 0.2),
                    (0, 0, top + 0.36),
                    (wide * 0.9, 0, top + 0.2),
                    (wide, 0, top - 0.15),
                ),
                0.12,
                0.045,
            )
        )
    parts.append(Part(join(*pieces), cap_bsdf))
    parts += _seal(item, lathe([(height - 0.16, wide * 1.04), (height + 0.08, wide * 1.04)], 4))
    return parts


def _backpack(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size]
    wide, deep, tall = rng.uniform(1.35, 1.65) * scale, rng.uniform(0.62, 0.95) * scale, rng.uniform(3.9, 4.8) * scale
    exponent = rng.uniform(3.0, 5.0)
    roll_top = rng.random() < 0.15
    knots = [(0, 0.93), (0.05, 1.0), (0.6, 1.0), (0.8, 0.93), (0.92, 0.74), (0.98, 0.45), (1.0, 0.2)]
    if roll_top:
        knots = [(0, 0.93), (0.05, 1.0), (0.7, 1.0), (0.95, 0.97), (1.0, 0.92)]
    table = smooth(knots, 48)
    taper = np.clip(1.08 - 0.4 * table[:, 0], 0.1, 1.0) * np.where(table[:, 0] > 0.9, 0.85, 1.0)
    body = loft(
        table[:, 0] * tall,
        table[:, 1] * wide,
        taper * deep * np.minimum(table[:, 1] + 0.15, 1),
        exponent=exponent,
        center_y=0.2 * (1 - taper) * deep,
    )
    limp = 0.03 + 0.05 * rng.random() + 0.05 * finish.wear
    body = body.wrinkled(rng, limp, 1.8).wrinkled(rng, limp * 0.3, 0.6)
    colors = materials.pattern(rng, finish)
    second = (
        finish.rgb
        if rng.random() < 0.75
        else sample_rgb(rng, str(rng.choice(["black", "gray", "blue", "brown", "red", "green"])))
    )
    if rng.random() < 0.3:
        colors[int(rng.uniform(0.75, 0.85) * PX) :] = second
    ink = textures.ink_on(rng, finish.rgb)
    if rng.random() < 0.75:
        art, cover = textures.logo(rng, ink)
        big = rng.random() < 0.3
        colors = stamp(
            colors,
            art,
            cover,
            (0.5, rng.uniform(0.6, 0.72)),
            (0.26, 0.34) if big else (rng.uniform(0.07, 0.13), rng.uniform(0.07, 0.12)),
        )
    cloth = surface(rng, finish, colors, 1.6)
    other = surface(rng, Finish(finish.material, "", finish.condition, second, False), repeat=1.4)
    dark = simple((0.05, 0.05, 0.055), 0.7, specular=0.3)
    zip_bsdf = dark if rng.random() < 0.7 else simple(ink, 0.6)
    parts = [Part(body, cloth)]

    def arch(low: float, half: float, high: float, y: float, y_top: float) -> Mesh:
        return tube(
            curve(
                (-half, y, low),
                (-half * 0.98, y, low + 0.6 * (high - low)),
                (-half * 0.6, (y + y_top) / 2, low + 0.93 * (high - low)),
                (0, y_top, high),
                (half * 0.6, (y + y_top) / 2, low + 0.93 * (high - low)),
                (half * 0.98, y, low + 0.6 * (high - low)),
                (half, y, low),
            ),
            0.07,
            0.05,
        )

    front = -deep * 0.98
    pocket_kind = rng.integers(0, 3)
    if pocket_kind < 2:
        high = rng.uniform(0.38, 0.5) * tall
        half = wide * rng.uniform(0.72, 0.88)
        shape = smooth([(0, 0.9), (0.08, 1), (0.7, 1), (0.93, 0.8), (1, 0.5)], 24)
        pocket = loft(
            shape[:, 0] * high,
            shape[:, 1] * half,
            np.minimum(shape[:, 1], 1) * 0.34 * scale,
            exponent=4,
            center_y=front + 0.08,
        )
        pocket_finish = other if rng.random() < 0.3 else cloth
        parts.append(Part(pocket.moved(z=0.14 * tall).wrinkled(rng, limp * 0.6, 1.2), pocket_finish))
        parts.append(
            Part(
                arch(
                    0.14 * tall + 0.4 * high,
                    half * 0.93,
                    0.14 * tall + high * 0.9,
                    front - 0.16 * scale,
                    front - 0.2 * scale,
                ),
                zip_bsdf,
            )
        )
    if pocket_kind >= 1:
        parts.append(Part(arch(0.3 * tall, wide * 0.99, tall * 0.93, front * 0.55, front * 0.42), zip_bsdf))
    if rng.random() < 0.35:  # belts with buckles
        for x in (-0.45 * wide, 0.45 * wide):
            parts.append(
                Part(
                    tube(
                        curve(
                            (x, front * 0.3, tall * 0.93),
                            (x, front * 0.98, tall * 0.72),
                            (x, front * 1.12, tall * 0.45),
                            (x, front * 1.25, tall * 0.2),
                        ),
                        0.2,
                        0.05,
                        exponent=4,
                    ),
                    dark if rng.random() < 0.5 else other,
                )
            )
            parts.append(
                Part(box(0.28, 0.1, 0.22, 0.03, 4).moved(x, front * 1.15, tall * 0.42), metal(_trim(rng), 0.3))
            )
    for sign in (-1, 1):
        if rng.random() < 0.6:
            mesh = loft(
                np.array([0, 0.1, 0.9, 1]) * tall * 0.3,
                np.array([0.8, 1, 1, 0.9]) * 0.28,
                np.array([0.8, 1, 1, 0.9]) * deep * 0.62,
                exponent=3,
                closed=(True, True),
            )
            parts.append(Part(mesh.moved(x=sign * wide * 0.98, z=0.1 * tall), dark if rng.random() < 0.5 else other))
        strap = curve(
            (sign * 0.32 * wide, deep * 0.5, tall * 0.9),
            (sign * 0.4 * wide, deep * 1.15, tall * 0.84),
            (sign * 0.52 * wide, deep * 1.4, tall * 0.5),
            (sign * 0.78 * wide, deep * 0.95, tall * 0.08),
        )
        parts.append(
            Part(
                tube(strap, np.linspace(0.62, 0.3, 24) * scale, 0.14, exponent=4), other if rng.random() < 0.6 else dark
            )
        )
    handle = curve(
        (-0.3, deep * 0.35, tall * 0.94),
        (-0.24, deep * 0.4, tall * 1.04),
        (0, deep * 0.42, tall * 1.08),
        (0.24, deep * 0.4, tall * 1.04),
        (0.3, deep * 0.35, tall * 0.94),
    )
    parts.append(Part(tube(handle, 0.18, 0.07), dark if rng.random() < 0.6 else other))
    if roll_top:
        roll = ellipsoid(wide * 2.0, 0.5, 0.5, 3).moved(z=tall + 0.05)
        parts += [
            Part(roll.wrinkled(rng, 0.03, 0.8), cloth),
            Part(
                tube(
                    curve((0, front * 0.4, tall + 0.35), (0, front * 0.9, tall * 0.85), (0, front * 1.15, tall * 0.5)),
                    0.22,
                    0.05,
                    exponent=4,
                ),
                dark,
            ),
        ]
    parts += _tagged(
        item,
        rng,
        ((0.45 * wide, front * 1.3, 0.86 * tall), (0.5 * wide, front * 1.45, 0.62 * tall)),
        ((-0.1 * wide, deep * 1.5, 0.8 * tall), (-0.05 * wide, deep * 1.6, 0.56 * tall)),
    )
    return parts


def _handbag(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    scale = _SIZE_FACTOR[item.size]
    wide, tall = rng.uniform(1.1, 1.7) * scale, rng.uniform(1.6, 2.4) * scale
    deep = wide * rng.uniform(0.28, 0.45)
    kind = str(rng.choice(["tote", "satchel", "satchel", "top_handle", "shoulder"]))
    flare = {"tote": rng.uniform(1.0, 1.15), "shoulder": rng.uniform(0.92, 1.0)}.get(kind, rng.uniform(0.8, 0.98))
    if kind == "shoulder":
        tall *= 0.7
    z = np.linspace(0, 1, 36)
    corner = np.minimum(1, 0.93 + 1.4 * z)
    top = np.where(z > 0.95, 1 - 0.3 * (z - 0.95) / 0.05, 1) if kind != "tote" else np.ones_like(z)
    body = loft(
        z * tall,
        wide * (1 + (flare - 1) * z) * corner,
        deep * (1 - (0.8 if kind != "tote" else 0.45) * z) * corner * top + 0.04,
        exponent=rng.uniform(3.5, 7),
        closed=(True, kind != "tote"),
    )
    limp = 0.015 + 0.03 * rng.random() + 0.05 * finish.wear
    body = body.wrinkled(rng, limp, 1.5)
    trim = _trim(rng)
    colors = materials.pattern(rng, finish)
    if finish.material in ("fabric", "synthetic", "cotton") and rng.random() < 0.35:
        motif, cover = textures.logo(rng, textures.ink_on(rng, finish.rgb), 64)
        for row in range(5):
            for column in range(8):
                colors = stamp(
                    colors, motif, cover * 0.7, ((column + 0.5 * (row % 2)) / 8, (row + 0.5) / 5), (0.07, 0.11)
                )
    stitch = textures.ink_on(rng, finish.rgb) if rng.random() < 0.3 else tuple(c * 0.6 for c in finish.rgb)
    for v in (0.03, 0.95):
        colors[int(v * PX) : int(v * PX) + 3, ::1] = stitch
    if kind in ("tote", "top_handle"):
        if rng.random() < 0.6:
            art, cover = textures.logo(rng, (0.82, 0.66, 0.35) if trim == "gold" else textures.ink_on(rng, finish.rgb))
            colors = stamp(colors, art, cover, (0.5, rng.uniform(0.55, 0.75)), (0.09, 0.12))
        if rng.random() < 0.4:
            colors[: int(rng.uniform(0.15, 0.3) * PX)] = np.asarray(finish.rgb) * 0.7
    skin = surface(rng, finish, colors, 1.3)
    accent_rgb = (
        finish.rgb if rng.random() < 0.75 else sample_rgb(rng, str(rng.choice(["brown", "black", "brown", "gray"])))
    )
    strap_skin = surface(rng, Finish("leather", "", finish.condition, accent_rgb, False))
    hardware = metal(trim, 0.2)
    parts = [Part(body, skin)]
    if kind == "tote":
        inside = loft(np.array([0.98, 0.985]) * tall, [wide * flare * 0.97] * 2, [deep * 0.5] * 2, exponent=4)
        parts.append(Part(inside.moved(z=-0.12), simple((0.12, 0.1, 0.09), 0.95, specular=0.1)))
    else:
        parts.append(
            Part(
                tube(
                    curve(
                        (-wide * flare * 0.85, 0, tall * 1.0),
                        (0, 0, tall * 1.012),
                        (wide * flare * 0.85, 0, tall * 1.0),
                    ),
                    0.08,
                    0.06,
                ),
                hardware if rng.random() < 0.3 else strap_skin,
            )
        )
    if kind in ("satchel", "shoulder"):
        flap_low = rng.uniform(0.42, 0.62) if kind == "satchel" else rng.uniform(0.3, 0.55)
        rows = []
        columns = np.linspace(-1, 1, 25)
        rounded = 1 - 0.25 * np.abs(columns) ** 4
        for t in np.linspace(0, 1, 16):
            low = 1.03 - (1.03 - flap_low) * t * (rounded if t > 0 else 1)
            y = -(deep * (1 - 0.8 * low) + 0.06) - 0.03
            y = np.where(low > 0.98, -deep * 0.05, y) if np.ndim(low) else np.full_like(columns, y if t > 0.05 else 0.1)
            half = wide * (1 + (flare - 1) * np.mean(low)) * (0.96 - 0.04 * t)
            rows.append(np.column_stack([columns * half, y, np.broadcast_to(low, columns.shape) * tall]))
        flap = grid(np.stack(rows[::-1]))
        flap_skin = (
            skin
            if rng.random() < 0.6
            else surface(
                rng,
                Finish(
                    finish.material,
                    "",
                    finish.condition,
                    (finish.rgb[0] * 0.8, finish.rgb[1] * 0.8, finish.rgb[2] * 0.8),
                    False,
                ),
            )
        )
        parts.append(Part(flap, flap_skin))
        parts.append(Part(tube(rows[-1], 0.05), strap_skin))
        y = float(rows[-1][12, 1]) - 0.05
        z_clasp = float(rows[-1][12, 2])
        clasp = box(0.3, 0.08, 0.22, 0.04, 5) if rng.random() < 0.6 else ellipsoid(0.26, 0.1, 0.26)
        parts.append(Part(clasp.moved(y=y, z=z_clasp), hardware))
        if rng.random() < 0.4:
            for x in (-0.55 * wide, 0.55 * wide):
                parts.append(
                    Part(
                        tube(
                            curve((x, y * 0.3, tall), (x, y, tall * 0.75), (x, y * 1.1, tall * 0.25)),
                            0.16,
                            0.04,
                            exponent=4,
                        ),
                        strap_skin,
                    )
                )
                parts.append(Part(box(0.22, 0.07, 0.2, 0.03, 4).moved(x, y * 1.08, tall * 0.5), hardware))
    rise = {"tote": rng.uniform(0.8, 1.5), "shoulder": rng.uniform(1.2, 2.0)}.get(kind, rng.uniform(0.55, 0.95)) * scale
    half = wide * (rng.uniform(0.35, 0.55) if kind != "shoulder" else 0.85)
    lean = rng.uniform(-0.25, 0.25)
    for y in (-deep * 0.3, deep * 0.3) if kind != "shoulder" else (0.0,):
        start = tall * (0.9 if kind != "shoulder" else 0.97)
        arc = curve(
            (-half, y * 1.6, start - 0.1), (-half * 0.96, y * 1.3, start + rise * 0.45),
            (-half * 0.5 + lean, y * 1.1, start + rise * 0.9), (lean, y, start + rise),
            (half * 0.5 + lean, y * 1.1, start + rise * 0.9), (half * 0.96, y * 1.3, start + rise * 0.45),
            (half, y * 1.6, start - 0.1), num=40,
        )  # fmt: skip
        chain = kind == "shoulder" and rng.random() < 0.5
        parts.append(Part(tube(arc, 0.1 if chain else rng.uniform(0.12, 0.2)), hardware if chain else strap_skin))
        for x in (-half, half):
            parts.append(Part(box(0.2, 0.1, 0.24, 0.04, 4).moved(x, y * 1.6, start - 0.12), hardware))
    if rng.random() < 0.3:
        parts.append(Part(ellipsoid(0.16, 0.06, 0.4, 3).moved(half * 0.8, -deep * 0.8, tall * 0.62), strap_skin))
    parts += _tagged(
        item,
        rng,
        ((0.45 * wide, -deep * 1.0, 0.98 * tall), (0.5 * wide, -deep * 1.15, 0.58 * tall)),
        ((-0.4 * wide, deep * 1.0, 0.98 * tall), (-0.45 * wide, deep * 1.15, 0.58 * tall)),
    )
    return parts


_FAMILIES: dict[str, Callable[[Item, Finish, Generator, str], list[Part]]] = {
    "clothing_cap": _cap,
    "clothing_wrist_watch": _watch,
    "food_storage_plastic_container": _container,
    "footwear_sneakers": _sneakers,
    "personal_care_deodorant": _deodorant,
    "personal_care_shampoo_bottle": _shampoo,
    "personal_care_soap_bar": _soap,
    "tableware_water_bottle": _bottle,
    "travel_backpack": _backpack,
    "travel_handbag": _handbag,
}
