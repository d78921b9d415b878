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
"""Format of a collection; collections of other formats are rejected."""

OLDEST_SERVER = (1, 10)
"""First version with queries over prefetched points."""

SECONDS = 60
"""Timeout of a request."""

FIRST_CANDIDATES = 64


class QdrantError(ArtifactError):
    """A server does not respond, or a collection is missing, incomplete or not suitable."""


# -- server and collection -----------------------------------------------------------------------------------------


def connect(url: str, **options: Any) -> QdrantClient:
    """Return a client for a server; sends the environment variable QDRANT_API_KEY if it is set.

    Raises:
        QdrantError: there is no server, or it is too old.
    """
    key = os.environ.get("QDRANT_API_KEY")
    if not re.match(r"https?://[^/]", url):
        raise QdrantError(f"{url}: invalid server address. Example: http://127.0.0.1:6333")
    with asking(url):
        client = QdrantClient(url, api_key=key, timeout=SECONDS, check_compatibility=False, **options)
        version = client.info().version
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
        raise QdrantError(f"{url}: Qdrant {version} is too old. Install {'.'.join(map(str, OLDEST_SERVER))} or later")
    return client


@contextmanager
def asking(where: str) -> Iterator[None]:
    """Convert the client's exceptions to a one-sentence QdrantError. Raises: QdrantError."""
    try:
        yield
    except UnexpectedResponse as error:
        hint = "Set QDRANT_API_KEY" if error.status_code in (401, 403) else "See the server's log"
        raise QdrantError(f"{where}: Qdrant responded with {error.status_code} {error.reason_phrase}. {hint}") from None
    except ApiException as error:
        reason = getattr(error, "source", error)
        raise QdrantError(
            f"{where}: the Qdrant server does not respond ({reason}). Start it or check the address"
        ) from None


def point_id(image_path: str) -> str:
    """Return the id of a photograph's point, a hash of its path; the path "" stands for the collection's document."""
    return str(UUID(bytes=hashlib.sha256(image_path.encode()).digest()[:16]))


def read_document(client: QdrantClient, collection: str) -> dict[str, Any] | None:
    """Return the document that describes a collection, or None if the collection is empty.

    Raises:
        QdrantError: it holds something else, or was written by another version of Vitrine.
    """
    with asking(collection):
        points = client.retrieve(collection, [point_id("")], with_payload=["vitrine"])
        empty = not points and client.get_collection(collection).points_count == 0
    if empty:
        return None
    document = (points[0].payload or {}).get("vitrine") if points else None
    if not isinstance(document, dict):
        raise QdrantError(f"{collection}: does not contain a Vitrine index. Choose another --collection")
    if document["format"] != FORMAT:
        raise QdrantError(
            f"{collection}: was pushed by another version of Vitrine (format {document['format']}, expected {FORMAT}). "
            "Delete the collection and push the index again"
        )
    return document


# -- search --------------------------------------------------------------------------------------------------------


class QdrantIndex:
    """An index that `push` wrote to a collection; searches return what `Index.search` would.

    Attributes:
        exact: whether similarity search compares all photographs; otherwise the engine's graph is used, which may miss
            some
    """

    def __init__(self, client: QdrantClient, collection: str, *, exact: bool = True) -> None:
        """Open a collection.

        Raises:
            QdrantError: there is no such collection, it holds something else, or its push has not finished.
        """
        self.client, self.collection, self.exact = client, collection, exact
        with asking(collection):
            exists = client.collection_exists(collection)
        document = read_document(client, collection) if exists else None
        if document is None:
            raise QdrantError(f"{collection}: collection not found. Create it with: vitrine index push")
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
        """Search as `Index.search` does, with the same results except for the order of ties.

        The engine ranks by an upper bound, and its results are reranked by their exact scores. If other photographs may
        be better, all whose bound is not below the score of the last hit are fetched. At most MAX_CANDIDATES of these,
        or of the matches, are fetched; if there are more, the message says so.

        Args:
            only: mask of rows, or labels per task, one of which must be the photograph's predicted label.

        Raises:
            QdrantError: the server or the collection is gone.
        """
        query = self.vocabulary.parse(text)
        if not query.terms and like is None:
            return SearchResult((), query, 0, search_message(query, self.vocabulary, False))
        points: dict[Any, models.ScoredPoint] = {}

        def ranked() -> tuple[Index, SearchResult]:
            index = self._index_of(sorted(points.values(), key=row_of), like is not None)
            embedding = None if like is None else np.ones(1)
            return index, index.search(text, like=embedding, top_k=top_k, by_item=by_item)

        weights = upper_bound(query, self.label_space, {}) if query.terms else None
        translation = Translation(weights, like, filter_of(only), self.exact)
        rule, limit = self.rule, min(max(FIRST_CANDIDATES, 4 * top_k), MAX_CANDIDATES)
        min_cosine = least_cosine(rule, 0.5)
        counts = all(len(term.labels) == 1 for term in query.terms)  # the engine's scores are exact
        matches, best, too_many = self._ask(
            translation.above(rule.least_score, min_cosine, ITEM if counts else ANSWER),
            translation.best(limit),
            translation.last_above(rule.least_score, min_cosine),
        )
        unseen = 1.0  # no photograph that was not fetched has a better score
        if not counts:
            points.update((point.id, point) for point in matches)
            if not too_many:
                unseen = rule.least_score if like is None else max(rule.least_score, (0.5 + FLOOR) / (1 + FLOOR))
        while True:
            points.update((point.id, point) for point in best)
            index, result = ranked()
            rest = min(unseen, self._best_of_the_rest(best, weights, like is not None, limit))
            enough = len(result.hits) >= top_k
            done = rest < 0 or (enough and result.hits[-1].score >= rest - CLOSE)
            if done or enough or limit == MAX_CANDIDATES:
                break
            limit = min(4 * limit, MAX_CANDIDATES)
            (best,) = self._ask(translation.best(limit))
        if enough and not done:
            shown = np.array([hit.row for hit in result.hits])
            touching = {term: float(np.mean(index.term_probs(term, shown))) for term in query.terms}
            translation = replace(translation, weights=upper_bound(query, self.label_space, touching))
            score = result.hits[-1].score - CLOSE * result.hits[-1].score
            cosine = least_cosine(rule, score * (1 + FLOOR) - FLOOR)
            better, more = self._ask(translation.above(score, cosine, ANSWER), translation.last_above(score, cosine))
            points.update((point.id, point) for point in better)
            index, result = ranked()
            done = not more
        num_matches = result.num_matches
        if counts:
            items = {(point.payload or {})["instance_id"] for point in matches}
            num_matches = len(items) if by_item else len(matches)
        notes = [result.message] if result.message else []
        notes += [f"More than {MAX_CANDIDATES} photographs match; {num_matches} were counted."] if too_many else []
        notes += [] if done else [f"Only the {MAX_CANDIDATES} most likely photographs were ranked."]
        rows = {point.payload["image_path"]: row_of(point) for point in points.values() if point.payload}
        hits = tuple(replace(hit, row=rows[hit.image_path]) for hit in result.hits)
        return SearchResult(hits, query, num_matches, " ".join(notes) or None)

    def _ask(self, *requests: models.QueryRequest) -> list[list[models.ScoredPoint]]:
        with asking(self.collection):
            answers = self.client.query_batch_points(self.collection, requests)
        return [answer.points for answer in answers]

    def _index_of(self, points: Sequence[models.ScoredPoint], has_cosines: bool) -> Index:
        """Return the fetched photographs as an index whose embeddings are just their cosine similarities."""
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
        self, points: Sequence[models.ScoredPoint], weights: NDArray[np.float64] | None, has_cosines: bool, limit: int
    ) -> float:
        """Return an upper bound on the scores of photographs not fetched; minus infinity if all were."""
        if len(points) < limit:
            return -np.inf
        cosine = float(np.sort([point.score for point in points])[-limit]) if has_cosines else 0.0
        if weights is None:
            return max(cosine, 0.0)
        bounds = entries(probs_of(points, (len(weights) - 1) // 3)) @ weights
        least = float(np.exp(np.sort(bounds)[-limit]))
        return least * float(raised(self.rule.same_class(np.array([cosine])))[0]) if has_cosines else least


def row_of(point: models.ScoredPoint) -> int:
    return int((point.payload or {})["row"])


def probs_of(points: Sequence[models.ScoredPoint], num_labels: int) -> NDArray[np.float32]:
    """Return the probabilities stored in points. Shape: (points, labels)."""
    vectors: list[Any] = [point.vector for point in points]
    return np.array([vector["probs"] for vector in vectors], dtype=np.float32).reshape(len(points), num_labels)
