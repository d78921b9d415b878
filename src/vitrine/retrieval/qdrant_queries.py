"""Translate searches to Qdrant queries: sparse vectors, bounds that are linear in them, and requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from vitrine.labels import LabelSpace
from vitrine.retrieval.index import FLOOR, MatchRule
from vitrine.retrieval.queries import ParsedQuery, Term

MAX_CANDIDATES = 10_000
"""Maximum number of photographs to fetch; with 37 probabilities each, a response of 8 MB."""

ITEM: dict[str, Any] = {"with_payload": ["instance_id"]}
ANSWER: dict[str, Any] = {"with_payload": ["row", "image_path", "instance_id"], "with_vector": ["probs"]}
"""Fields to fetch in order to count photographs, and to rank them."""

GRAPH_EF = 512
"""Candidate list size of a search in the engine's graph; a larger one finds more, and takes longer."""

BIAS = 0
"""Entry of the sparse vector that is 1 for every photograph: the engine only finds points that share an entry."""

CLOSE = 1e-5
"""Scores that differ by less are considered equal: the engine sums in another order."""

Labels = Mapping[str, Sequence[str]]
"""Chosen labels of each task."""


def entries(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each photograph's sparse vector as a row: the bias, then three values per label.

    They are log((p + FLOOR) / FLOOR), which makes an AND a sum; -log((1 - p + FLOOR) / (1 + FLOOR)), the penalty if the
    label is unwanted; and p. All three are 0 if p is 0.

    Shape:
        probs: (photos, labels); returns: (photos, 1 + 3 labels)
    """
    exact = np.clip(probs.astype(np.float64), 0, 1)
    three = [np.log1p(exact / FLOOR), -np.log1p(-exact / (1 + FLOOR)), exact]
    labels = np.stack(three, axis=-1).reshape(len(probs), 3 * probs.shape[1])
    return np.concatenate([np.ones((len(probs), 1)), labels], axis=1).astype(np.float32)


def upper_bound(query: ParsedQuery, label_space: LabelSpace, touching: Mapping[Term, float]) -> NDArray[np.float64]:
    """Return weights for `entries` whose weighted sum is an upper bound on the log of a query's score.

    A term with one label is exact. Otherwise the log is concave in the term's probability, so its tangents lie above
    it; and the probability of a wanted term is at most the sum of its labels' probabilities, that of an unwanted one
    at most 1 minus the mean over its tasks of such sums.

    Args:
        touching: probability at which each term's tangent touches the log; 1 if missing.

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


@dataclass(frozen=True)
class Translation:
    """A search translated to the engine's queries. With a query photograph, the returned scores are cosines.

    Attributes:
        exact: whether similarity search compares all photographs

    Shape:
        weights: see `upper_bound`, None without words; like: (features,)
    """

    weights: NDArray[np.float64] | None
    like: NDArray[np.floating] | None
    only: models.Filter | None
    exact: bool

    def best(self, limit: int) -> models.QueryRequest:
        """Request the photographs with the highest bounds, and the most similar ones; `limit` of each."""
        if self.like is None or self.weights is None:
            return models.QueryRequest(**(self._words() or self._alike()), limit=limit, **ANSWER)
        both = [models.Prefetch(**each, limit=limit) for each in (self._words(), self._alike())]
        return models.QueryRequest(**self._alike(leaf=False), prefetch=both, limit=2 * limit, **ANSWER)

    def above(self, score: float, cosine: float, answer: Mapping[str, Any]) -> models.QueryRequest:
        """Request all photographs whose bound is at least `score`, and whose cosine is at least `cosine`."""
        first = self._first_above(score, cosine)
        if self.like is None or self.weights is None:
            return models.QueryRequest(**first, limit=MAX_CANDIDATES, **answer)
        least: dict[str, Any] = {"score_threshold": cosine - CLOSE, "limit": MAX_CANDIDATES}
        words = [models.Prefetch(**first, limit=MAX_CANDIDATES)]
        return models.QueryRequest(**self._alike(leaf=False), prefetch=words, **least, **answer)

    def last_above(self, score: float, cosine: float) -> models.QueryRequest:
        """Request the last photograph that `above` can return: if there is one, its result may be truncated."""
        return models.QueryRequest(**self._first_above(score, cosine), offset=MAX_CANDIDATES - 1, limit=1)

    def _first_above(self, score: float, cosine: float) -> dict[str, Any]:
        if self.weights is None:
            return {**self._alike(), "score_threshold": cosine - CLOSE}
        return {**self._words(), "score_threshold": float(np.log(score)) - 1 - CLOSE}

    def _words(self) -> dict[str, Any]:
        if self.weights is None:
            return {}
        shifted = self.weights.copy()
        shifted[BIAS] -= 1  # never 0, or photographs that share no other entry would be lost
        places = np.flatnonzero(shifted)
        vector = models.SparseVector(indices=places.tolist(), values=shifted[places].tolist())
        return {"query": vector, "using": "labels", "filter": self.only}

    def _alike(self, leaf: bool = True) -> dict[str, Any]:
        like: Any = self.like
        alike = {"query": like.tolist(), "using": "embedding"}
        if not leaf:
            return alike
        return {**alike, "filter": self.only, "params": models.SearchParams(exact=self.exact, hnsw_ef=GRAPH_EF)}


def least_cosine(rule: MatchRule, same: float) -> float:
    """Return the least cosine at which photographs have probability `same` of the same class; -1 if unknown."""
    if rule.slope <= 0 or not 0 < same < 1:
        return -1.0
    return float(np.clip((np.log(same / (1 - same)) - rule.offset) / rule.slope, -1, 1))


def filter_of(only: NDArray[np.bool_] | Labels | None) -> models.Filter | None:
    """Return a filter for photographs with one of the given predicted labels per task, or for a mask of rows.

    Row numbers are sent individually, so prefer labels if there are many photographs.
    """
    if only is None:
        return None
    if isinstance(only, Mapping):
        chosen: dict[str, Any] = {f"label.{task}": list(labels) for task, labels in only.items() if labels}
    else:
        chosen = {"row": np.flatnonzero(only).tolist()}
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchAny(any=values)) for key, values in chosen.items()]
    )
