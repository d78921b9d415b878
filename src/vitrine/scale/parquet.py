"""Parquet shards of predictions: reproducible bytes for the same input, verified by checksums when read."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitrine.artifacts import ArtifactError
from vitrine.inference.decoder import Fault
from vitrine.inference.predictor import Predictor
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.scale.storage import Photo

COMPRESSION_LEVEL = 3
"""Level of zstd; affects the bytes of a file."""


def encode_shard(
    predictor: Predictor, photos: Sequence[Photo], parts: Sequence[Predictions], wrong: list[Fault]
) -> bytes:
    """Return the Parquet file of photographs, in their order: path, item, probs.TASK, embedding (length 1), error.

    Args:
        parts: predictions for the photographs that could be decoded, in order, with locations as paths.
        wrong: location and fault of the other photographs.
    """
    faults, space = dict(wrong), predictor.label_space
    errors = [faults.get(photo.location) for photo in photos]
    predicted = [location for part in parts for location in part.image_paths]
    if predicted != [photo.location for photo, error in zip(photos, errors, strict=True) if error is None]:
        raise AssertionError("every photograph is either predicted or an error")
    valid = np.array([error is None for error in errors], dtype=bool)
    columns = {"path": pa.array([photo.path for photo in photos]), "item": pa.array([photo.item for photo in photos])}
    for task in space:
        columns[f"probs.{task}"] = _lists([part.probs[task] for part in parts], valid, space.num_labels(task))
    embeddings = np.concatenate([part.embeddings for part in parts])
    lengths = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    columns["embedding"] = _lists([(embeddings / lengths).astype(np.float16)], valid, embeddings.shape[1])
    columns["error"] = pa.array(errors, pa.string())
    metadata = {
        "system": predictor.name,
        "runtime": predictor.runtime.name,
        "checkpoint": predictor.checkpoint,
        "label_space": json.dumps(space.to_json(), ensure_ascii=False),
    }
    file = io.BytesIO()
    pq.write_table(
        pa.table(columns).replace_schema_metadata(metadata),
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
    valid_values = np.concatenate(parts)
    values = np.zeros((len(valid), size), dtype=valid_values.dtype)
    values[valid] = valid_values
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size, mask=pa.array(~valid))


def read_shard(path: Path) -> pa.Table:
    """Read a whole shard and verify its checksums.

    Raises:
        ArtifactError: it is missing, truncated or damaged.
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: cannot be read ({reason}). Delete it and run the same command again") from None


def shard_predictions(table: pa.Table) -> tuple[Predictions, list[str]]:
    """Return a shard's predictions for the photographs that could be read, and their items."""
    table = table.filter(table["error"].is_null())
    space = LabelSpace.from_json(json.loads(table.schema.metadata[b"label_space"]))
    probs = {task: _array(table, f"probs.{task}").astype(np.float32) for task in space}
    embeddings = _array(table, "embedding").astype(np.float32)
    return Predictions(space, tuple(table["path"].to_pylist()), probs, embeddings), table["item"].to_pylist()


def shard_faults(table: pa.Table) -> list[Fault]:
    """Return path and error of the photographs in a shard that could not be read."""
    wrong = table.select(["path", "error"]).filter(table["error"].is_valid())
    return list(zip(wrong["path"].to_pylist(), wrong["error"].to_pylist(), strict=True))


def _array(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
