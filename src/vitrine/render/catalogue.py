"""Render a whole catalog into a folder that follows the data contract; an interrupted run resumes where it stopped."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from vitrine.errors import VitrineError
from vitrine.params import Section
from vitrine.render.items import Item, make_item

LIBRARIES = ("mitsuba", "drjit", "numpy", "scipy", "pillow")
"""Libraries whose versions may change a photograph's bytes."""

LABELS = ("class_label", "color", "material", "condition", "size", "style")

NEEDS_MITSUBA = "rendering needs Mitsuba 3: pip install 'vitrine[render]'"


class RenderError(VitrineError):
    """The catalog cannot be rendered."""


class RenderParams(Section):
    """What to render, and at what quality."""

    seed: Annotated[int, Field(ge=0)]
    num_items: Annotated[int, Field(ge=1)]
    views_per_item: Annotated[int, Field(ge=1, le=100)]
    image_size_px: Annotated[int, Field(ge=16, le=1024)]
    samples_per_pixel: Annotated[int, Field(ge=1, le=4096)]
    val_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)]


def split_items(items: Sequence[Item], params: RenderParams) -> list[str]:
    """Assign every item to train, val or test: the same share of every class, every label at least once in train.

    Raises:
        RenderError: there are too few items to do so.
    """
    rng = np.random.default_rng([params.seed, len(items), 4])
    classes = sorted({item.class_label for item in items})
    for _ in range(1000):
        split = dict.fromkeys(range(len(items)), "train")
        for class_label in classes:
            members = [k for k, item in enumerate(items) if item.class_label == class_label]
            num_val, num_test = (round(f * len(members)) for f in (params.val_fraction, params.test_fraction))
            drawn = rng.permutation(members)
            split |= dict.fromkeys(drawn[:num_val], "val") | dict.fromkeys(drawn[num_val : num_val + num_test], "test")
        train = [item for k, item in enumerate(items) if split[k] == "train"]
        seen = all({getattr(i, key) for i in items} == {getattr(i, key) for i in train} for key in LABELS)
        if seen and set(split.values()) == {"train", "val", "test"}:
            return list(split.values())
    raise RenderError(
        f"render.num_items: {len(items)} items cannot be split so that every label is in train and no split is empty; "
        "increase it"
    )


class Job(NamedTuple):
    """One photograph to render, and its path relative to the folder."""

    item: Item
    view: int
    image_path: str


def jobs(params: RenderParams) -> list[Job]:
    """List all photographs of the catalog, in order."""
    items = [make_item(params.seed, number) for number in range(params.num_items)]
    return [
        Job(item, view, f"images/{item.instance_id.lower()}_{view}.jpg")
        for item in items
        for view in range(params.views_per_item)
    ]


def prepare() -> None:
    """Set up Mitsuba in this process with one thread, so that sums are always computed in the same order.

    Raises:
        RenderError: Mitsuba is not installed.
    """
    try:
        import drjit
        import mitsuba
    except ImportError:
        raise RenderError(NEEDS_MITSUBA) from None
    if mitsuba.variant() != "scalar_rgb":
        mitsuba.set_variant("scalar_rgb")
    drjit.set_thread_count(1)


def _render(job: Job, folder: Path, params: RenderParams) -> tuple[str, str]:
    """Render one photograph unless an earlier run already did. Returns its path and the description of its view."""
    from vitrine.render.scenes import describe_view, render_view

    path = folder / job.image_path
    if not path.exists():
        view = render_view(job.item, job.view, params.image_size_px, params.samples_per_pixel)
        _write(mask_path(folder, job), png(view.mask))
        _write(path, view.jpeg)  # last: marks the view as done
    return job.image_path, describe_view(job.item, job.view)


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def mask_path(folder: Path, job: Job) -> Path:
    """Return the path where `in_parallel` writes the mask of a photograph."""
    return folder / "masks" / f"{Path(job.image_path).stem}.png"


def png(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask, (height, width), as a PNG file with one bit per pixel."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_masks(paths: Sequence[Path]) -> NDArray[np.bool_]:
    """Read masks of equal size. Shape (masks, height, width)."""
    masks = []
    for path in paths:
        with Image.open(path) as image:
            masks.append(np.asarray(image, dtype=np.bool_))
    return np.stack(masks)


def in_parallel(work: Sequence[Job], folder: Path, params: RenderParams) -> Iterator[tuple[str, str]]:
    """Render on all processors and yield results in order."""
    prepare()
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn"), initializer=prepare
    ) as pool:
        # All views of an item go to one process, which then builds it only once.
        results = pool.map(partial(_render, folder=folder, params=params), work, chunksize=params.views_per_item)
        yield from tqdm(results, total=len(work), unit="photo", disable=None)


def render_fingerprint(params: RenderParams) -> str:
    """Hash everything that determines a photograph's bytes: params, the renderer's source, library versions.

    Raises:
        RenderError: Mitsuba is not installed.
    """
    digest = hashlib.sha256(params.model_dump_json().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    try:
        versions = [f"{library}=={version(library)}" for library in LIBRARIES]
    except PackageNotFoundError:
        raise RenderError(NEEDS_MITSUBA) from None
    digest.update("\n".join(versions).encode())
    return digest.hexdigest()[:16]


def resumable_folder(parent: Path, params: RenderParams) -> Path:
    """Return the folder below `parent` for unfinished work; delete leftovers of other params, code or libraries."""
    unfinished = parent / render_fingerprint(params)
    for stale in sorted(parent.glob("*")):
        if stale != unfinished:
            print(
                f"{stale}: discarded, because it was created with different params, renderer code or library versions",
                flush=True,
            )
            shutil.rmtree(stale)
    return unfinished


def render_catalogue(folder: Path, params: RenderParams) -> None:
    """Write `labels.csv`, `images/` and `masks.png` below `folder`, once all photographs are rendered.

    The masks are stacked vertically in one 1-bit image, in the order of the table's rows.

    Raises:
        RenderError: Mitsuba is not installed, or there are too few items to split.
    """
    work = jobs(params)
    items = list(dict.fromkeys(job.item for job in work))
    split = dict(zip(items, split_items(items, params), strict=True))
    table = pd.DataFrame(
        {
            "image_path": [job.image_path for job in work],
            "class_label": [job.item.class_label for job in work],
            "attributes": [job.item.attributes for job in work],
            "instance_id": [job.item.instance_id for job in work],
        }
    )
    partial_folder = folder / ".partial"
    unfinished = resumable_folder(partial_folder, params)
    views = dict(in_parallel(work, unfinished, params))
    table["caption"] = [job.item.caption(views[job.image_path]) for job in work]
    table["split"] = [split[job.item] for job in work]
    table.to_csv(unfinished / "labels.csv", index=False, lineterminator="\n")
    masks = read_masks([mask_path(unfinished, job) for job in work])
    _write(unfinished / "masks.png", png(masks.reshape(-1, params.image_size_px)))
    if (folder / "images").exists():
        shutil.rmtree(folder / "images")
    os.replace(unfinished / "images", folder / "images")
    os.replace(unfinished / "labels.csv", folder / "labels.csv")
    os.replace(unfinished / "masks.png", folder / "masks.png")
    shutil.rmtree(partial_folder)
