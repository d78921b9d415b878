"""One photograph of an item: pose, hand, ground, background, clutter, light and camera, rendered by Mitsuba 3."""

from __future__ import annotations

import colorsys
import io
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter

from vitrine.render import palette, textures
from vitrine.render.items import Item
from vitrine.render.materials import picture, simple
from vitrine.render.meshes import Mesh, box, capsule, curve, ellipsoid, lathe, rotation
from vitrine.render.products import Part, build
from vitrine.render.textures import RGB, Floats, Generator

_SKINS: tuple[RGB, ...] = (
    (0.87, 0.67, 0.54),
    (0.78, 0.56, 0.42),
    (0.66, 0.45, 0.32),
    (0.52, 0.35, 0.24),
    (0.36, 0.24, 0.17),
)
_GROUND_DM = 60.0
_POSE_WORDS = {
    "held": "held in a hand",
    "fingers": "between fingers",
    "wrist": "on a wrist",
    "lying": "lying down",
    "lying_back": "lying on its back",
    "hanging": "in front of a wall",
    "tilted": "leaning",
}


class Photography(NamedTuple):
    """How people photograph a class.

    poses: names and their weights.
    elevation_degrees: range of the camera's height.
    back_fraction: share of views from behind.
    fill: the item's size in the frame; above 1 it is cropped.
    """

    poses: dict[str, float]
    elevation_degrees: tuple[float, float]
    back_fraction: float
    fill: float


PHOTOGRAPHY = {
    "clothing_cap": Photography({"standing": 6, "held": 3, "tilted": 1}, (10, 55), 0.12, 1.05),
    "clothing_wrist_watch": Photography({"wrist": 4, "standing": 3, "fingers": 2}, (45, 88), 0.0, 1.1),
    "food_storage_plastic_container": Photography({"standing": 3, "held": 6, "tilted": 1}, (12, 55), 0.2, 1.1),
    "footwear_sneakers": Photography({"standing": 8, "tilted": 1, "held": 1}, (15, 75), 0.4, 1.1),
    "personal_care_deodorant": Photography({"standing": 6, "held": 3, "lying": 1}, (5, 45), 0.2, 1.0),
    "personal_care_shampoo_bottle": Photography({"standing": 3, "held": 6, "lying": 2}, (0, 45), 0.2, 1.25),
    "personal_care_soap_bar": Photography({"standing": 3, "held": 6, "tilted": 2}, (20, 75), 0.2, 1.15),
    "tableware_water_bottle": Photography({"standing": 2, "held": 2, "lying": 7}, (5, 55), 0.2, 1.8),
    "travel_backpack": Photography({"standing": 7, "lying_back": 3, "hanging": 2}, (-5, 35), 0.25, 1.1),
    "travel_handbag": Photography({"standing": 7, "lying_back": 2, "hanging": 3}, (-5, 40), 0.12, 1.0),
}


class Shot(NamedTuple):
    """How a view is taken, drawn before anything is built."""

    pose: str
    is_back: bool
    elevation_degrees: float


def _shot(item: Item, view: int) -> tuple[Shot, Generator]:
    rng = np.random.default_rng([*item.seed, 3, view])
    style = PHOTOGRAPHY[item.class_label]
    weights = np.array(list(style.poses.values()))
    pose = str(rng.choice(list(style.poses), p=weights / weights.sum()))
    elevation = float(rng.uniform(*style.elevation_degrees))
    if pose == "lying_back" or pose == "lying":
        elevation = float(rng.uniform(35, 88))
    elif pose in ("held", "hanging"):
        elevation = float(np.clip(rng.normal(12, 16), -20, 60))
    is_back = bool(rng.random() < style.back_fraction) and pose != "lying_back"
    return Shot(pose, is_back, elevation), rng


def describe_view(item: Item, view: int) -> str:
    """Describe how a view is taken, such as "held in a hand, from behind"."""
    shot, _ = _shot(item, view)
    side = "from behind" if shot.is_back else "from above" if shot.elevation_degrees > 50 else "from the front"
    return ", ".join(word for word in (_POSE_WORDS.get(shot.pose), side) if word)


class View(NamedTuple):
    """A photograph and the pixels of the item in it.

    Shape:
        mask: (height, width): the item with its tags, without the hand that holds it.
        body: (height, width): of these, the parts that determine its color label.
    """

    jpeg: bytes
    mask: NDArray[np.bool_]
    body: NDArray[np.bool_]


built = lru_cache(maxsize=2)(build)  # views of one item are consecutive, and building is an eighth of the work


def render_view(item: Item, view: int, image_size_px: int, samples_per_pixel: int) -> View:
    """Photograph an item; the same arguments give the same JPEG on one machine.

    Args:
        samples_per_pixel: light paths per pixel; noise falls with its square root.
    """
    shot, rng = _shot(item, view)
    parts = _posed(rng, built(item, shot.pose), shot)
    scene, camera = _compose(rng, item, parts, shot)
    channels, names = _trace(scene, camera, rng, image_size_px, samples_per_pixel)
    mask, body = (
        np.isin(names, [f"part_{k}" for k, part in enumerate(parts) if part.role in roles])
        for roles in (("body", "extra"), ("body",))
    )
    return View(_develop(rng, channels, camera["white"], body, item.color), mask, body)


def _turned(parts: list[Part], axis: str, degrees: float) -> list[Part]:
    return [replace(part, mesh=part.mesh.rotated(axis, degrees)) for part in parts]


def _points(parts: list[Part]) -> Floats:
    """The vertices of the item without its tags, which affect neither its position nor its framing."""
    return np.concatenate([part.mesh.positions for part in parts if part.role == "body"])


def _bounds(parts: list[Part]) -> tuple[Floats, Floats]:
    points = _points(parts)
    return points.min(axis=0), points.max(axis=0)


def _posed(rng: Generator, parts: list[Part], shot: Shot) -> list[Part]:
    """Turn the product and set it down: its lowest point at z = 0, its middle over the origin."""
    pose = shot.pose
    if pose == "lying":
        parts = _turned(parts, "z", float(rng.normal(0, 35)))
        parts = _turned(parts, "x", -90.0)
    elif pose == "lying_back":
        parts = _turned(parts, "x", -90.0)
    elif pose in ("held", "fingers", "hanging"):
        spread = {"held": 16, "fingers": 14, "hanging": 4}[pose]
        parts = _turned(parts, "x", float(rng.normal(0, spread)))
    elif pose == "tilted":
        parts = _turned(parts, "x", float(rng.uniform(-60, 35)))
        parts = _turned(parts, "y", float(rng.normal(0, 20)))
    yaw = float(rng.normal(0, 20)) if rng.random() < 0.85 else float(rng.uniform(-80, 80))
    if pose == "lying":
        yaw = float(rng.choice([-90, 90]) + rng.normal(0, 30)) if rng.random() < 0.7 else float(rng.uniform(-180, 180))
    elif pose in ("lying_back", "wrist", "fingers"):
        yaw = float(rng.normal(0, 30))
    parts = _turned(parts, "z", yaw + (180 if shot.is_back else 0))
    low, high = _bounds(parts)
    middle = (low + high) / 2
    return [replace(part, mesh=part.mesh.moved(-middle[0], -middle[1], -low[2])) for part in parts]


def _hand(rng: Generator, parts: list[Part]) -> list[Part]:
    """Four fingers around the left side, a thumb on the right, a palm behind; mirrored half of the time."""
    low, high = _bounds(parts)
    points = _points(parts)
    grip = low[2] + (high[2] - low[2]) * rng.uniform(0.12, 0.5)
    near = points[np.abs(points[:, 2] - grip) < 0.45]
    half_x, half_y = (np.abs(near[:, k]).max() if len(near) else 0.4 for k in range(2))
    half_x, half_y = min(half_x, 1.1), min(half_y, 0.8)
    skin = np.array(_SKINS[rng.integers(0, len(_SKINS))]) * rng.uniform(0.9, 1.08)
    tone: RGB = (float(min(skin[0], 1)), float(skin[1]), float(skin[2]))
    spots = textures.tint(
        textures.noise(rng, 64, 5, 3), np.asarray(tone) * 0.86, np.clip(np.asarray(tone) * 1.06, 0, 1)
    )
    flesh = picture(spots, 0.5, 0.35)
    size = rng.uniform(0.14, 0.18)
    sign = 1.0 if rng.random() < 0.5 else -1.0
    reach = rng.uniform(200, 262)
    meshes: list[Mesh] = []
    for k in range(4):
        z = grip + (k - 1.5) * size * 1.08
        end = np.radians(reach - 8 * abs(k - 1.3) + rng.normal(0, 4))
        angle = np.linspace(np.radians(95), end, 12)
        radius = size / 2
        path = np.column_stack(
            [
                (half_x + radius) * np.cos(angle),
                (half_y + radius) * np.sin(angle),
                z + 0.1 * (angle - angle[0]) * rng.normal(0, 0.5),
            ]
        )
        meshes.append(capsule(path, size * np.linspace(1.1, 0.82, 12)))
    angle = np.linspace(np.radians(85), np.radians(rng.uniform(-75, -35)), 12)
    thumb = np.column_stack(
        [
            (half_x + size / 2) * np.cos(angle),
            (half_y + size / 2) * np.sin(angle),
            grip + np.linspace(-0.15, rng.uniform(0.05, 0.4), 12),
        ]
    )
    meshes.append(capsule(thumb, size * np.linspace(1.35, 0.95, 12)))
    meshes.append(ellipsoid(half_x * 1.5 + 0.3, 0.42, 0.9).moved(y=half_y + 0.28, z=grip - 0.05))
    wrist = curve(
        (0, half_y + 0.3, grip - 0.1), (0.5, half_y + 0.5, grip - 1.1), (1.2, half_y + 0.6, grip - 3.2), num=10
    )
    meshes.append(capsule(wrist, np.linspace(0.62, 0.75, 10)))
    return [Part(mesh.scaled(sign, 1, 1), flesh, "scene") for mesh in meshes]


def _arm(rng: Generator, parts: list[Part]) -> list[Part]:
    """A forearm through a closed watch, and sometimes a sleeve."""
    low, high = _bounds(parts)
    middle_z = (low[2] + high[2]) / 2 - 0.03
    skin = np.array(_SKINS[rng.integers(0, len(_SKINS))])
    spots = textures.tint(textures.noise(rng, 64, 6, 4), skin * 0.85, np.clip(skin * 1.05, 0, 1))
    x = np.linspace(-2.6, 2.6, 24)
    sizes = np.interp(x, [-2.6, -0.4, 0.4, 1.2, 2.6], [0.78, 0.56, 0.54, 0.72, 0.8])
    arm = capsule(np.column_stack([x, 0 * x, 0 * x]), sizes)
    mesh = arm.scaled(1, 1.0, 0.8).moved(z=middle_z)
    result = [Part(mesh, picture(spots, 0.5, 0.3), "scene")]
    if rng.random() < 0.4:
        cuff = np.column_stack([np.linspace(-2.6, -rng.uniform(0.35, 0.8), 10), np.zeros(10), np.full(10, middle_z)])
        sleeve = capsule(cuff, np.linspace(0.95, 0.8, 10)).wrinkled(rng, 0.03, 0.5)
        result.append(
            Part(
                sleeve,
                picture(textures.cloth(rng, 128) if rng.random() < 0.4 else textures.plain(rng, 64), 0.9, 0.1),
                "scene",
            )
        )
    return result


def _thing(rng: Generator) -> tuple[Mesh, dict[str, Any]]:
    """A piece of clutter: a box, a tin, a ball, a book or a pen."""
    size = rng.uniform(0.4, 2.2)
    color = textures.vivid(rng) if rng.random() < 0.5 else textures.muted(rng)
    kind = rng.integers(0, 5)
    if kind == 0:
        mesh = box(size, size * rng.uniform(0.3, 1), size * rng.uniform(0.2, 1.6), 0.04, 5)
    elif kind == 1:
        radius, height = size * rng.uniform(0.2, 0.5), size * rng.uniform(0.4, 1.8)
        mesh = lathe([(0, radius), (height * 0.9, radius * rng.uniform(0.6, 1.1)), (height, radius * 0.5)])
    elif kind == 2:
        mesh = ellipsoid(size * 0.7, size * 0.7, size * rng.uniform(0.3, 0.7))
    elif kind == 3:
        mesh = box(size * 1.3, size, 0.2, 0.03, 5)
    else:
        mesh = capsule(np.array([[-size * 0.6, 0, 0.1], [0, 0, 0.1], [size * 0.6, 0, 0.1]]), rng.uniform(0.1, 0.5))
    mesh = mesh.rotated("z", float(rng.uniform(0, 360)))
    mesh = mesh.moved(z=-float(mesh.positions[:, 2].min()))
    choice = rng.random()
    if choice < 0.4:
        bsdf = picture(textures.printed(rng, color, (96, 96), 0.8, most=1.0), rng.uniform(0.2, 0.7))
    elif choice < 0.7:
        bsdf = simple(color, rng.uniform(0.15, 0.8), metallic=float(rng.random() < 0.15))
    else:
        bsdf = picture(textures.pick(rng, textures.SURFACES, 96), rng.uniform(0.3, 0.9))
    return mesh, bsdf


def _plane(texture: Floats, roughness: float, specular: float, repeat: float, to_world: Any) -> dict[str, Any]:
    bsdf = picture(texture, roughness, specular)
    bsdf["bsdf"]["base_color"] |= {"wrap_mode": "mirror", "repeat": float(repeat)}
    return {"type": "rectangle", "to_world": to_world, "bsdf": bsdf}


def _compose(rng: Generator, item: Item, parts: list[Part], shot: Shot) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a Mitsuba scene without its camera, and the parameters of the camera."""
    from mitsuba import ScalarTransform4f as Transform

    floating = shot.pose in ("held", "fingers", "hanging")
    low, high = _bounds(parts)
    center = (low + high) / 2
    radius = float(np.linalg.norm(high - low) / 2)
    pose, elevation = shot.pose, shot.elevation_degrees
    roll = float(rng.normal(0, 8)) if pose != "held" or rng.random() < 0.7 else float(rng.uniform(-90, 90))
    fov = float(rng.uniform(26, 55))
    fill = PHOTOGRAPHY[item.class_label].fill * float(np.clip(rng.normal(1, 0.18), 0.6, 1.5))

    # The camera looks along +y, tilted down by the elevation; its distance follows from the item's size in the frame.
    turn = rotation("x", -elevation)
    points = _points(parts) - center
    seen = points @ turn  # camera axes: x right, y away, z up
    extent = float(np.abs(seen[:, [0, 2]]).max())
    if item.class_label == "clothing_wrist_watch":
        extent = 0.48 if rng.random() < 0.7 else extent
    distance = extent / (fill * np.tan(np.radians(fov / 2))) + max(float(-seen[:, 1].min()), 0.0) * 0.6
    target = center + turn @ np.array([*rng.normal(0, 0.07, 1) * extent, 0, *rng.normal(0, 0.07, 1) * extent])
    origin = target + turn @ np.array([0.0, -distance, 0.0])
    up = turn @ rotation("y", roll) @ np.array([0.0, 0.0, 1.0])
    camera = {"origin": origin, "target": target, "up": up, "fov": fov, "distance": distance}
    camera["aperture"] = float(rng.choice([0.0, 0.01, 0.03])) * distance

    if pose == "held":
        parts = [*parts, *_hand(rng, parts)]
    elif pose == "fingers":
        parts = [*parts, *_hand(rng, parts[:1])]
    elif pose == "wrist":
        parts = [*parts, *_arm(rng, parts)]

    # Only volpath lets light from a lamp pass through clear walls; it is slower.
    is_clear = any(part.bsdf["type"] in ("mask", "blendbsdf") for part in parts)
    integrator = "volpath" if is_clear else "path"
    scene: dict[str, Any] = {"type": "scene", "integrator": {"type": integrator, "max_depth": 8, "rr_depth": 3}}
    gloss, shine = float(rng.uniform(0.15, 0.9)), float(rng.uniform(0.1, 0.5))
    tile_dm = float(np.exp(rng.uniform(np.log(3), np.log(22)))) * max(radius / 1.2, 0.5)
    if floating:
        behind = center + (target - origin) / distance * rng.uniform(1.2 if pose == "hanging" else 1.8, 9) * radius
        world = Transform().look_at(
            origin=behind.tolist(), target=origin.tolist(), up=[0, 0.01, 1]
        ) @ Transform().scale(_GROUND_DM)
        backdrop = textures.pick(rng, textures.WALLS if rng.random() < 0.6 else textures.SURFACES, 320)
        scene["backdrop"] = _plane(backdrop, gloss, shine, 2 * _GROUND_DM / tile_dm, world)
    else:
        ground = textures.pick(rng, textures.SURFACES, 320)
        spin = Transform().rotate([0, 0, 1], float(rng.uniform(0, 360)))
        scene["ground"] = _plane(ground, gloss, shine, 2 * _GROUND_DM / tile_dm, spin @ Transform().scale(_GROUND_DM))
        away = float(high[1] + rng.uniform(0.15, 6) * radius)
        world = Transform().translate([0, away, 0]) @ Transform().rotate([1, 0, 0], 90) @ Transform().scale(_GROUND_DM)
        scene["wall"] = _plane(textures.pick(rng, textures.WALLS, 320), 0.8, 0.2, 2 * _GROUND_DM / tile_dm, world)

    for k in range(int(rng.choice([0, 0, 0, 1, 2, 3]))):
        mesh, bsdf = _thing(rng)
        scale = float(rng.uniform(0.35, 0.9)) * radius
        mesh = mesh.scaled(scale)
        bearing = float(rng.uniform(-60, 240))
        reach = radius * rng.uniform(0.95, 2.4) + scale * 0.6
        x, y = reach * np.cos(np.radians(bearing)), reach * np.sin(np.radians(bearing))
        if floating:
            depth = float(rng.uniform(0.5, 1.0))
            spot = center + (behind - center) * depth + turn @ np.array([x, 0, y]) * (1 + 0.3 * depth)
            mesh = mesh.rotated("x", float(rng.uniform(-40, 40))).moved(*spot)
        else:
            mesh = mesh.moved(x, max(y, -0.35 * radius), 0)
        scene[f"thing_{k}"] = _shape(mesh, bsdf)
    for k, part in enumerate(parts):
        scene[f"part_{k}"] = _shape(part.mesh, part.bsdf)
    camera["white"] = _light(rng, scene, camera)
    return scene, camera


def _light(rng: Generator, scene: dict[str, Any], camera: dict[str, Any]) -> float:
    """Light the scene like a room: ambient light, a few windows and lamps; sometimes a flash or the sun.

    Returns:
        approximate brightness of a white card on the table.
    """
    from mitsuba import ScalarTransform4f as Transform

    height, width = 32, 64
    warm = np.array(colorsys.hsv_to_rgb(float(rng.choice([0.08, 0.1, 0.6])), float(rng.uniform(0, 0.16)), 1.0))
    rows = np.linspace(1, 0, height)[:, None, None]
    sky = rng.uniform(0.25, 0.8) * warm * (0.45 + rng.uniform(0, 1.1) * rows) * np.ones((height, width, 1))
    sky = sky * (0.75 + 0.5 * textures.noise(rng, width, 4, 3)[:height, :, None])
    for _ in range(int(rng.integers(1, 5))):
        top, left = int(rng.integers(0, 14)), int(rng.integers(0, width))
        tall, wide = int(rng.integers(2, 8)), int(rng.integers(2, 14))
        strength = float(np.exp(rng.uniform(np.log(2), np.log(22)))) * 16 / (tall * wide) ** 0.7
        tone = np.array(colorsys.hsv_to_rgb(float(rng.choice([0.09, 0.58])), float(rng.uniform(0, 0.22)), 1.0))
        columns = (left + np.arange(wide)) % width
        sky[top : top + tall, columns] += strength * tone
    sky = gaussian_filter(sky, (0.7, 0.7, 0), mode=("nearest", "wrap", "nearest"))
    above = np.cos(np.linspace(0, np.pi / 2, height // 2)) * np.sin(np.linspace(0, np.pi / 2, height // 2) + 0.05)
    white = float(np.average(sky[: height // 2].mean(axis=(1, 2)), weights=above))
    scene["room"] = {
        "type": "envmap",
        "picture": sky.astype(np.float32),
        "to_world": Transform().rotate([0, 0, 1], float(rng.uniform(0, 360))) @ Transform().rotate([1, 0, 0], 90),
    }
    if rng.random() < 0.2:
        power = float(rng.uniform(0.3, 1.2)) * camera["distance"] ** 2
        place = camera["origin"] + camera["up"] * 0.06 * camera["distance"]
        white += power / camera["distance"] ** 2 / np.pi
        scene["flash"] = {
            "type": "point",
            "position": place.tolist(),
            "intensity": {"type": "rgb", "value": [power] * 3},
        }
    if rng.random() < 0.2:
        direction = [float(rng.normal(0, 0.8)), float(rng.normal(0.4, 0.8)), -1.0]
        power = float(rng.uniform(0.8, 2.5))
        white += power / np.pi
        scene["sun"] = {
            "type": "directional",
            "direction": direction,
            "irradiance": {"type": "rgb", "value": [power, power * 0.94, power * 0.84]},
        }
    return white


def _shape(mesh: Mesh, bsdf: dict[str, Any]) -> dict[str, Any]:
    return {"type": "mesh", "mesh": mesh, "bsdf": bsdf}


def _load(node: Any) -> Any:
    """Replace this package's pictures and meshes in a scene's dictionary with Mitsuba objects."""
    import mitsuba as mi

    if not isinstance(node, dict):
        return node
    if node.get("type") == "mesh":
        mesh: Mesh = node["mesh"]
        properties = mi.Properties()
        properties["bsdf"] = mi.load_dict(_load(node["bsdf"]))
        shape = mi.Mesh(
            "mesh",
            len(mesh.positions),
            len(mesh.faces),
            has_vertex_normals=True,
            has_vertex_texcoords=True,
            props=properties,
        )
        values = mi.traverse(shape)
        values["vertex_positions"] = np.ravel(mesh.positions).astype(np.float32)
        values["vertex_normals"] = np.ravel(mesh.normals).astype(np.float32)
        values["vertex_texcoords"] = np.ravel(mesh.uv).astype(np.float32)
        values["faces"] = np.ravel(mesh.faces).astype(np.uint32)
        values.update()
        return shape
    if "picture" in node:
        loaded = {key: value for key, value in node.items() if key not in ("picture", "repeat")}
        flip = node["type"] == "bitmap"  # Mitsuba has v = 0 at the top
        loaded["bitmap"] = mi.Bitmap(np.ascontiguousarray(node["picture"][::-1]) if flip else node["picture"])
        if "repeat" in node:
            loaded["to_uv"] = mi.ScalarTransform4f().scale([node["repeat"], node["repeat"], 1])
        return loaded
    return {key: _load(value) for key, value in node.items()}


def _trace(
    scene: dict[str, Any], camera: dict[str, Any], rng: Generator, image_size_px: int, samples_per_pixel: int
) -> tuple[Floats, NDArray[np.str_]]:
    """Trace the light on the sensor, and which object of the scene is at each pixel.

    Returns:
        linear light; albedo, 0 to 1, and unit normals of the first surface hit, shape (height, width, 9)
        the object's name in `scene`, shape (height, width); "" where there is none
    """
    import mitsuba as mi

    camera_to_world = mi.ScalarTransform4f().look_at(
        origin=camera["origin"].tolist(), target=camera["target"].tolist(), up=camera["up"].tolist()
    )
    lens = {"type": "thinlens", "aperture_radius": camera["aperture"], "focus_distance": camera["distance"]}
    sensor = {
        **(lens if camera["aperture"] > 0 else {"type": "perspective"}),
        "fov": camera["fov"],
        "near_clip": 0.01,
        "far_clip": 1000.0,
        "to_world": camera_to_world,
        "film": {
            "type": "hdrfilm",
            "width": image_size_px,
            "height": image_size_px,
            "rfilter": {"type": "box"},
            "component_format": "float32",
        },
        "sampler": {"type": "multijitter", "sample_count": samples_per_pixel},
    }
    # Separate passes: Mitsuba takes longer for light and guides in one. The guides have less noise.
    seed = mi.UInt32(int(rng.integers(2**31)))
    loaded = mi.load_dict(_load({**scene, "sensor": sensor}))

    def render(integrator: dict[str, Any], num_samples: int) -> Floats:
        image = mi.render(loaded, integrator=mi.load_dict(integrator), spp=num_samples, seed=seed)
        return np.array(image, dtype=np.float64)

    light = render(scene["integrator"], samples_per_pixel)[..., :3]
    guides = render({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}, -(-samples_per_pixel // 2))[..., -6:]
    index = render({"type": "aov", "aovs": "shape:shape_index"}, 1)[..., -1].astype(int)  # 0: no shape
    names = np.array(["", *(shape.id() for shape in loaded.shapes())])
    return np.nan_to_num(np.concatenate([light, guides], axis=-1)), names[index]


def _denoised(channels: Floats) -> Floats:
    """Average each pixel's light with that of nearby pixels on the same surface.

    The surface's own colors are divided out first, so that prints and weaves stay sharp; pixels of similar
    color, normal and light get more weight.

    Shape:
        channels: (height, width, 9): light, albedo, normals; returns: (height, width, 3)
    Source:
        Tomasi and Manduchi, "Bilateral filtering for gray and color images" (1998), joint as in Schied et al.,
        "Spatiotemporal variance-guided filtering" (2017).
    """
    albedo, normals = channels[..., 3:6].clip(0, 1) + 0.03, channels[..., 6:]
    light = channels[..., :3] / albedo
    light = np.minimum(light, 1.5 * median_filter(light, (3, 3, 1)) + 0.02)
    logs = np.log(gaussian_filter(light, (0.8, 0.8, 0)).mean(axis=-1, keepdims=True) + 0.05)
    guide = np.concatenate([np.sqrt(albedo) / 0.1, normals / 0.25, logs / 0.35], axis=-1)
    reach = 3
    pad = ((reach, reach), (reach, reach), (0, 0))
    padded, padded_guide = np.pad(light, pad, mode="edge"), np.pad(guide, pad, mode="edge")
    padded, padded_guide, guide = (x.astype(np.float32) for x in (padded, padded_guide, guide))
    total, weights = np.zeros_like(light), np.zeros((*light.shape[:2], 1))
    height, width = light.shape[:2]
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            window = slice(y, y + height), slice(x, x + width)
            apart = ((padded_guide[window] - guide) ** 2).sum(axis=-1, keepdims=True)
            weight = np.exp(-apart / 2 - ((y - reach) ** 2 + (x - reach) ** 2) / (2 * 2.0**2))
            total, weights = total + weight * padded[window], weights + weight
    return total / weights * albedo


def _develop(rng: Generator, channels: Floats, white_card: float, body: NDArray[np.bool_], color: str) -> bytes:
    """Process the image as a phone does: exposure, white balance, tone curve, blur, noise, JPEG.

    Exposure follows the highlights and, to a lesser extent, the light in the room. People delete photographs with
    wrong colors: exposures ever further from the first are tried until the body has the color of its label.

    Args:
        body: the pixels that determine the color label.
    """
    clean = _denoised(channels)
    best, best_lead = _exposed(rng, clean, white_card, 0.0), -2.0
    for attempt in range(24 if body.any() else 0):
        exposed = _exposed(rng, clean, white_card, 0.04 * attempt)
        lead = palette.lead(exposed[body], color)
        if lead > best_lead:
            best, best_lead = exposed, lead
        if lead > 0.1:
            break
    blur = max(float(rng.normal(0.2, 0.25)), 0.0) * clean.shape[0] / 128
    encoded = gaussian_filter(best, (blur, blur, 0)) if blur > 0.15 else best
    encoded = encoded + rng.normal(0, rng.uniform(0.002, 0.014), encoded.shape)
    picture_8bit = Image.fromarray(np.round(np.clip(encoded, 0, 1) * 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture_8bit.save(buffer, "JPEG", quality=int(rng.integers(82, 93)))
    return buffer.getvalue()


def _exposed(rng: Generator, clean: Floats, white_card: float, spread: float) -> Floats:
    """One exposure, as sRGB in [0, 1].

    Args:
        spread: standard deviation of the photographer's correction, in stops.
    """
    highlights = float(np.quantile(clean @ np.array([0.21, 0.72, 0.07]), 0.98))
    wanted = rng.uniform(0.55, 0.95)
    exposed = clean * (wanted / max(highlights, 1e-3)) ** 0.8 * (wanted / white_card) ** 0.2
    exposed = exposed * 2.0 ** rng.normal(0, spread) * (1 + rng.normal(0, 0.025, 3))
    tone = np.minimum(exposed * (1 + 0.25 * exposed) / (1 + 0.25 * exposed**2), 1.2)
    encoded = np.where(tone <= 0.0031308, 12.92 * tone, 1.055 * np.maximum(tone, 1e-9) ** (1 / 2.4) - 0.055)
    encoded = np.clip(encoded, 0, 1)
    encoded = encoded - rng.uniform(0.1, 0.75) * np.sin(2 * np.pi * encoded) / (2 * np.pi)  # contrast
    gray = encoded.mean(axis=-1, keepdims=True)
    return np.clip(gray + (encoded - gray) * rng.uniform(0.7, 1.0), 0, 1)
