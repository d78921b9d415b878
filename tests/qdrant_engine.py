"""Qdrant's engine in the test process behind its HTTP interface: requests are validated, translated and answered."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import qdrant_edge as edge
from qdrant_client import models


@dataclass
class Server:
    """The collections of one server; `httpx.MockTransport` calls `handle`.

    Attributes:
        requests: method, path and body of each request, in order
        fail_after: number of requests to answer before connections are refused; None for no limit
    """

    folder: Path
    version: str = "1.16.0"
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    fail_after: int | None = None
    shards: dict[str, edge.EdgeShard] = field(default_factory=dict)

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.fail_after is not None and len(self.requests) >= self.fail_after:
            raise httpx.ConnectError("Connection refused")
        body = json.loads(request.content or b"null")
        path = request.url.path
        self.requests.append((request.method, path, body))
        if path == "/":
            return httpx.Response(200, json={"title": "qdrant - vector search engine", "version": self.version})
        _, _, name, *rest = path.split("/")
        plain = {"GET": "info", "PUT": "create", "POST points": "retrieve", "PUT points": "upsert"}
        action = plain.get(" ".join([request.method, *rest]), "_".join(rest))
        if name not in self.shards and action not in ("create", "exists"):
            return httpx.Response(404, json={"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}})
        answer: Callable[[str, Any], Any] = getattr(self, f"_{action}")
        return httpx.Response(200, json={"result": answer(name, body), "status": "ok", "time": 0.0})

    def _exists(self, name: str, _: Any) -> Any:
        return {"exists": name in self.shards}

    def _create(self, name: str, body: Any) -> bool:
        wanted = models.CreateCollection.model_validate(body)
        assert isinstance(wanted.vectors, dict)
        config = edge.EdgeConfig(
            vectors={
                key: edge.EdgeVectorParams(params.size, getattr(edge.Distance, params.distance.value))
                for key, params in wanted.vectors.items()
            },
            sparse_vectors={key: edge.EdgeSparseVectorParams() for key in wanted.sparse_vectors or {}},
        )
        self.shards[name] = edge.EdgeShard.create(tempfile.mkdtemp(dir=self.folder), config)
        return True

    def _info(self, name: str, _: Any) -> Any:
        known: dict[str, Any] = {"status": "green", "optimizer_status": "ok", "segments_count": 1, "payload_schema": {}}
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                     "flush_interval_sec": 5}  # fmt: skip
        config = {"params": {}, "hnsw_config": hnsw, "optimizer_config": optimizer}
        return {**known, "points_count": self.shards[name].info().points_count, "config": config}

    def _index(self, name: str, body: Any) -> Any:
        wanted = models.CreateFieldIndex.model_validate(body)
        kind = getattr(edge.PayloadSchemaType, str(wanted.field_schema.value).capitalize())  # type: ignore[union-attr]
        return self._update(name, edge.UpdateOperation.create_field_index(wanted.field_name, kind))

    def _upsert(self, name: str, body: Any) -> Any:
        points = [
            edge.Point(point.id, {key: vector(each) for key, each in point.vector.items()}, point.payload)
            for point in models.PointsList.model_validate(body).points
        ]
        return self._update(name, edge.UpdateOperation.upsert_points(points))

    def _points_delete(self, name: str, body: Any) -> Any:
        wanted = models.PointIdsList.model_validate(body).points
        return self._update(name, edge.UpdateOperation.delete_points(wanted))

    def _update(self, name: str, operation: edge.UpdateOperation) -> Any:
        self.shards[name].update(operation)
        return {"operation_id": 0, "status": "completed"}

    def _retrieve(self, name: str, body: Any) -> Any:
        wanted = models.PointRequest.model_validate(body)
        return [record(point) for point in self.shards[name].retrieve(wanted.ids, wanted.with_payload, False)]

    def _points_scroll(self, name: str, body: Any) -> Any:
        wanted = models.ScrollRequest.model_validate(body)
        points, offset = self.shards[name].scroll(
            edge.ScrollRequest(wanted.offset, wanted.limit, with_payload=wanted.with_payload)
        )
        return {"points": [record(each) for each in points], "next_page_offset": str(offset) if offset else None}

    def _points_query_batch(self, name: str, body: Any) -> Any:
        requests = models.QueryRequestBatch.model_validate(body).searches
        answers = self.shards[name].query_batch(edge.QueryBatchRequest([query_request(each) for each in requests]))
        return [
            {"points": [{**record(each), "score": each.score, "version": 0} for each in points]} for points in answers
        ]


def vector(given: Any) -> Any:
    return edge.SparseVector(given.indices, given.values) if isinstance(given, models.SparseVector) else given


def record(point: Any) -> dict[str, Any]:
    return {"id": str(point.id), "payload": point.payload, "vector": point.vector}


def query_request(wanted: models.QueryRequest) -> edge.QueryRequest:
    """Translate a request field by field into the engine's own; a field that is not translated is an error."""
    assert not (wanted.shard_key or wanted.lookup_from)
    return edge.QueryRequest(
        wanted.limit,
        query=nearest(wanted),
        prefetches=[prefetch(each) for each in wanted.prefetch or []],  # type: ignore[union-attr, arg-type]
        filter=conditions(wanted.filter),
        score_threshold=wanted.score_threshold,
        params=params(wanted.params),
        with_vector=wanted.with_vector,
        with_payload=wanted.with_payload,
        offset=wanted.offset,
    )


def prefetch(wanted: models.Prefetch) -> edge.Prefetch:
    return edge.Prefetch(
        wanted.limit,
        query=nearest(wanted),
        params=params(wanted.params),
        filter=conditions(wanted.filter),
        score_threshold=wanted.score_threshold,
    )


def nearest(wanted: models.QueryRequest | models.Prefetch) -> edge.Query:
    query = wanted.query.nearest if isinstance(wanted.query, models.NearestQuery) else wanted.query
    return edge.Query.Nearest(vector(query), wanted.using)


def params(wanted: models.SearchParams | None) -> edge.SearchParams | None:
    return edge.SearchParams(exact=bool(wanted.exact), hnsw_ef=wanted.hnsw_ef) if wanted else None


def conditions(wanted: models.Filter | None) -> edge.Filter | None:
    if wanted is None:
        return None
    return edge.Filter(must=[edge.FieldCondition(each.key, edge.MatchAny(each.match.any)) for each in wanted.must])
