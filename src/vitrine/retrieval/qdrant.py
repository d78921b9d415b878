"""An index in a Qdrant collection, searched with the ranking of `Index`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.retrieval.index import FLOOR, Index, MatchRule, SearchResult, raised, search_message
from vitrine.retrieval.qdrant_queries import (
    ANSWER,
    CLOSE,
    ITEM,
    MAX_CANDIDATES,
    Labels,
    Translation,
    entries,
    filter_of,
    least_cosine,
    upper_bound,
)
from vitrine.retrieval.queries import Vocabulary

FORMAT = 1
"""Of a collection; a searcher reads no other."""

OLDEST_SERVER = (1, 10)
"""The first one with queries over prefetched photographs."""

SECONDS = 60
"""A request may take this long."""

FIRST_CANDIDATES = 64


class QdrantError(ArtifactError):
    """A server does not answer, or a collection is not the one that is needed."""


# -- server and collection -----------------------------------------------------------------------------------------


def connect(url: str, **options: Any) -> QdrantClient:
    """Return a client of a server; the environment variable QDRANT_API_KEY is sent if it is set.

    Raises:
        QdrantError: there is no server, or it is too old.
    """
    key = os.environ.get("QDRANT_API_KEY")
    if not re.match(r"https?://[^/]", url):
        raise QdrantError(f"{url}: is not the address of a server. Expected one such as http://127.0.0.1:6333")
    with asking(url):
        client = QdrantClient(url, api_key=key, timeout=SECONDS, check_compatibility=False, **options)
        version = client.info().version
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
        raise QdrantError(f"{url}: Qdrant {version} is too old. Install {'.'.join(map(str, OLDEST_SERVER))} or later")
    return client


@contextmanager
def asking(where: str) -> Iterator[None]:
    """Turn what the client raises into one sentence. Raises: QdrantError."""
    try:
        yield
    except UnexpectedResponse as error:
        hint = "Set QDRANT_API_KEY" if error.status_code in (401, 403) else "See the server's log"
        raise QdrantError(f"{where}: Qdrant answered {error.status_code} {error.reason_phrase}. {hint}") from None
    except ApiException as error:
        reason = getattr(error, "source", error)
        raise QdrantError(f"{where}: no Qdrant server answers ({reason}). Start it, or check the address") from None


def point_id(image_path: str) -> str:
    """Return the id of a photograph's point, a hash of its path; the path "" is that of the collection's document."""
    return str(UUID(bytes=hashlib.sha256(image_path.encode()).digest()[:16]))


def read_document(client: QdrantClient, collection: str) -> dict[str, Any] | None:
    """Return what a collection says of itself, None for an empty one.

    Raises:
        QdrantError: it holds something else, or is of another version of Vitrine.
    """
    with asking(collection):
        points = client.retrieve(collection, [point_id("")], with_payload=["vitrine"])
        empty = not points and client.get_collection(collection).points_count == 0
    if empty:
        return None
    document = (points[0].payload or {}).get("vitrine") if points else None
    if not isinstance(document, dict):
        raise QdrantError(f"{collection}: this collection holds no index of Vitrine. Choose another --collection")
    if document["format"] != FORMAT:
        raise QdrantError(
            f"{collection}: was pushed by another version of Vitrine (format {document['format']}, here {FORMAT}). "
            "Delete the collection, and push the index again"
        )
    return document


# -- search --------------------------------------------------------------------------------------------------------


class QdrantIndex:
    """An index that `push` wrote into a collection; searches answer as `Index.search` would.

    Attributes:
        exact: whether likeness compares all photographs; else the engine's graph is used, which may miss some
    """

    def __init__(self, client: QdrantClient, collection: str, *, exact: bool = True) -> None:
        """Open a collection.

        Raises:
            QdrantError: there is no such collection, it holds something else, or its push has not finished.
        """
        self.client, self.collection, self.exact = client, collection, exact
        with asking(collection):
            known = client.collection_exists(collection)
        document = read_document(client, collection) if known else None
        if document is None:
            raise QdrantError(f"{collection}: there is no such collection. Make it with: vitrine index push")
        if not document["complete"]:
            raise QdrantError(f"{collection}: its push has not finished. Run the same `vitrine index push` again")
        self.name: str = document["system"]
        self.label_space = LabelSpace.from_json(document["label_space"])
        self.vocabulary = Vocabulary(self.label_space, document["synonyms"])
        self.rule = MatchRule(**document["match_rule"])
        self._photos: int = document["photos"]

    def __len__(self) -> int:
        return self._photos

    def search(
        self,
        text: str = "",
        *,
        like: NDArray[np.floating] | None = None,
        top_k: int = 10,
        by_item: bool = False,
        only: NDArray[np.bool_] | Labels | None = None,
    ) -> SearchResult:
        """Search as `Index.search` does, exactly but for the order of equals.

        The engine ranks by an upper bound, and what it finds is ranked anew by the true scores. If others may be
        better, all are fetched whose bounds are not below the score of the last hit. No more than MAX_CANDIDATES of
        these, or of matches, are fetched; the message says so where there are more.

        Args:
            only: rows, or labels of each task, any of which a photograph must be predicted to have.

        Raises:
            QdrantError: the server is gone, or the collection.
        """
        query = self.vocabulary.parse(text)
        if not query.terms and like is None:
            return SearchResult((), query, 0, search_message(query, self.vocabulary, False))
        found: dict[Any, models.ScoredPoint] = {}

        def ranked() -> tuple[Index, SearchResult]:
            index = self._index_of(sorted(found.values(), key=row_of), like is not None)
            alike = None if like is None else np.ones(1)
            return index, index.search(text, like=alike, top_k=top_k, by_item=by_item)

        weights = upper_bound(query, self.label_space, {}) if query.terms else None
        asked = Translation(weights, like, filter_of(only), self.exact)
        rule, limit = self.rule, min(max(FIRST_CANDIDATES, 4 * top_k), MAX_CANDIDATES)
        same = least_cosine(rule, 0.5)
        counts = all(len(term.labels) == 1 for term in query.terms)  # the engine's scores are exact
        matches, best, uncounted = self._ask(
            asked.above(rule.least_score, same, ITEM if counts else ANSWER),
            asked.best(limit),
            asked.last_above(rule.least_score, same),
        )
        unseen = 1.0  # no photograph that is not among the found ones has a better score
        if not counts:
            found.update((point.id, point) for point in matches)
            if not uncounted:
                unseen = rule.least_score if like is None else max(rule.least_score, (0.5 + FLOOR) / (1 + FLOOR))
        while True:
            found.update((point.id, point) for point in best)
            index, result = ranked()
            rest = min(unseen, self._best_of_the_rest(best, weights, like is not None, limit))
            enough = len(result.hits) >= top_k
            done = rest < 0 or (enough and result.hits[-1].score >= rest - CLOSE)
            if done or enough or limit == MAX_CANDIDATES:
                break
            limit = min(4 * limit, MAX_CANDIDATES)
            (best,) = self._ask(asked.best(limit))
        if enough and not done:
            shown = np.array([hit.row for hit in result.hits])
            touching = {term: float(np.mean(index.term_probs(term, shown))) for term in query.terms}
            asked = replace(asked, weights=upper_bound(query, self.label_space, touching))
            score = result.hits[-1].score - CLOSE * result.hits[-1].score
            cosine = least_cosine(rule, score * (1 + FLOOR) - FLOOR)
            better, left = self._ask(asked.above(score, cosine, ANSWER), asked.last_above(score, cosine))
            found.update((point.id, point) for point in better)
            index, result = ranked()
            done = not left
        num_matches = result.num_matches
        if counts:
            items = {(point.payload or {})["instance_id"] for point in matches}
            num_matches = len(items) if by_item else len(matches)
        notes = [result.message] if result.message else []
        notes += [f"More than {MAX_CANDIDATES} photographs match; {num_matches} were counted."] if uncounted else []
        notes += [] if done else [f"Only the {MAX_CANDIDATES} likeliest photographs were ranked."]
        rows = {point.payload["image_path"]: row_of(point) for point in found.values() if point.payload}
        hits = tuple(replace(hit, row=rows[hit.image_path]) for hit in result.hits)
        return SearchResult(hits, query, num_matches, " ".join(notes) or None)

    def _ask(self, *requests: models.QueryRequest) -> list[list[models.ScoredPoint]]:
        with asking(self.collection):
            answers = self.client.query_batch_points(self.collection, requests)
        return [answer.points for answer in answers]

    def _index_of(self, points: Sequence[models.ScoredPoint], has_cosines: bool) -> Index:
        """Return the photographs that were found as an index whose embeddings are their cosines alone."""
        payloads = [point.payload or {} for point in points]
        num_labels = sum(map(len, self.label_space.labels.values()))
        cosines = np.array([point.score for point in points] if has_cosines else np.zeros(len(points)))
        return Index(
            self.name,
            self.label_space,
            self.vocabulary.synonyms,
            np.array([payload["image_path"] for payload in payloads], dtype=np.str_),
            np.array([payload["instance_id"] for payload in payloads], dtype=np.str_),
            probs_of(points, num_labels).T,
            cosines[:, None].astype(np.float32),
            rule=self.rule,
        )

    def _best_of_the_rest(
        self, points: Sequence[models.ScoredPoint], weights: NDArray[np.float64] | None, alike: bool, limit: int
    ) -> float:
        """Return what no photograph that was not found exceeds; minus infinity if all were found."""
        if len(points) < limit:
            return -np.inf
        cosine = float(np.sort([point.score for point in points])[-limit]) if alike else 0.0
        if weights is None:
            return max(cosine, 0.0)
        bounds = entries(probs_of(points, (len(weights) - 1) // 3)) @ weights
        least = float(np.exp(np.sort(bounds)[-limit]))
        return least * float(raised(self.rule.same_class(np.array([cosine])))[0]) if alike else least


def row_of(point: models.ScoredPoint) -> int:
    return int((point.payload or {})["row"])


def probs_of(points: Sequence[models.ScoredPoint], num_labels: int) -> NDArray[np.float32]:
    """Return the probabilities that points carry. Shape: (points, labels)."""
    vectors: list[Any] = [point.vector for point in points]
    return np.array([vector["probs"] for vector in vectors], dtype=np.float32).reshape(len(points), num_labels)
