"""Predict the files of `vitrine predict`, in their order: photographs in chunks, clips one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from vitrine.data.video import VideoError, is_clip
from vitrine.inference.decoder import Fault, decode_files
from vitrine.inference.predictor import Predictor
from vitrine.inference.stream import CHUNK, decode_ahead
from vitrine.inference.video import predict_clip


def answer_files(
    named: Mapping[str, str], predictor: Predictor, top_k: int, num_frames: int
) -> Iterator[tuple[list[dict[str, Any]], list[Fault]]]:
    """Predict files.

    Args:
        named: each path as typed by the user.

    Yields:
        records, and faults of unreadable files, for one clip or a chunk of photographs
    """
    for are_clips, group in groupby(named, key=is_clip):
        paths = list(group)
        if are_clips:
            for path in paths:
                try:
                    yield [predict_clip(predictor, Path(path), named[path], num_frames, top_k)], []
                except VideoError as error:
                    yield [], [(path, str(error).removeprefix(f"{path}: "))]
            continue
        chunks = [paths[begin : begin + CHUNK] for begin in range(0, len(paths), CHUNK)]
        # A single photograph is decoded in this process, which is faster; a crash of its decoder affects no others.
        size = predictor.photo_size_px, predictor.max_megapixels
        is_single = len(named) == 1
        for decoded, readable, faults in [decode_files(paths, *size)] if is_single else decode_ahead(chunks, predictor):
            names = [named[path] for path in readable]
            yield predictor.predict_records(decoded, names, top_k) if readable else [], faults
