"""Predict the files of `vitrine predict`: photographs in chunks, clips one by one, in the order in which they came."""

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
        named: how the user names each path.

    Yields:
        records, and what is wrong with files that cannot be read; a clip alone, or some photographs
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
        # A single photograph is decoded here, which is faster; one that kills its decoder must not end more.
        size = predictor.photo_size_px, predictor.max_megapixels
        alone = len(named) == 1
        for decoded, found, wrong in [decode_files(paths, *size)] if alone else decode_ahead(chunks, predictor):
            names = [named[path] for path in found]
            yield predictor.predict_records(decoded, names, top_k) if found else [], wrong
