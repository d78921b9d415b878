"""Index any number of photographs: first reusable Parquet shards, then an index of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from vitrine.artifacts import ArtifactError, atomic_path
from vitrine.inference.decoder import Fault
from vitrine.inference.predictor import Predictor
from vitrine.inference.stream import CHUNK, CHUNKS_PER_SHARD
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index, MatchRule
from vitrine.retrieval.sharded import ShardedIndex
from vitrine.scale.engines import Shard
from vitrine.scale.parquet import read_shard, shard_faults, shard_predictions
from vitrine.scale.storage import STORAGE_FAULT, Photo

PARQUET, INDEX, LOCK = "parquet", "index", ".lock"
"""Contents of an output folder: subfolders, and the lock file against a second writer."""

SHARD_FILE = re.compile(r"\d{8}-[0-9a-f]{20}\.parquet|\.\d{8}-[0-9a-f]{20}-[0-9a-f]{16}\.parquet")
"""File names of a finished shard, and of one left by a killed run."""

INDEX_PHOTOS = 100_000
"""Photographs per part of the index: with 1792 features a part takes 0.7 GB, and twice that while it is built."""

SHARD_PHOTOS = CHUNK * CHUNKS_PER_SHARD
"""Default number of photographs per Parquet file: what is repeated if a worker is killed."""

Predict = Callable[[Sequence[Shard]], Iterator[tuple[str, bytes]]]
"""Yields name and bytes of every shard's Parquet file, in any order."""


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        num_reused: photographs in shards reused from an earlier run
        faults: path and error of every photograph that is not in the index
    """

    num_photos: int
    num_reused: int
    faults: tuple[Fault, ...]

    @property
    def num_indexed(self) -> int:
        return self.num_photos - len(self.faults)


def build(
    photos: Sequence[Photo],
    out: Path,
    predictor: Predictor,
    predict: Predict,
    synonyms: Mapping[str, Sequence[str]],
    rule: MatchRule,
    shard_photos: int = SHARD_PHOTOS,
) -> Built:
    """Write Parquet files of predictions to out/parquet, and their index to out/index.

    A later run with the same photographs and models reuses a finished file, unless it is damaged, or the storage did
    not respond for one of its photographs. Once the index is built, files of other photographs are deleted.

    Args:
        predict: the engine.
        shard_photos: number of photographs per Parquet file.

    Raises:
        ArtifactError: the folder holds other files, another process is writing there, or the disk is full.
    """
    shards = plan_shards(photos, predictor, shard_photos)
    with _writing(out):
        faults: dict[str, list[Fault]] = {}
        for shard in shards:
            finished = _finished(out / PARQUET / shard.name)
            if finished is not None:
                faults[shard.name] = finished
        waiting = [shard for shard in shards if shard.name not in faults]
        for name, parquet in predict(waiting) if waiting else ():
            path = out / PARQUET / name
            _write(path, parquet)
            faults[name] = shard_faults(read_shard(path))
        num_waiting = sum(len(shard.photos) for shard in waiting)
        all_faults = tuple(fault for shard in shards for fault in faults[shard.name])
        built = Built(len(photos), len(photos) - num_waiting, all_faults)
        if built.num_indexed:
            tables = [out / PARQUET / shard.name for shard in shards]
            try:
                ShardedIndex.create(out / INDEX, _index_parts(predictor.name, tables, synonyms, rule))
            except OSError as error:
                raise _full(out / INDEX, error) from None
        names = {shard.name for shard in shards}
        for path in (out / PARQUET).iterdir():
            if SHARD_FILE.fullmatch(path.name) and path.name not in names:
                path.unlink()
    return built


def plan_shards(photos: Sequence[Photo], predictor: Predictor, size: int = SHARD_PHOTOS) -> list[Shard]:
    """Split photographs into shards, each named by a hash of its photographs and of what predicts them."""
    predicted_by = [predictor.name, predictor.runtime.name, predictor.checkpoint, predictor.label_space.to_json()]
    shards = []
    for number, start in enumerate(range(0, len(photos), size)):
        part = tuple(photos[start : start + size])
        contents = [[photo.path, photo.item, photo.stamp, photo.fault] for photo in part]
        digest = hashlib.sha256(json.dumps([predicted_by, contents]).encode()).hexdigest()[:20]
        shards.append(Shard(f"{number:08d}-{digest}.parquet", part))
    return shards


def _finished(path: Path) -> list[Fault] | None:
    """Return the faults in a finished shard, or None if it must be created or recreated."""
    if not path.is_file():
        return None
    try:
        faults = shard_faults(read_shard(path))
    except ArtifactError:
        return None
    return None if any(fault.startswith(STORAGE_FAULT) for _, fault in faults) else faults


def _index_parts(
    system: str, tables: Sequence[Path], synonyms: Mapping[str, Sequence[str]], rule: MatchRule
) -> Iterator[Index]:
    parts: list[tuple[Predictions, list[str]]] = []
    num = 0
    for number, path in enumerate(tables, 1):
        parts.append(shard_predictions(read_shard(path)))
        num += len(parts[-1][0])
        if num and (num >= INDEX_PHOTOS or number == len(tables)):
            predictions, items = _join([part for part, _ in parts]), [item for _, items in parts for item in items]
            yield Index.build(system, predictions, items, synonyms, rule)
            parts, num = [], 0


def _join(parts: Sequence[Predictions]) -> Predictions:
    space = parts[0].label_space
    probs = {task: np.concatenate([part.probs[task] for part in parts]) for task in space}
    paths = tuple(path for part in parts for path in part.image_paths)
    return Predictions(space, paths, probs, np.concatenate([part.embeddings for part in parts]))


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise _full(path, error) from None


def _full(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"{path}: cannot be written ({error.strerror or error}). Finished shards are kept: "
        "free some disk space and run the same command again"
    )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Lock the output folder; reject a second writer, and folders with other files. Raises: ArtifactError."""
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out}: is a file. Choose a folder for the result")
    foreign = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in foreign if name not in (PARQUET, INDEX, LOCK)]
    if foreign:
        raise ArtifactError(f"{out}: contains other files ({', '.join(foreign[:3])}). Choose a new or empty folder")
    (out / PARQUET).mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ArtifactError(f"{out}: another process is building this index. Try again when it is done") from None
    try:
        yield
    finally:
        lock.release()
