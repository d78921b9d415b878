"""Render one shard of the pre-training set: python pretrain/shard.py SHARD.

Reads   pretrain/params.yaml
Writes  pretrain/shards/SHARD.npz: concatenated JPEG files (`bytes`, split at `ends`), one text array per label, and
        masks of the items (`masks`, one row per photograph: its pixels row by row, packed by `np.packbits`)

A killed run resumes where it stopped, unless params, the renderer or its libraries have changed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from vitrine.errors import exit_on_error
from vitrine.params import Section, read_section
from vitrine.pretraining.shards import write_shard
from vitrine.render.catalogue import (
    LABELS,
    RenderParams,
    in_parallel,
    jobs,
    mask_path,
    read_masks,
    resumable_folder,
)


class ShardParams(Section):
    """What to render, and at which quality."""

    seed: Annotated[int, Field(ge=0)]
    items_per_shard: Annotated[int, Field(ge=1)]
    views_per_item: Annotated[int, Field(ge=1, le=100)]
    image_size_px: Annotated[int, Field(ge=16, le=1024)]
    samples_per_pixel: Annotated[int, Field(ge=1, le=4096)]


def main(shard: int) -> None:
    exit_on_error()
    params = read_section("render", ShardParams, Path("pretrain/params.yaml"))
    catalogue = RenderParams(
        seed=params.seed + shard,
        num_items=params.items_per_shard,
        views_per_item=params.views_per_item,
        image_size_px=params.image_size_px,
        samples_per_pixel=params.samples_per_pixel,
        val_fraction=0.1,  # not used: shards are not split
        test_fraction=0.1,
    )
    work = jobs(catalogue)
    partial_folder = Path("pretrain/.partial") / str(shard)
    unfinished = resumable_folder(partial_folder, catalogue)
    for _ in in_parallel(work, unfinished, catalogue):
        pass
    files = [(unfinished / job.image_path).read_bytes() for job in work]
    labels = {label: np.array([getattr(job.item, label) for job in work], dtype=np.str_) for label in LABELS}
    masks = read_masks([mask_path(unfinished, job) for job in work]).reshape(len(work), -1)
    write_shard(Path("pretrain/shards") / f"{shard}.npz", files, **labels, masks=np.packbits(masks, axis=1))
    shutil.rmtree(partial_folder)


if __name__ == "__main__":
    main(int(sys.argv[1]))
