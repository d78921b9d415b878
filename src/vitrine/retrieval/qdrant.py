"""An index in a Qdrant collection, searched with the ranking of `Index`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
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
from vitrine.retrieval.queries import ParsedQuery, Term, Vocabulary

FORMAT = 1
"""Of a collection; a searcher reads no other."""

OLDEST_SERVER = (1, 10)
"""The first one with queries over prefetched photographs."""

SECONDS = 60
"""A request may take this long."""

FIRST_CANDIDATES = 64
MAX_CANDIDATES = 10_000
"""Photographs that a search ranks at most; with 37 probabilities each, an answer of 8 MB."""

BIAS = 0
"""Entry of the sparse vector that is 1 for every photograph: the engine finds only what shares an entry."""

SAME_CLASS = float(raised(np.float32([0.5]))[0])
"""Factor of a photograph that is as probably of the class of another one as not."""

Labels = Mapping[str, Sequence[str]]


class QdrantError(ArtifactError):
    """A server does not answer, or a collection is not the one that is needed."""


# -- server and collection -----------------------------------------------------------------------------------------


def connect(url: str, **options: Any) -> QdrantClient:
    """Return a client of a server; the environment variable QDRANT_API_KEY is sent if it is set.

    Raises:
        QdrantError: there is no server, or it is too old.
    """
    key = os.environ.get("QDRANT_API_KEY")
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
    except (ApiException, ValueError) as error:
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


# -- sparse vectors ------------------------------------------------------------------------------------------------


def entries(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a photograph's sparse vector as a row: the bias, then three values for each label.

    They are log((p + FLOOR) / FLOOR), which makes an AND a sum; -log((1 - p + FLOOR) / (1 + FLOOR)), what a photograph
    loses if the label is unwanted; and p. All three are 0 if p is 0.

    Shape:
        probs: (photos, labels); returns: (photos, 1 + 3 labels)
    """
    exact = np.clip(probs.astype(np.float64), 0, 1)
    three = [np.log1p(exact / FLOOR), -np.log1p(-exact / (1 + FLOOR)), exact]
    labels = np.stack(three, axis=-1).reshape(len(probs), 3 * probs.shape[1])
    return np.concatenate([np.ones((len(probs), 1)), labels], axis=1).astype(np.float32)


def upper_bound(query: ParsedQuery, label_space: LabelSpace, touching: Mapping[Term, float]) -> NDArray[np.float64]:
    """Return weights of `entries` whose sum is never below the log of a query's score.

    A term of one label is exact. The log of any other is concave in the term's probability, so its tangents lie above
    it; and the probability of a wanted term is at most the sum of its labels', that of an unwanted one at most 1 less
    the mean over its tasks of such sums.

    Args:
        touching: the probability at which a term's tangent touches; without it 1.

    Shape:
        returns: (1 + 3 labels,)
    """
    starts = first_rows(label_space)
    weights = np.zeros(1 + 3 * sum(map(len, label_space.labels.values())))
    for term in query.terms:
        places = [1 + 3 * (starts[task] + code) for task, code in term.labels]
        if len(places) == 1:
            weights[places[0] + (not term.wanted)] += 1 if term.wanted else -1
            weights[BIAS] += np.log(FLOOR / (1 + FLOOR)) if term.wanted else 0
            continue
        touch = touching.get(term, 1.0)
        slope = 1 / (touch + FLOOR)
        num_tasks = len({task for task, _ in term.labels})
        for place in places:
            weights[place + 2] += slope if term.wanted else -slope / num_tasks
        weights[BIAS] += np.log((touch + FLOOR) / (1 + FLOOR)) + slope * ((not term.wanted) - touch)
    return weights


def first_rows(label_space: LabelSpace) -> dict[str, int]:
    """Return where each task's labels begin among those of all tasks."""
    sizes = [label_space.num_labels(task) for task in label_space]
    return dict(zip(label_space, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))


def requests_of(
    weights: NDArray[np.float64] | None,
    like: NDArray[np.floating] | None,
    rule: MatchRule,
    only: models.Filter | None,
    limit: int,
    exact: bool,
) -> list[models.QueryRequest]:
    """Translate a search into two requests: for all photographs that may match, and for those that may be best.

    If there is a photograph to be like, the scores of the answers are cosines. Thresholds are a little lower than the
    rule's, because the engine adds in another order.

    Shape:
        weights: as `upper_bound`, None without words; like: (features,)
    """
    answer: dict[str, Any] = {"with_payload": ["row", "image_path", "instance_id"], "with_vector": ["probs"]}
    words: dict[str, Any] = {}
    if weights is not None:
        shifted = weights - np.eye(1, len(weights), BIAS)[0]  # never 0, or photographs without other entries are lost
        places = np.flatnonzero(shifted)
        vector = models.SparseVector(indices=places.tolist(), values=shifted[places].tolist())
        words = {"query": vector, "using": "labels", "filter": only}
    matching = {"score_threshold": np.log(rule.least_score) - 1 - 1e-4, "limit": MAX_CANDIDATES}
    if like is None:
        return [models.QueryRequest(**words, **each, **answer) for each in (matching, {"limit": limit})]
    alike: dict[str, Any] = {"query": like.tolist(), "using": "embedding"}
    params = models.SearchParams(exact=exact)
    same = {"score_threshold": least_cosine(rule) - 1e-5, "limit": MAX_CANDIDATES}
    if weights is None:
        nearest = {**alike, "filter": only, "params": params}
        return [models.QueryRequest(**nearest, **each, **answer) for each in (same, {"limit": limit})]
    by_words = models.Prefetch(**words, limit=limit)
    by_likeness = models.Prefetch(**alike, filter=only, params=params, limit=limit)
    return [
        models.QueryRequest(**alike, prefetch=[models.Prefetch(**words, **matching)], **same, **answer),
        models.QueryRequest(**alike, prefetch=[by_words, by_likeness], limit=2 * limit, **answer),
    ]


def least_cosine(rule: MatchRule) -> float:
    """Return the cosine from which on photographs are more probably of one class than not."""
    return -rule.offset / rule.slope if rule.slope > 0 else -1.0


def filter_of(only: NDArray[np.bool_] | Labels | None, label_space: LabelSpace) -> models.Filter | None:
    """Keep a search to photographs whose predicted labels are chosen, or to rows.

    Rows are sent one by one, so choose labels where there are many photographs.
    """
    if only is None:
        return None
    if isinstance(only, Mapping):
        chosen = {f"label.{task}": list(labels) for task, labels in only.items() if labels}
    else:
        chosen = {"row": np.flatnonzero(only).tolist()}
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchAny(any=values)) for key, values in chosen.items()]
    )


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

        The engine ranks by an upper bound, and what it finds is ranked anew by the true scores. More is fetched until
        no photograph that was not fetched can have a better one, or MAX_CANDIDATES are reached, which the message says.

        Args:
            only: rows, or labels of each task, any of which a photograph must be predicted to have.

        Raises:
            QdrantError: the server is gone, or the collection.
        """
        query = self.vocabulary.parse(text)
        if not query.terms and like is None:
            return SearchResult((), query, 0, search_message(query, self.vocabulary, False))
        chosen, touching = filter_of(only, self.label_space), {}
        limit = min(max(FIRST_CANDIDATES, 4 * top_k), MAX_CANDIDATES)
        found: dict[str, models.ScoredPoint] = {}
        while True:
            weights = upper_bound(query, self.label_space, touching) if query.terms else None
            requests = requests_of(weights, like, self.rule, chosen, limit, self.exact)
            with asking(self.collection):
                matching, best = self.client.query_batch_points(self.collection, requests)
            found.update({str(point.id): point for point in (*matching.points, *best.points)})
            points = sorted(found.values(), key=lambda point: point.payload["row"])
            index = self._index_of(points, like is not None)
            result = index.search(text, like=None if like is None else np.ones(1), top_k=top_k, by_item=by_item)
            rest = self._best_of_the_rest(best.points, weights, like is not None, limit)
            if query.terms and len(matching.points) < MAX_CANDIDATES:  # the rest does not match
                rest = min(rest, self.rule.least_score if like is None else max(self.rule.least_score, SAME_CLASS))
            enough = len(result.hits) >= top_k and result.hits[-1].score >= rest
            if rest == -np.inf or enough or limit >= MAX_CANDIDATES:
                break
            limit = min(4 * limit, MAX_CANDIDATES)
            shown = np.array([hit.row for hit in result.hits])
            touching = {term: float(np.mean(index.term_probs(term, shown))) for term in query.terms}
        message = [result.message] if result.message else []
        if len(matching.points) >= MAX_CANDIDATES or not (rest == -np.inf or enough):
            message.append(f"Only the {MAX_CANDIDATES} likeliest photographs were ranked and counted.")
        hits = tuple(replace(hit, row=points[hit.row].payload["row"]) for hit in result.hits)
        return replace(result, hits=hits, message=" ".join(message) or None)

    def _index_of(self, points: Sequence[models.ScoredPoint], has_cosines: bool) -> Index:
        """Return the photographs that were found as an index whose embeddings are their cosines alone."""
        payloads = [point.payload for point in points]
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


def probs_of(points: Sequence[models.ScoredPoint], num_labels: int) -> NDArray[np.float32]:
    """Return the probabilities that points carry. Shape: (points, labels)."""
    return np.array([point.vector["probs"] for point in points], dtype=np.float32).reshape(len(points), num_labels)
