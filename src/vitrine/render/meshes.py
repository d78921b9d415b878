"""Triangle meshes of simple solids: lofts, tubes, rounded boxes, sheets. Lengths are in decimeters, z points up.

The front of an object faces -y. Texture coordinates: u runs to the right and v upward, as seen from the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, shaded smoothly at shared vertices; the vertices of sharp edges are duplicated.

    Shape:
        positions: (vertices, 3), in decimeters.
        faces: (triangles, 3), counter-clockwise from outside.
        uv: (vertices, 2), in [0, 1].
    """

    positions: Floats
    faces: NDArray[np.int64]
    uv: Floats

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        return replace(self, positions=self.positions + np.array([x, y, z]))

    def scaled(self, x: float, y: float | None = None, z: float | None = None) -> Mesh:
        """Scale about the origin; mirroring keeps the faces oriented outward."""
        factors = np.array([x, x if y is None else y, x if z is None else z])
        faces = self.faces if np.prod(factors) > 0 else self.faces[:, ::-1]
        return replace(self, positions=self.positions * factors, faces=faces)

    def rotated(self, axis: str, degrees: float) -> Mesh:
        return replace(self, positions=self.positions @ rotation(axis, degrees).T)

    @property
    def normals(self) -> Floats:
        """Unit normals at the vertices, weighted by the areas of their triangles. Shape (vertices, 3)."""
        a, b, c = (self.positions[self.faces[:, k]] for k in range(3))
        face_normals = np.cross(b - a, c - a)
        normals = np.zeros_like(self.positions)
        for k in range(3):
            np.add.at(normals, self.faces[:, k], face_normals)
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        return np.where(lengths > 1e-12, normals / np.maximum(lengths, 1e-12), [0.0, 0.0, 1.0])

    def wrinkled(self, rng: np.random.Generator, depth_dm: float, length_dm: float) -> Mesh:
        """Push the surface in and out along smooth random waves, like soft cloth or a dented can."""
        waves = rng.normal(size=(6, 3)) * (2 * np.pi / length_dm) * rng.uniform(0.5, 1.5, size=(6, 1))
        phases = rng.uniform(0, 2 * np.pi, 6)
        heights = np.sin(self.positions @ waves.T + phases).mean(axis=1) * 2.0
        return replace(self, positions=self.positions + self.normals * (depth_dm * heights)[:, None])


def rotation(axis: str, degrees: float) -> Floats:
    """Rotation matrix about a coordinate axis. Shape (3, 3)."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    angle = np.radians(degrees)
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def join(*meshes: Mesh) -> Mesh:
    """Merge several meshes into one."""
    offsets = np.cumsum([0, *(len(mesh.positions) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.positions for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
        np.concatenate([mesh.uv for mesh in meshes]),
    )


def grid(points: Floats, uv: Floats | None = None) -> Mesh:
    """A surface through a grid of points, seen from the side where u runs right and v up.

    Shape:
        points: (rows, columns, 3), rows from bottom to top.
    """
    rows, columns = points.shape[:2]
    if uv is None:
        v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
        uv = np.stack([u, v], axis=-1)
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (corner.ravel() for corner in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    return Mesh(
        points.reshape(-1, 3).astype(np.float64),
        np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]),
        uv.reshape(-1, 2),
    )


def smooth(knots: Sequence[tuple[float, ...]], num: int) -> Floats:
    """A monotone cubic curve through knots, sampled evenly in their first coordinate. Shape (num, knot length).

    Source: Fritsch and Carlson, "Monotone piecewise cubic interpolation" (1980), as implemented in scipy.
    """
    from scipy.interpolate import PchipInterpolator

    table = np.asarray(knots, dtype=np.float64)
    at = np.linspace(table[0, 0], table[-1, 0], num)
    return np.column_stack([at, PchipInterpolator(table[:, 0], table[:, 1:])(at)])


def loft(
    heights: ArrayLike,
    half_widths: ArrayLike,
    half_depths: ArrayLike | None = None,
    *,
    exponent: float = 2.0,
    center_y: ArrayLike = 0.0,
    flutes: tuple[int, float] = (0, 0.0),
    closed: tuple[bool, bool] = (True, True),
    segments: int = 64,
) -> Mesh:
    """A body of superelliptic cross-sections stacked along z; exponent 2 is an ellipse, 4 a rounded rectangle.

    Shape:
        heights, half_widths, half_depths, center_y: (sections,) or scalars, in decimeters.
        flutes: number of grooves around the body, and their depth as a fraction of the radius.
        closed: whether the bottom and the top are filled.
    """
    z, a, b, y = np.broadcast_arrays(
        np.asarray(heights, dtype=np.float64),
        half_widths,
        half_widths if half_depths is None else half_depths,
        center_y,
    )
    u = np.linspace(0, 1, segments + 1)
    theta = 2 * np.pi * u
    sine, cosine = -np.sin(theta), np.cos(theta)
    ripple = 1 + flutes[1] * np.cos(flutes[0] * theta) if flutes[0] else np.ones_like(theta)
    x_unit = np.sign(sine) * np.abs(sine) ** (2 / exponent) * ripple
    y_unit = np.sign(cosine) * np.abs(cosine) ** (2 / exponent) * ripple
    points = np.stack(
        [
            a[:, None] * x_unit,
            y[:, None] + b[:, None] * y_unit,
            np.broadcast_to(z[:, None], (len(z), len(u))),
        ],
        axis=-1,
    )
    lengths = np.concatenate([[0], np.cumsum(np.hypot(np.diff(z), np.diff(a)))])
    uv = np.stack(np.broadcast_arrays(u[None, :], (lengths / max(lengths[-1], 1e-9))[:, None]), axis=-1)
    parts = [grid(points, uv)]
    for is_closed, row, flip in zip(closed, (0, -1), (True, False), strict=True):
        if is_closed and a[row] > 1e-4:
            ring = points[row]
            middle = np.broadcast_to(ring[:-1].mean(axis=0), ring.shape)
            # The end shows a small patch near the texture's upper edge, where nothing is printed.
            patch = np.column_stack([0.5 + 0.06 * ring[:, 0] / a[row], 0.93 + 0.06 * ring[:, 1] / max(b[row], 1e-9)])
            center = np.broadcast_to([0.5, 0.93], patch.shape)
            layers = ((middle, center), (ring, patch)) if flip else ((ring, patch), (middle, center))
            parts.append(grid(*(np.stack(pair) for pair in zip(*layers, strict=True))))
    return join(*parts)


def lathe(profile: Sequence[tuple[float, float]], num: int = 48, segments: int = 64) -> Mesh:
    """A solid of revolution about z through (height, radius) knots."""
    curve = smooth(profile, num)
    return loft(curve[:, 0], curve[:, 1], segments=segments)


def tube(path: Floats, width: ArrayLike, thickness: ArrayLike | None = None, *, exponent: float = 2.0) -> Mesh:
    """A strap, a handle or a finger: an elliptic or flat cross-section along a path, with closed ends.

    Shape:
        path: (points, 3), in decimeters.
        width, thickness: (points,) or scalars: full extents across the path; thickness is along its curvature.
    """
    tangents = np.gradient(path, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    side = np.cross(tangents[0], [0.0, 0.0, 1.0])
    if np.linalg.norm(side) < 0.1:
        side = np.cross(tangents[0], [0.0, 1.0, 0.0])
    sides = np.empty_like(path)
    for k, tangent in enumerate(tangents):  # parallel transport: the frame turns no more than the path does
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side)
        sides[k] = side
    ups = np.cross(sides, tangents)
    segments = 16
    theta = np.linspace(0, 2 * np.pi, segments + 1)
    across = np.sign(np.cos(theta)) * np.abs(np.cos(theta)) ** (2 / exponent)
    along = np.sign(np.sin(theta)) * np.abs(np.sin(theta)) ** (2 / exponent)
    half_width = np.broadcast_to(np.asarray(width, dtype=np.float64), len(path)) / 2
    half_thickness = half_width if thickness is None else np.broadcast_to(np.asarray(thickness), len(path)) / 2
    points = (
        path[:, None, :]
        + half_width[:, None, None] * across[None, :, None] * sides[:, None, :]
        + half_thickness[:, None, None] * along[None, :, None] * ups[:, None, :]
    )
    points = np.concatenate([np.broadcast_to(path[0], (1, segments + 1, 3)), points, path[-1] + 0 * points[-1:]])
    return grid(points.swapaxes(0, 1)[::-1])


def capsule(path: Floats, diameter: ArrayLike) -> Mesh:
    """A tube with round ends."""
    diameters = np.broadcast_to(np.asarray(diameter, dtype=np.float64), len(path))
    ends = []
    for point, neighbor, size in ((path[0], path[1], diameters[0]), (path[-1], path[-2], diameters[-1])):
        outward = (point - neighbor) / np.linalg.norm(point - neighbor)
        angles = np.radians([18, 36, 54, 72, 86])
        ends.append((point + outward * size / 2 * np.sin(angles)[:, None], size * np.cos(angles)))
    (head, head_sizes), (tail, tail_sizes) = ends
    return tube(np.concatenate([head[::-1], path, tail]), np.concatenate([head_sizes[::-1], diameters, tail_sizes]))


def box(width: float, depth: float, height: float, radius: float, steps: int = 10) -> Mesh:
    """A box with rounded edges, centered on the origin. Each side shows the whole texture, upright."""
    half = np.array([width, depth, height]) / 2
    core = half - min(radius, half.min() * 0.999)
    line = np.linspace(-1, 1, steps + 1)
    # Twice as many points near the edges, where the surface bends.
    line = np.sign(line) * (1 - (1 - np.abs(line)) ** 2)
    v, u = np.meshgrid(line, line, indexing="ij")
    one = np.ones_like(u)
    sides = [
        np.stack([u, -one, v], axis=-1),
        np.stack([-u, one, v], axis=-1),
        np.stack([one, u, v], axis=-1),
        np.stack([-one, -u, v], axis=-1),
        np.stack([u, v, one], axis=-1),
        np.stack([u, -v, -one], axis=-1),
    ]
    parts = []
    for side in sides:
        point = side * half
        inner = np.clip(point, -core, core)
        outward = point - inner
        outward /= np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-9)
        uv = np.stack([(u + 1) / 2, (v + 1) / 2], axis=-1)
        parts.append(grid(inner + outward * (half - core), uv))
    return join(*parts)


def ellipsoid(width: float, depth: float, height: float, exponent: float = 2.0) -> Mesh:
    """A ball, an egg or a pebble, centered on the origin; exponent above 2 makes it boxier."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 33)
    radius = np.abs(np.cos(angle)) ** (2 / exponent)
    z = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / exponent)
    return loft(z * height / 2, radius * width / 2, radius * depth / 2, exponent=exponent, closed=(False, False))


def extrude(outline: Floats, heights: ArrayLike, scales: ArrayLike) -> Mesh:
    """A closed outline stacked along z, each layer scaled about the outline's middle.

    Shape:
        outline: (points, 2), closed, counter-clockwise from above.
        heights, scales: (layers,).
    """
    middle = outline.mean(axis=0)
    layers = [
        np.column_stack([middle + (outline - middle) * scale, np.full(len(outline), height)])
        for height, scale in zip(np.asarray(heights), np.asarray(scales), strict=True)
    ]
    center_low = np.broadcast_to([*middle, np.asarray(heights)[0]], layers[0].shape)
    center_high = np.broadcast_to([*middle, np.asarray(heights)[-1]], layers[0].shape)
    return join(
        grid(np.stack(layers)), grid(np.stack([center_low, layers[0]])), grid(np.stack([layers[-1], center_high]))
    )


def curve(*points: Sequence[float], num: int = 24) -> Floats:
    """A smooth path through points. Shape (num, 3)."""
    from scipy.interpolate import CubicSpline

    knots = np.asarray(points, dtype=np.float64)
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    return np.asarray(CubicSpline(at, knots)(np.linspace(0, at[-1], num)))
