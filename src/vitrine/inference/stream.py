"""Predict many files: processes decode while the networks predict, and finished results survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from vitrine.artifacts import read_json, write_json
from vitrine.inference.decoder import Decoded, Decoder, Fault
from vitrine.inference.predictor import Predictor
from vitrine.predictions import Predictions

CHUNK = 64
"""Files that a process decodes at once."""

CHUNKS_PER_SHARD = 8
"""Chunks after which finished results are saved."""


def predict_stream(
    predictor: Predictor, files: Sequence[Path], finished: Path
) -> Iterator[tuple[Predictions, list[Fault], int]]:
    """Predict files, a shard at a time, and keep every shard in a folder until the caller deletes it.

    A shard that is already in the folder, for the same files (path, size, modification time) and the same predictor, is
    read from there.

    Yields:
        predictions, faults of files that are not photographs, and the number of files in the shard
    """
    paths = [path.as_posix() for path in files]
    size = CHUNK * CHUNKS_PER_SHARD
    shards = [paths[start : start + size] for start in range(0, len(paths), size)]
    keys = [_key(predictor, shard) for shard in shards]
    waiting = [shard for shard, key in zip(shards, keys, strict=True) if not (finished / f"{key}.npz").is_file()]
    decoded = decode_ahead([path for shard in waiting for path in _chunks(shard)], predictor)
    for shard, key in zip(shards, keys, strict=True):
        place = finished / f"{key}.npz"
        if place.is_file():
            stored_faults = [(path, message) for path, message in read_json(finished / f"{key}.json")]
            yield Predictions.load(place), stored_faults, len(shard)
            continue
        parts: list[Predictions] = []
        faults: list[Fault] = []
        for _ in _chunks(shard):
            photos, names, wrong = next(decoded)
            parts.append(predictor.predict(photos, names))
            faults += wrong
        predictions = _join(parts)
        write_json(finished / f"{key}.json", faults)
        predictions.save(place)  # last: a shard without it is recomputed
        yield predictions, faults, len(shard)


def decode_ahead(chunks: Sequence[Sequence[str]], predictor: Predictor) -> Iterator[Decoded]:
    """Decode chunks in order with several processes, always some ahead of prediction.

    Raises:
        DecoderError: processes cannot be started, or die on consecutive files.
    """
    workers = min(os.cpu_count() or 1, len(chunks))
    with ExitStack() as stack:
        idle: SimpleQueue[Decoder] = SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(Decoder(predictor.photo_size_px, predictor.max_megapixels)))
        pool = ThreadPoolExecutor(max(workers, 1))
        stack.callback(pool.shutdown, cancel_futures=True)

        def decode(chunk: Sequence[str]) -> Decoded:
            decoder = idle.get()
            try:
                return decoder.decode(chunk)
            finally:
                idle.put(decoder)

        ahead: deque[Future[Decoded]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(decode, chunk))
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
    """Return a key for a shard's files in their current state, and their predictor."""
    files = []
    for path in shard:
        status = os.stat(path)
        files.append([path, status.st_size, status.st_mtime_ns])
    identity = [predictor.name, predictor.runtime.name, predictor.checkpoint, predictor.label_space.to_json()]
    return hashlib.sha256(json.dumps([identity, files]).encode()).hexdigest()[:20]
