"""Predict many files: processes decode while the networks predict, and what is finished survives a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import read_json, write_json
from vitrine.inference.predictor import Predictor
from vitrine.photos import PhotoError, decode_photo
from vitrine.predictions import Predictions

CHUNK = 64
"""Files that a process decodes at once."""

CHUNKS_A_SHARD = 8
"""Chunks after which what is finished is written down."""

Fault = tuple[str, str]
"""The path of a file that is no photograph, and what is wrong with it."""

Decoded = tuple[NDArray[np.uint8], list[str], list[Fault]]


def decode_files(paths: Sequence[str], size_px: int, max_megapixels: float) -> Decoded:
    """Decode the files that are photographs.

    Shape:
        returns: (photos, size_px, size_px, channels), their paths, and what is wrong with the other files
    """
    photos, names = [], []
    faults: list[Fault] = []
    for path in paths:
        try:
            photos.append(decode_photo(Path(path), size_px, max_megapixels))
            names.append(path)
        except PhotoError as error:
            faults.append((path, str(error).removeprefix(f"{path}: ")))
    stacked = np.stack(photos) if photos else np.empty((0, size_px, size_px, 3), dtype=np.uint8)
    return stacked, names, faults


def predict_stream(
    predictor: Predictor, files: Sequence[Path], finished: Path
) -> Iterator[tuple[Predictions, list[Fault], int]]:
    """Predict files, a shard at a time, and keep every shard in a folder until the caller deletes that.

    A shard that is in the folder already, of the same files (path, size, time of change) and the same predictor, is
    read from there.

    Yields:
        what is predicted, what is wrong with files that are no photographs, and the number of files done since the last
    """
    paths = [path.as_posix() for path in files]
    size = CHUNK * CHUNKS_A_SHARD
    shards = [paths[start : start + size] for start in range(0, len(paths), size)]
    keys = [_key(predictor, shard) for shard in shards]
    waiting = [shard for shard, key in zip(shards, keys, strict=True) if not (finished / f"{key}.npz").is_file()]
    decoded = decode_ahead([path for shard in waiting for path in _chunks(shard)], predictor)
    for shard, key in zip(shards, keys, strict=True):
        place = finished / f"{key}.npz"
        if place.is_file():
            known = [(path, what) for path, what in read_json(finished / f"{key}.json")]
            yield Predictions.load(place), known, len(shard)
            continue
        parts: list[Predictions] = []
        faults: list[Fault] = []
        for _ in _chunks(shard):
            photos, names, wrong = next(decoded)
            parts.append(predictor.predict(photos, names))
            faults += wrong
        found = _join(parts)
        write_json(finished / f"{key}.json", faults)
        found.save(place)  # last: a shard without it counts for nothing
        yield found, faults, len(shard)


def decode_ahead(chunks: Sequence[list[str]], predictor: Predictor) -> Iterator[Decoded]:
    """Decode chunks in order, always some ahead of the one that is predicted."""
    arguments = predictor.photo_size_px, predictor.max_megapixels
    if len(chunks) <= 1:
        yield from (decode_files(chunk, *arguments) for chunk in chunks)
        return
    workers = min(os.cpu_count() or 1, len(chunks))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead: deque[Future[Decoded]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(decode_files, chunk, *arguments))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _chunks(shard: Sequence[str]) -> list[list[str]]:
    return [list(shard[start : start + CHUNK]) for start in range(0, len(shard), CHUNK)]


def _join(parts: Sequence[Predictions]) -> Predictions:
    first = parts[0]
    probs = {task: np.concatenate([part.probs[task] for part in parts]) for task in first.probs}
    paths = tuple(path for part in parts for path in part.image_paths)
    return Predictions(first.label_space, paths, probs, np.concatenate([part.embeddings for part in parts]))


def _key(predictor: Predictor, shard: Sequence[str]) -> str:
    """Identify a shard's files as they are now, and what predicts them."""
    files = []
    for path in shard:
        status = os.stat(path)
        files.append([path, status.st_size, status.st_mtime_ns])
    who = [predictor.name, predictor.runtime.name, predictor.checkpoint, predictor.label_space.to_json()]
    return hashlib.sha256(json.dumps([who, files]).encode()).hexdigest()[:20]
