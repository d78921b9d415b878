"""Parquet shards of what is predicted: the same bytes for the same input, checked against damage when read."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitrine.artifacts import ArtifactError
from vitrine.inference.predictor import Predictor
from vitrine.inference.stream import Fault
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.scale.storage import Photo

COMPRESSION_LEVEL = 3
"""Of zstd: part of what decides the bytes."""


def encode_shard(
    predictor: Predictor, photos: Sequence[Photo], parts: Sequence[Predictions], wrong: list[Fault]
) -> bytes:
    """Return the Parquet file of photographs, in their order: path, item, probs.TASK, embedding (length 1), error.

    Args:
        parts: predictions of the photographs that could be decoded, in order, under their locations.
        wrong: location and fault of the others.
    """
    faults, space = dict(wrong), predictor.label_space
    errors = [faults.get(photo.location) for photo in photos]
    found = [location for part in parts for location in part.image_paths]
    if found != [photo.location for photo, error in zip(photos, errors, strict=True) if error is None]:
        raise AssertionError("every photograph is either predicted or an error")
    valid = np.array([error is None for error in errors], dtype=bool)
    columns = {"path": pa.array([photo.path for photo in photos]), "item": pa.array([photo.item for photo in photos])}
    for task in space:
        columns[f"probs.{task}"] = _lists([part.probs[task] for part in parts], valid, space.num_labels(task))
    embeddings = np.concatenate([part.embeddings for part in parts])
    lengths = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    columns["embedding"] = _lists([(embeddings / lengths).astype(np.float16)], valid, embeddings.shape[1])
    columns["error"] = pa.array(errors, pa.string())
    about = {
        "system": predictor.name,
        "runtime": predictor.runtime.name,
        "checkpoint": predictor.checkpoint,
        "label_space": json.dumps(space.to_json(), ensure_ascii=False),
    }
    file = io.BytesIO()
    pq.write_table(
        pa.table(columns).replace_schema_metadata(about),
        file,
        row_group_size=len(photos),
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=False,
        write_page_checksum=True,
    )
    return file.getvalue()


def _lists(parts: Sequence[np.ndarray], valid: np.ndarray, size: int) -> pa.Array:
    """Return a list of numbers for every row, null where it is not valid. Shape: parts (valid rows, size)."""
    known = np.concatenate(parts)
    values = np.zeros((len(valid), size), dtype=known.dtype)
    values[valid] = known
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size, mask=pa.array(~valid))


def read_shard(path: Path) -> pa.Table:
    """Read a shard whole, with its checksums.

    Raises:
        ArtifactError: it is missing, truncated or damaged.
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: cannot be read ({reason}). Delete it and run the same command again") from None


def shard_predictions(table: pa.Table) -> tuple[Predictions, list[str]]:
    """Return what a shard says of the photographs that could be read, and their items."""
    table = table.filter(table["error"].is_null())
    space = LabelSpace.from_json(json.loads(table.schema.metadata[b"label_space"]))
    probs = {task: _array(table, f"probs.{task}").astype(np.float32) for task in space}
    embeddings = _array(table, "embedding").astype(np.float32)
    return Predictions(space, tuple(table["path"].to_pylist()), probs, embeddings), table["item"].to_pylist()


def shard_faults(table: pa.Table) -> list[Fault]:
    """Return path and error of the photographs of a shard that could not be read."""
    wrong = table.select(["path", "error"]).filter(table["error"].is_valid())
    return list(zip(wrong["path"].to_pylist(), wrong["error"].to_pylist(), strict=True))


def _array(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
