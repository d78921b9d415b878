"""Synchronize a Qdrant collection with an index, so that it holds exactly the index's photographs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from vitrine.retrieval.index import Index
from vitrine.retrieval.qdrant import FORMAT, QdrantError, asking, point_id, read_document
from vitrine.retrieval.qdrant_queries import entries
from vitrine.retrieval.sharded import ShardedIndex

BATCH = 256
"""Points per request: 10 MB of JSON with 1,792 features."""

SMALLEST = 1e-6
"""Values of labels less probable than this are left out, which changes a score by at most this much."""


@dataclass(frozen=True)
class Pushed:
    """How many photographs a push wrote, removed, and found unchanged."""

    num_written: int
    num_removed: int
    num_kept: int


def push(
    client: QdrantClient, collection: str, index: Index | ShardedIndex, progress: Callable[[int], Any] = lambda _: None
) -> Pushed:
    """Synchronize a collection with an index: write new and changed photographs, then remove those not in the index.

    An interrupted push is resumed by the next one. Until it ends, the collection is marked as incomplete.

    Args:
        progress: called with the number of photographs just processed.

    Raises:
        QdrantError: the server is gone, or the collection holds something else, or the index of another system or
            label space.
    """
    parts = index.shards if isinstance(index, ShardedIndex) else (index,)
    document: dict[str, Any] = {
        "format": FORMAT,
        "system": index.name,
        "label_space": index.label_space.to_json(),
        "synonyms": index.vocabulary.synonyms,
        "match_rule": asdict(index.rule),
        "photos": len(index),
        "features": index.num_features,
        "expected": np.sum([part.probs.sum(axis=1, dtype=np.float64) for part in parts], axis=0).tolist(),
    }
    # Numbers may come back with another last bit, so documents are compared by their hashes.
    document |= {"digest": hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16], "complete": True}
    with asking(collection):
        old = _open(client, collection, document)
        stored = dict(_digests(client, collection))
        wanted = {}
        for batch, row in _batches(parts):
            for number, path in enumerate(batch.image_paths.tolist()):
                wanted[point_id(path)] = digest(batch, number, row + number)
        changed = {name for name, value in wanted.items() if stored.get(name) != value}
        removed: list[Any] = [name for name in stored if name not in wanted and name != point_id("")]
        unchanged = old and (old["digest"], old["complete"]) == (document["digest"], True)
        if unchanged and not changed and not removed:
            progress(len(index))
            return Pushed(0, 0, len(index))
        _write_document(client, collection, {**document, "complete": False})
        for batch, row in _batches(parts):
            points = [point for point in _points(batch, row, wanted) if point.id in changed]
            if points:
                client.upsert(collection, points)
            progress(len(batch))
        for start in range(0, len(removed), BATCH):
            client.delete(collection, list(removed[start : start + BATCH]))
        _write_document(client, collection, document)
    return Pushed(len(changed), len(removed), len(index) - len(changed))


def _open(client: QdrantClient, collection: str, document: dict[str, Any]) -> dict[str, Any] | None:
    """Create the collection if it does not exist; return its document, or None if it is empty."""
    if not client.collection_exists(collection):
        no_graph = models.HnswConfigDiff(m=0)  # probabilities are read, never searched
        num_labels = len(document["expected"])
        client.create_collection(
            collection,
            vectors_config={
                "embedding": models.VectorParams(size=document["features"], distance=models.Distance.COSINE),
                "probs": models.VectorParams(size=num_labels, distance=models.Distance.DOT, hnsw_config=no_graph),
            },
            sparse_vectors_config={"labels": models.SparseVectorParams()},
        )
    old = read_document(client, collection)
    if old is None:
        for task in (entry["task"] for entry in document["label_space"]):
            client.create_payload_index(collection, f"label.{task}", models.PayloadSchemaType.KEYWORD)
        client.create_payload_index(collection, "row", models.PayloadSchemaType.INTEGER)
        return None
    differing = [key for key in ("system", "label_space", "features") if old[key] != document[key]]
    if differing:
        raise QdrantError(
            f"{collection}: contains an index of {old['system']} that differs from this index of {document['system']} "
            f"in {', '.join(differing)}. Choose another --collection or delete this one"
        )
    return old


def _write_document(client: QdrantClient, collection: str, document: dict[str, Any]) -> None:
    client.upsert(collection, [models.PointStruct(id=point_id(""), vector={}, payload={"vitrine": document})])


def _digests(client: QdrantClient, collection: str) -> Iterator[tuple[str, str]]:
    """Yield ids and digests of all photographs of a collection."""
    offset: Any = None
    while True:
        points, offset = client.scroll(collection, limit=10_000, offset=offset, with_payload=["digest"])
        yield from ((str(point.id), (point.payload or {}).get("digest", "")) for point in points)
        if offset is None:
            return


def _batches(parts: Sequence[Index]) -> Iterator[tuple[Index, int]]:
    """Yield the photographs in batches, each with the row of its first one."""
    start = 0
    for part in parts:
        for row in range(0, len(part), BATCH):
            yield part.take(slice(row, row + BATCH)), start + row
        start += len(part)


def digest(batch: Index, number: int, row: int) -> str:
    """Return a hash of everything in a photograph's point."""
    hasher = hashlib.sha256(f"{row} {batch.instance_ids[number]} ".encode())
    hasher.update(np.ascontiguousarray(batch.probs[:, number]).tobytes())
    hasher.update(np.ascontiguousarray(batch.embeddings[number]).tobytes())
    return hasher.hexdigest()[:16]


def _points(batch: Index, row: int, digests: dict[str, str]) -> Iterator[models.PointStruct]:
    probs = np.ascontiguousarray(batch.probs.T)
    values = entries(np.where(probs < SMALLEST, 0, probs))
    predicted = {task: batch.most_probable(task) for task in batch.label_space}
    for number, path in enumerate(batch.image_paths.tolist()):
        name, entry_ids = point_id(path), np.flatnonzero(values[number])
        sparse = models.SparseVector(indices=entry_ids.tolist(), values=values[number][entry_ids].tolist())
        labels = {task: batch.label_space.labels[task][codes[number]] for task, codes in predicted.items()}
        yield models.PointStruct(
            id=name,
            vector={"embedding": batch.embeddings[number].tolist(), "probs": probs[number].tolist(), "labels": sparse},
            payload={
                "row": row + number,
                "image_path": path,
                "instance_id": str(batch.instance_ids[number]),
                "label": labels,
                "digest": digests[name],
            },
        )
