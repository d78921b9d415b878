"""Objects of none of the catalog's classes: mugs, lamps, books and toys, photographed like the catalog's items.

Importing this module registers its families with the renderer; the catalog's families are unaffected.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from vitrine.params import Section
from vitrine.render import materials, products, scenes, textures
from vitrine.render.catalogue import prepare
from vitrine.render.items import Item
from vitrine.render.materials import Finish, metal, picture, sample_rgb, simple, stamp, surface
from vitrine.render.meshes import box, curve, ellipsoid, lathe, loft, smooth, tube
from vitrine.render.products import Part
from vitrine.render.textures import Generator

MATERIALS: dict[str, tuple[str, ...]] = {
    "mug": ("glass", "metal", "plastic", "plastic"),  # glazed clay looks like smooth plastic
    "lamp": ("fabric", "metal", "plastic"),
    "book": ("plastic", "fabric", "leather"),
    "toy": ("fabric", "plastic", "plastic"),
}
"""Materials of each kind."""

COLORS = ("black", "blue", "brown", "gray", "green", "pink", "purple", "red", "white", "yellow")


class OutlierParams(Section):
    """What to render, and at what quality."""

    seed: Annotated[int, Field(ge=0)]
    items_per_kind: Annotated[int, Field(ge=1)]
    views_per_item: Annotated[int, Field(ge=1, le=100)]
    image_size_px: Annotated[int, Field(ge=16, le=1024)]
    samples_per_pixel: Annotated[int, Field(ge=1, le=4096)]


class Job(NamedTuple):
    """One photograph to render, and its path relative to the folder."""

    item: Item
    view: int
    image_path: str


def make_outlier(seed: int, kind: str, number: int) -> Item:
    """Return item `number` of a kind; colors and materials are drawn uniformly."""
    rng = np.random.default_rng([seed, list(MATERIALS).index(kind), number])
    return Item(
        instance_id=f"{kind.upper()}_{number:04d}",
        class_label=kind,
        color=str(rng.choice(COLORS)),
        material=str(rng.choice(MATERIALS[kind])),
        condition=str(rng.choice(["mint", "used"])),
        size=str(rng.choice(["small", "medium", "large"])),
        style="modern",
        seed=(int(rng.integers(2**31)), number),
    )


def jobs(params: OutlierParams) -> list[Job]:
    """List all photographs, in order."""
    return [
        Job(item, view, f"images/{item.instance_id.lower()}_{view}.jpg")
        for kind in MATERIALS
        for item in (make_outlier(params.seed, kind, number) for number in range(params.items_per_kind))
        for view in range(params.views_per_item)
    ]


def render_outliers(folder: Path, params: OutlierParams) -> None:
    """Write labels.csv (image_path, kind, instance_id) and images/ below `folder`, once all photographs are rendered.

    Raises:
        RenderError: Mitsuba is not installed.
    """
    work = jobs(params)
    unfinished = folder / ".partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "images").mkdir(parents=True)
    for job, jpeg in zip(work, _in_parallel(work, params), strict=True):
        (unfinished / job.image_path).write_bytes(jpeg)
    rows = [(job.image_path, job.item.class_label, job.item.instance_id) for job in work]
    table = pd.DataFrame(rows, columns=["image_path", "kind", "instance_id"])
    table.to_csv(unfinished / "labels.csv", index=False, lineterminator="\n")
    shutil.rmtree(folder / "images", ignore_errors=True)
    os.replace(unfinished / "images", folder / "images")
    os.replace(unfinished / "labels.csv", folder / "labels.csv")
    unfinished.rmdir()


def _in_parallel(work: Sequence[Job], params: OutlierParams) -> Iterator[bytes]:
    prepare()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=prepare) as pool:
        results = pool.map(partial(_photograph, params=params), work, chunksize=params.views_per_item)
        yield from tqdm(results, total=len(work), unit="photo", disable=None)


def _photograph(job: Job, params: OutlierParams) -> bytes:
    return scenes.render_view(job.item, job.view, params.image_size_px, params.samples_per_pixel).jpeg


# -- families -----------------------------------------------------------------------------------------------------


def _mug(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    """An outer wall, an inner wall, a rim, and a handle on the side."""
    radius, height = rng.uniform(0.38, 0.48), rng.uniform(0.8, 1.15)
    flare = rng.uniform(0.82, 1.12)
    knots = [(0, 0.86), (0.05, 1.0), (0.5, 0.5 + 0.5 * flare), (1.0, flare)]
    if rng.random() < 0.3:  # a belly
        knots = [(0, 0.7), (0.08, 0.85), (0.45, 1.1), (0.85, 0.95), (1.0, 1.0)]
    wall = smooth(knots, 40)
    outside = loft(wall[:, 0] * height, wall[:, 1] * radius, closed=(True, False))
    inside = loft(wall[4:, 0][::-1] * height, 0.92 * wall[4:, 1][::-1] * radius, closed=(False, True))
    turn = np.linspace(0, 2 * np.pi, 49)
    at_top = 0.96 * float(wall[-1, 1]) * radius
    rim = tube(np.column_stack([at_top * np.cos(turn), at_top * np.sin(turn), 0 * turn + height]), 0.045)
    reach, thick = rng.uniform(0.28, 0.4), rng.uniform(0.08, 0.13)
    x = radius * 0.92
    handle = tube(
        curve(
            (x, 0, 0.84 * height),
            (x + reach * 0.8, 0, 0.8 * height),
            (x + reach, 0, 0.5 * height),
            (x + reach * 0.7, 0, 0.24 * height),
            (x * 0.95, 0, 0.18 * height),
        ),
        thick,
        thick * 0.7,
    )
    colors = materials.pattern(rng, finish)
    kind = rng.integers(0, 4)
    if kind == 0:
        art, cover = textures.logo(rng, textures.ink_on(rng, finish.rgb))
        for u in (0.25, 0.75):
            colors = stamp(colors, art, cover, (u, 0.5), (0.2, 0.5))
    elif kind == 1:
        bands = np.abs((np.arange(products.PX) / products.PX * rng.integers(3, 7)) % 1 - 0.5) < 0.12
        colors = np.where(bands[:, None, None], np.asarray(textures.vivid(rng)), colors)
    elif kind == 2:
        half = np.arange(products.PX) > rng.uniform(0.35, 0.7) * products.PX
        colors = np.where(half[:, None, None], np.asarray(textures.muted(rng)), colors)
    glaze = surface(rng, finish, colors)
    plain = simple((0.93, 0.92, 0.88) if rng.random() < 0.6 else finish.rgb, 0.2, specular=0.6)
    parts = [Part(outside, glaze), Part(handle, surface(rng, finish)), Part(rim, plain), Part(inside, plain)]
    if rng.random() < 0.5:
        level = rng.uniform(0.6, 0.9)
        drink = (0.12, 0.06, 0.03) if rng.random() < 0.6 else (0.5, 0.3, 0.12)
        radius_there = 0.92 * float(np.interp(level, wall[:, 0], wall[:, 1])) * radius
        parts.append(Part(loft([0.0, 0.01], [radius_there] * 2).moved(z=level * height), simple(drink, 0.1), "scene"))
    turned = float(rng.choice([0, 180]) + rng.normal(0, 35))
    return [Part(part.mesh.rotated("z", turned), part.bsdf, part.role) for part in parts]


def _lamp(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    """A foot, a stem, and a shade; or a desk lamp with a bent arm and a cone."""
    dark = metal(str(rng.choice(["gold", "silver", "black"])), rng.uniform(0.15, 0.4))
    wide, tall = rng.uniform(0.6, 0.8), rng.uniform(2.2, 3.0)
    if rng.random() < 0.4:
        foot = lathe([(0, wide), (0.1, wide), (0.18, wide * 0.6), (0.22, 0.1)], 20)
        elbow = (-0.7, 0.0, tall * 0.55)
        head = (0.55, 0.0, tall * 0.95)
        arm = tube(np.vstack([curve((0, 0, 0.15), elbow, num=8), curve(elbow, head, num=8)[1:]]), 0.1)
        cone = loft([0.0, 0.25, 0.9], [0.2, 0.28, 0.6], closed=(True, False)).rotated("y", 140).moved(*head)
        bulb = ellipsoid(0.35, 0.35, 0.45).moved(head[0] + 0.3, 0, head[2] - 0.35)
        return [
            Part(cone, surface(rng, finish)),
            Part(foot, surface(rng, finish)),
            Part(arm, dark),
            Part(ellipsoid(0.2, 0.2, 0.2).moved(*elbow), dark),
            Part(bulb, simple((1.0, 0.97, 0.85), 0.2), "extra"),
        ]
    kind = rng.integers(0, 3)
    if kind == 0:
        stem = lathe([(0, wide), (0.08, wide), (0.2, 0.12), (tall * 0.6, 0.07)], 30)
    elif kind == 1:  # a ceramic belly
        belly = rng.uniform(0.45, 0.65)
        stem = lathe([(0, belly * 0.7), (tall * 0.2, belly), (tall * 0.45, 0.16), (tall * 0.6, 0.08)], 40)
    else:  # turned wood
        profile = [(0, wide * 0.8), (0.15, wide * 0.75), (0.25, 0.14), (0.55, 0.26), (0.8, 0.12), (1.15, 0.2)]
        stem = lathe([*profile, (tall * 0.6, 0.08)], 60)
    bottom, top = rng.uniform(0.85, 1.15), rng.uniform(0.4, 0.9)
    rise = rng.uniform(0.8, 1.2)
    low = tall * 0.55
    shade = loft([low, low + rise], [bottom, top], closed=(False, False), flutes=(int(rng.choice([0, 0, 40])), 0.02))
    rings = [products._ring(radius, 0.05).moved(z=z) for z, radius in ((low, bottom), (low + rise, top))]
    foot_finish = dark if rng.random() < 0.5 else simple(textures.muted(rng), 0.3, specular=0.6)
    trim = simple((finish.rgb[0] * 0.7, finish.rgb[1] * 0.7, finish.rgb[2] * 0.7), 0.8)
    bulb = ellipsoid(0.4, 0.4, 0.55).moved(z=low + 0.4 * rise)
    return [
        Part(shade, surface(rng, finish)),
        *(Part(ring, trim) for ring in rings),
        Part(stem, foot_finish),
        Part(bulb, simple((1.0, 0.97, 0.85), 0.2), "extra"),
    ]


def _book(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    """Two boards, a spine and pages; upright, or lying with or without another book on top."""

    def volume(width: float, height: float, thick: float, cover_finish: Finish) -> list[Part]:
        colors = materials.pattern(rng, cover_finish)
        art = textures.printed(rng, cover_finish.rgb, (220, 300), rng.uniform(0.3, 1.0))
        colors = stamp(colors, art, np.ones(art.shape[:2]), (0.5, 0.5), (0.9, 0.9))
        cover = surface(rng, cover_finish, colors)
        lines = 0.86 + 0.1 * rng.random((64, 1, 1)) * np.ones((1, 64, 3)) * np.array([1.0, 0.98, 0.9])
        boards = [box(width, 0.035, height, 0.01, 4).moved(y=side * thick / 2) for side in (-1, 1)]
        spine = box(0.04, thick, height, 0.015, 4).moved(x=-width / 2)
        pages = box(width * 0.96, thick * 0.92, height * 0.96, 0.005, 4)
        solids = [
            *(Part(board, cover) for board in boards),
            Part(spine, surface(rng, cover_finish)),
            Part(pages, picture(lines)),
        ]
        return [Part(part.mesh.moved(z=height / 2), part.bsdf, part.role) for part in solids]

    width, height, thick = rng.uniform(1.1, 1.6), rng.uniform(1.6, 2.2), rng.uniform(0.12, 0.4)
    parts = volume(width, height, thick, finish)
    if rng.random() < 0.6:  # lying, cover up
        parts = [Part(part.mesh.rotated("x", -90), part.bsdf, part.role) for part in parts]
        if rng.random() < 0.4:
            color = str(rng.choice(COLORS))
            other = Finish(finish.material, color, finish.condition, sample_rgb(rng, color), False)
            turned = float(rng.normal(0, 15))
            parts += [
                Part(part.mesh.rotated("x", -90).rotated("z", turned).moved(z=(thick + 0.3) / 2), part.bsdf, part.role)
                for part in volume(width * 0.9, height * 0.9, 0.25, other)
            ]
    return parts


def _toy(item: Item, finish: Finish, rng: Generator, pose: str) -> list[Part]:
    """A stuffed bear if made of fabric, otherwise a car or a tower of blocks."""
    if finish.material == "fabric":
        return _bear(finish, rng)
    return _car(finish, rng) if rng.random() < 0.55 else _blocks(finish, rng)


def _bear(finish: Finish, rng: Generator) -> list[Part]:
    fur = surface(rng, finish)
    pale = simple(tuple(float(min(1.0, 0.35 + 0.65 * c)) for c in finish.rgb), 0.9, specular=0.1)  # type: ignore[arg-type]
    black = simple((0.03, 0.03, 0.03), 0.15)
    meshes = [
        ellipsoid(0.95, 0.8, 1.1).moved(z=0.6),
        ellipsoid(0.85, 0.75, 0.78).moved(z=1.42),
        *(ellipsoid(0.3, 0.16, 0.3).moved(x, 0, 1.76) for x in (-0.33, 0.33)),
        *(ellipsoid(0.28, 0.32, 0.65).rotated("y", turn).moved(x, -0.15, 0.8) for x, turn in ((-0.5, 35), (0.5, -35))),
        *(ellipsoid(0.34, 0.75, 0.34).moved(x, -0.45, 0.17) for x in (-0.34, 0.34)),
    ]
    parts = [Part(mesh.wrinkled(rng, 0.008, 0.2), fur) for mesh in meshes]
    parts += [Part(ellipsoid(0.38, 0.3, 0.28).moved(0, -0.3, 1.33), pale)]
    parts += [Part(ellipsoid(0.28, 0.1, 0.28).moved(x, -0.8, 0.18), pale) for x in (-0.34, 0.34)]
    parts += [Part(ellipsoid(0.09, 0.06, 0.09).moved(x, -0.35, 1.52), black, "extra") for x in (-0.16, 0.16)]
    return [*parts, Part(ellipsoid(0.13, 0.08, 0.09).moved(0, -0.45, 1.4), black, "extra")]


def _car(finish: Finish, rng: Generator) -> list[Part]:
    paint = surface(rng, finish)
    long, wide, tall = rng.uniform(1.5, 2.0), rng.uniform(0.7, 0.9), rng.uniform(0.35, 0.5)
    body = box(long, wide, tall, 0.13, 8).moved(z=0.2 + tall / 2)
    cabin = box(long * rng.uniform(0.4, 0.55), wide * 0.86, tall * 0.9, 0.14, 8)
    cabin = cabin.moved(x=rng.uniform(-0.2, 0.1) * long, z=0.2 + tall * 1.35)
    glass = box(long * 0.36, wide * 0.88, tall * 0.45, 0.05, 6).moved(
        x=cabin.positions[:, 0].mean(), z=0.2 + tall * 1.4
    )
    tire, hub = simple((0.05, 0.05, 0.05), 0.9), simple(textures.vivid(rng), 0.4)
    parts = [Part(body, paint), Part(cabin, paint), Part(glass, simple((0.1, 0.13, 0.17), 0.1, specular=0.8), "extra")]
    size = rng.uniform(0.24, 0.32)
    for x in (-0.31 * long, 0.31 * long):
        for y in (-wide / 2, wide / 2):
            wheel = lathe([(-0.09, size * 0.9), (0, size), (0.09, size * 0.9)], 12).rotated("x", 90)
            cap = lathe([(-0.11, size * 0.4), (0.11, size * 0.4)], 4).rotated("x", 90)
            parts += [Part(wheel.moved(x, y, size), tire), Part(cap.moved(x, y, size), hub)]
    for y in (-0.3 * wide, 0.3 * wide):
        lamp = ellipsoid(0.1, 0.16, 0.14).moved(long / 2, y, 0.2 + tall * 0.6)
        parts.append(Part(lamp, simple((1.0, 0.95, 0.7), 0.2), "extra"))
    return parts


def _blocks(finish: Finish, rng: Generator) -> list[Part]:
    parts: list[Part] = []
    side, level = rng.uniform(0.45, 0.6), 0.0
    for number in range(int(rng.integers(3, 6))):
        color = finish.rgb if number == 0 else textures.vivid(rng)
        letter, cover = textures.logo(rng, textures.ink_on(rng, color))
        base = np.array(np.broadcast_to(np.asarray(color), (products.PX, products.PX, 3)))
        skin = picture(stamp(base, letter, cover, (0.5, 0.5), (0.6, 0.6)), 0.4)
        block = box(side, side, side, 0.04, 6).rotated("z", float(rng.normal(0, 18)))
        across = float(rng.normal(0, 0.06)) if number else 0.0
        parts.append(Part(block.moved(across, across / 2, level + side / 2), skin))
        level += side
    ball = ellipsoid(side, side, side).moved(side * 1.2, -0.2, side / 2)
    return [*parts, Part(ball, simple(textures.vivid(rng), 0.3))]


FAMILIES: dict[str, Callable[[Item, Finish, Generator, str], list[Part]]] = {
    "mug": _mug,
    "lamp": _lamp,
    "book": _book,
    "toy": _toy,
}
products._FAMILIES.update(FAMILIES)
scenes.PHOTOGRAPHY.update(
    {
        "mug": scenes.Photography({"standing": 6, "held": 3, "tilted": 1}, (8, 55), 0.0, 1.05),
        "lamp": scenes.Photography({"standing": 8, "tilted": 1}, (0, 35), 0.1, 1.0),
        "book": scenes.Photography({"standing": 7, "held": 2, "tilted": 1}, (10, 70), 0.1, 1.1),
        "toy": scenes.Photography({"standing": 7, "held": 2}, (8, 55), 0.1, 1.1),
    }
)
