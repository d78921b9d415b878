"""Clips of items on a turntable in front of a fixed camera; the camera shakes once and the table stops once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import shift
from tqdm import tqdm

from vitrine.artifacts import atomic_path, read_npz, write_npz
from vitrine.labels import CLASS_TASK
from vitrine.params import Section
from vitrine.render import palette
from vitrine.render.catalogue import LABELS, RenderError, RenderParams, prepare, render_fingerprint
from vitrine.render.items import Item, make_item
from vitrine.render.products import Part, build
from vitrine.render.scenes import (
    PHOTOGRAPHY,
    Shot,
    _bounds,
    _compose,
    _denoised,
    _exposed,
    _points,
    _posed,
    _shape,
    _trace,
    _turned,
)
from vitrine.render.textures import Floats, Generator

BLUR_STEPS = 9
"""Number of camera positions that are averaged in one shaken frame."""

MAX_EXPOSURES = 24


class TurntableParams(Section):
    """How clips are filmed.

    Attributes:
        num_angles: number of table angles, evenly spaced over a full turn
        frame_rate: frames per second, one per angle
        held_frames: number of frames for which the table stops, at a random angle
        shaken_frames: number of consecutive frames with motion blur, at a random time
        shake_px: maximum shift of the picture within one of them
        clutter_seed: seed of poses, scenes and cameras; another one films the same items differently
        fresh_items: number of items after the sample's in the same catalog, for test only: no model has seen them
    """

    num_angles: Annotated[int, Field(ge=4, le=360)]
    frame_rate: Annotated[int, Field(ge=1, le=60)]
    held_frames: Annotated[int, Field(ge=0)]
    shaken_frames: Annotated[int, Field(ge=0)]
    shake_px: Annotated[float, Field(ge=0)]
    clutter_seed: Annotated[int, Field(ge=0)]
    fresh_items: Annotated[int, Field(ge=0)]


class Clip(NamedTuple):
    """The frames of a clip, and what was done to each.

    Shape:
        frames: (frames, height, width, channels); angles: (frames,), in degrees; held, shaken: (frames,)
    """

    frames: NDArray[np.uint8]
    angles: Floats
    held: NDArray[np.bool_]
    shaken: NDArray[np.bool_]


def render_turntable(item: Item, params: TurntableParams, image_size_px: int, samples_per_pixel: int) -> Clip:
    """Film an item; the same arguments give the same frames on one machine.

    The scene is like that of a photograph of a standing item. Light and exposure stay fixed: the item's color matches
    its label when the table starts, but may match it less from behind.
    """
    rng = np.random.default_rng([*item.seed, 5, params.clutter_seed])
    elevation = float(rng.uniform(*PHOTOGRAPHY[item.class_label].elevation_degrees))
    shot = Shot("standing", False, max(elevation, 5.0))
    parts = _posed(rng, build(item, shot.pose), shot)
    angles = np.arange(params.num_angles) * 360.0 / params.num_angles
    scene, camera = _compose(rng, item, _widest(parts, angles), shot)
    _clear_the_wall(scene, parts)
    light = int(rng.integers(2**31))
    rendered: list[Floats] = []
    seeds = 0
    for angle in angles:
        for k, part in enumerate(_turned(parts, "z", float(angle))):
            scene[f"part_{k}"] = _shape(part.mesh, part.bsdf)
        channels, names = _trace(scene, camera, np.random.default_rng(light), image_size_px, samples_per_pixel)
        clean = _denoised(channels)
        if not rendered:
            bodies = [f"part_{k}" for k, part in enumerate(parts) if part.role == "body"]
            seeds = _exposure(light, clean, camera["white"], np.isin(names, bodies), item.color)
        rendered.append(_exposed(np.random.default_rng([light, seeds]), clean, camera["white"], 0.04 * seeds))
    return _film(rng, np.stack(rendered), angles, params)


def _widest(parts: list[Part], angles: Floats) -> list[Part]:
    """Return the item at the angle where it is widest, so that the camera sees all of it at every angle."""

    def width(turned: list[Part]) -> float:
        return float(np.abs(_points(turned)[:, 0]).max())

    return max((_turned(parts, "z", float(angle)) for angle in angles), key=width)


def _clear_the_wall(scene: dict[str, Any], parts: list[Part]) -> None:
    """Move the wall behind the item far enough away that the turning item never touches it."""
    from mitsuba import ScalarTransform4f as Transform

    reach = float(np.linalg.norm(_points(parts)[:, :2], axis=1).max())
    _, high = _bounds(parts)
    wall = scene["wall"]
    wall["to_world"] = Transform().translate([0, max(reach - float(high[1]), 0.0), 0]) @ wall["to_world"]


def _exposure(light: int, clean: Floats, white: float, body: NDArray[np.bool_], color: str) -> int:
    """Choose the first exposure that shows the label's color, as for photographs; else the best one."""
    leads = []
    for attempt in range(MAX_EXPOSURES if body.any() else 1):
        exposed = _exposed(np.random.default_rng([light, attempt]), clean, white, 0.04 * attempt)
        leads.append(palette.lead(exposed[body], color) if body.any() else 0.0)
        if leads[-1] > 0.1:
            break
    return int(np.argmax(leads))


def _film(rng: Generator, rendered: Floats, angles: Floats, params: TurntableParams) -> Clip:
    """Order the angles, stop the table once, shake the camera once, and add sensor noise.

    Shape:
        rendered: (angles, height, width, channels), in [0, 1]
    """
    num = len(rendered)
    stop = int(rng.integers(num))
    order = np.concatenate([np.arange(stop + 1), np.full(params.held_frames, stop), np.arange(stop + 1, num)])
    held = np.zeros(len(order), dtype=np.bool_)
    held[stop + 1 : stop + 1 + params.held_frames] = True
    shaken = np.zeros(len(order), dtype=np.bool_)
    moving = np.flatnonzero(~held)
    first = int(rng.integers(max(len(moving) - params.shaken_frames, 0) + 1))
    shaken[moving[first : first + params.shaken_frames]] = True
    noise = float(rng.uniform(0.002, 0.014))
    frames = []
    for row, is_shaken in zip(order, shaken, strict=True):
        picture = _shaken(rng, rendered[row], params.shake_px) if is_shaken else rendered[row]
        picture = picture + rng.normal(0, noise, picture.shape)
        frames.append(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return Clip(np.stack(frames), angles[order], held, shaken)


def _shaken(rng: Generator, picture: Floats, shake_px: float) -> Floats:
    """Average a picture over a short straight movement of the camera. Shape: (height, width, channels)."""
    bearing, length = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.6, 1.0)) * shake_px
    steps = np.linspace(-length / 2, length / 2, BLUR_STEPS)
    moved = [shift(picture, (s * np.sin(bearing), s * np.cos(bearing), 0), order=1, mode="nearest") for s in steps]
    return np.asarray(np.mean(moved, axis=0))


def write_clip(path: Path, frames: NDArray[np.uint8], frame_rate: int) -> None:
    """Encode frames as H.264 in MP4 and write them atomically; the same frames give the same bytes.

    Shape:
        frames: (frames, height, width, channels), sides even
    """
    import av

    bitexact = {"fflags": "+bitexact"}  # without the encoder's version
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4", options=bitexact) as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate), options={"crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def clip_name(item: Item) -> str:
    return f"{item.instance_id.lower()}.mp4"


def clip_table(
    photos: pd.DataFrame, tasks: Sequence[str], sample: RenderParams, params: TurntableParams
) -> tuple[list[Item], pd.DataFrame]:
    """List the items to film: the sample's val and test items, and the fresh ones.

    Args:
        photos: the validated table of the sample; its labels are used, as they may have been corrected.

    Returns:
        the items, and for each a row: file, instance_id, split, source (`sample` or `fresh`), and one label per task

    Raises:
        RenderError: the photographs are not those of the sample, or the renderer does not know a task.
    """
    known = photos.drop_duplicates("instance_id").set_index("instance_id")
    items = [make_item(sample.seed, number) for number in range(sample.num_items + params.fresh_items)]
    foreign = set(known.index) - {item.instance_id for item in items[: sample.num_items]}
    if foreign or not set(tasks) <= {CLASS_TASK, *LABELS}:
        raise RenderError(
            "data/splits was not made from data/sample; only items of data/sample can be filmed. See docs/video.md"
        )
    rows = []
    for number, item in enumerate(items):
        if number < sample.num_items:
            row = known.loc[item.instance_id]
            labels, split = {task: row[task] for task in tasks}, row["split"]
        else:
            named = {CLASS_TASK: item.class_label}
            labels, split = {task: named.get(task) or getattr(item, task) for task in tasks}, "test"
        source = "sample" if number < sample.num_items else "fresh"
        rows.append(
            {"file": clip_name(item), "instance_id": item.instance_id, "split": split, "source": source, **labels}
        )
    table = pd.DataFrame(rows)
    filmed = (table["split"] != "train").to_numpy()
    chosen = [item for item, is_filmed in zip(items, filmed, strict=True) if is_filmed]
    return chosen, table[filmed].reset_index(drop=True)


def _film_once(item: Item, folder: Path, params: TurntableParams, sample: RenderParams) -> None:
    """Render and encode a clip unless an earlier run already did."""
    done = folder / f"{clip_name(item)}.npz"
    if not done.is_file():
        clip = render_turntable(item, params, sample.image_size_px, sample.samples_per_pixel)
        write_clip(folder / clip_name(item), clip.frames, params.frame_rate)
        write_npz(done, {"angles": clip.angles, "held": clip.held, "shaken": clip.shaken})  # last: marks completion


def write_clips(
    items: Sequence[Item], folder: Path, unfinished: Path, params: TurntableParams, sample: RenderParams
) -> list[dict[str, NDArray[Any]]]:
    """Render and encode clips on all processors, with the image size and samples per pixel of the sample's photographs.

    An interrupted run resumes where it stopped.

    Args:
        unfinished: folder for rendered clips until all are done.

    Returns:
        for each item, the angles, held and shaken arrays of its clip, as in Clip

    Raises:
        RenderError: Mitsuba is not installed.
    """
    prepare()
    fingerprint = hashlib.sha256(f"{render_fingerprint(sample)} {params.model_dump_json()}".encode()).hexdigest()[:16]
    work_folder = unfinished / fingerprint
    work_folder.mkdir(parents=True, exist_ok=True)
    work = partial(_film_once, folder=work_folder, params=params, sample=sample)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=prepare) as pool:
        for _ in tqdm(pool.map(work, items), total=len(items), unit="clip", disable=None):
            pass
    arrays = [read_npz(work_folder / f"{clip_name(item)}.npz") for item in items]
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        os.replace(work_folder / clip_name(item), folder / clip_name(item))
    shutil.rmtree(unfinished)
    return arrays
