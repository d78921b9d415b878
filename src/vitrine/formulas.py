"""Pictures made from formulas: contours, fractals and dead leaves. What a picture is of is the formula's number.

They teach edges, textures and shapes without a single photograph; a network has to tell the formulas apart.

Source:
    Kataoka et al., Replacing labeled real-image datasets with auto-generated contours (2022), radial contours;
    Kataoka et al., Pre-training without natural images (2020), iterated function systems;
    Lee, Mumford and Huang, Occlusion models for natural images (2001), dead leaves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SUPERSAMPLING = 2
NUM_POINTS = 20_000


def formula_picture(formula: int, variant: int, side_px: int) -> NDArray[np.uint8]:
    """Draw one picture of a formula; formulas 0, 3, 6... are contours, 1, 4, 7... fractals, the others dead leaves.

    Pictures of a formula differ in colours, place, size, turn and noise: all of it follows from `variant`.

    Shape:
        returns: (side_px, side_px, channels)
    """
    rule = np.random.default_rng([formula, 0])
    chance = np.random.default_rng([formula, 1, variant])
    draw = (_contours, _fractal, _dead_leaves)[formula % 3]
    large = draw(rule, chance, SUPERSAMPLING * side_px)
    small = Image.fromarray(large).resize((side_px, side_px), Image.Resampling.BOX)
    noise = chance.normal(0, chance.uniform(0, 8), (side_px, side_px, 1))
    return np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8)


def _colour(chance: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = chance.integers(0, 256, 3)
    return int(red), int(green), int(blue)


def _contours(rule: np.random.Generator, chance: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Nested closed curves, radius r(t) = 1 + sum of a_k cos(k t + phase_k), each smaller than the one before."""
    num_waves, num_rings = int(rule.integers(1, 5)), int(rule.integers(1, 12))
    frequencies = rule.integers(2, 14, num_waves)
    strengths, phases = rule.uniform(0.03, 0.25, num_waves), rule.uniform(0, 2 * np.pi, num_waves)
    squeeze, shrink = rule.uniform(0.5, 1), rule.uniform(0.75, 0.95)
    canvas = Image.new("RGB", (side, side), _colour(chance))
    draw = ImageDraw.Draw(canvas)
    turn, radius = chance.uniform(0, 2 * np.pi), side * chance.uniform(0.2, 0.45)
    centre = side * (0.5 + chance.uniform(-0.15, 0.15, 2))
    angles = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    waves = 1 + (strengths[:, None] * np.cos(frequencies[:, None] * angles + phases[:, None])).sum(axis=0)
    curve = np.stack([np.cos(angles) * waves, squeeze * np.sin(angles) * waves], axis=1)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    curve = curve @ rotation.T
    filled = bool(chance.integers(2))
    for ring in range(num_rings):
        points = [(float(x), float(y)) for x, y in centre + radius * shrink**ring * curve]
        draw.polygon(points, fill=_colour(chance) if filled else None, outline=_colour(chance), width=SUPERSAMPLING)
    return np.asarray(canvas)


def _fractal(rule: np.random.Generator, chance: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """An iterated function system's attractor: how often the points of a random walk of affine maps meet a pixel."""
    num_maps = int(rule.integers(2, 6))
    maps = np.empty((num_maps, 2, 2))
    for index in range(num_maps):
        left, _ = np.linalg.qr(rule.normal(size=(2, 2)))
        right, _ = np.linalg.qr(rule.normal(size=(2, 2)))
        maps[index] = left @ np.diag(rule.uniform(0.3, 0.85, 2)) @ right  # contractions: the walk stays bounded
    shifts = rule.uniform(-1, 1, (num_maps, 2))
    points = np.zeros((NUM_POINTS // 100, 2))
    visited = []
    for step in range(120):
        chosen = chance.integers(0, num_maps, len(points))
        points = np.einsum("nij,nj->ni", maps[chosen], points) + shifts[chosen]
        if step >= 20:
            visited.append(points)
    cloud = np.concatenate(visited)
    turn = chance.uniform(0, 2 * np.pi)
    cloud = cloud @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    low, high = np.percentile(cloud, [1, 99], axis=0)
    scale = side * chance.uniform(0.55, 0.95) / max(float((high - low).max()), 1e-6)
    place = (cloud - (low + high) / 2) * scale + side * (0.5 + chance.uniform(-0.1, 0.1, 2))
    counts, _, _ = np.histogram2d(place[:, 1], place[:, 0], bins=side, range=((0, side), (0, side)))
    density = np.minimum(1, np.log1p(counts) / np.log1p(max(float(np.percentile(counts[counts > 0], 90)), 1)))
    background, ink = np.array(_colour(chance)), np.array(_colour(chance))
    painted: NDArray[np.uint8] = (background + density[:, :, None] * (ink - background)).astype(np.uint8)
    return painted


def _dead_leaves(rule: np.random.Generator, chance: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Shapes that cover each other; the formula fixes corners, proportions, sizes and how far colours spread."""
    corners, proportion = int(rule.integers(3, 9)), rule.uniform(0.3, 1)
    exponent, smallest = rule.uniform(1, 4), rule.uniform(0.02, 0.08)
    tint, spread = rule.uniform(0, 255, 3), rule.uniform(15, 110)
    aligned = bool(rule.integers(2))
    canvas = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(canvas)
    angles = np.linspace(0, 2 * np.pi, 40 if corners == 8 else corners, endpoint=False)
    common = chance.uniform(0, 2 * np.pi)
    for _ in range(250):
        radius = side * min(0.4, smallest * chance.uniform(0.001, 1) ** (-1 / exponent))
        turn = common if aligned else chance.uniform(0, 2 * np.pi)
        shape = np.stack([np.cos(angles), proportion * np.sin(angles)], axis=1)
        shape = shape @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        red, green, blue = np.clip(chance.normal(tint, spread), 0, 255).astype(int)
        place = chance.uniform(0, side, 2)
        draw.polygon([(float(x), float(y)) for x, y in place + radius * shape], fill=(int(red), int(green), int(blue)))
    return np.asarray(canvas)
