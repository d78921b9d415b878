"""Evaluate rankings: queries made of true labels, and measures with confidence intervals over items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

import bm25s
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer

from vitrine.artifacts import ArtifactError
from vitrine.evaluation.resampling import jackknife_interval
from vitrine.evaluation.scoring import SEED, accuracy_with_interval, number_items
from vitrine.inference.systems import ENSEMBLE, NETWORKS
from vitrine.labels import CLASS_TASK, LabelSpace, label_words
from vitrine.params import Section
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index

MAX_TERMS = 3
CLASS_WEIGHT = 2
"""Weight of the class among the terms of a query, in graded relevance."""

ORDERS = 10
"""Number of random orders of tied scores over which measures are averaged."""

METHODS = ("hard", "bm25", "soft_or", "soft_and", "oracle", "random")

TOKEN_PATTERN = r"[^\W_]+"
SCORE_DIGITS = 9
"""Scores are rounded to this many digits, so that equal documents tie regardless of rounding errors."""


class IndexParams(Section):
    """What to measure."""

    top_k: Annotated[int, Field(ge=1, le=20)]
    min_relevant: Annotated[int, Field(ge=1)]
    max_relevant_fraction: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Query:
    """A query made of true labels, and the graded relevance of photographs.

    Shape:
        gains: (photos,), the weighted share of the labels that are true; 1 is relevant
    """

    text: str
    num_terms: int
    gains: NDArray[np.float64]

    @property
    def relevant(self) -> NDArray[np.bool_]:
        return self.gains >= 1


def true_queries(table: pd.DataFrame, label_space: LabelSpace, params: IndexParams) -> list[Query]:
    """Make a query from every combination of one to three true labels of different tasks.

    Combinations with too few relevant photographs are uninformative, and those with very many are found by chance:
    params set the limits beyond which they are left out.

    Args:
        table: the gallery, with a column for every task.
    """
    queries = []
    tasks = task_order(label_space)
    for num_terms in range(1, min(MAX_TERMS, len(tasks)) + 1):
        for chosen in combinations(tasks, num_terms):
            labeled = table.dropna(subset=list(chosen))
            weights = [CLASS_WEIGHT if task == CLASS_TASK else 1 for task in chosen]
            for labels in sorted(set(labeled[list(chosen)].itertuples(index=False, name=None))):
                is_true = [(table[task] == label).to_numpy() for task, label in zip(chosen, labels, strict=True)]
                gains = np.average(is_true, axis=0, weights=weights)
                if params.min_relevant <= (gains >= 1).sum() <= params.max_relevant_fraction * len(table):
                    queries.append(Query(phrase(labels), num_terms, gains))
    if not queries:
        raise ArtifactError(
            "no queries are left to evaluate: lower index.min_relevant or raise index.max_relevant_fraction"
        )
    return queries


def rank(scores: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """Order photographs by descending score, ties at random. Shape: (photos,)."""
    return np.lexsort((rng.random(len(scores)), -scores)).astype(np.int64)


def measures(order: NDArray[np.int64], query: Query, top_k: int) -> dict[str, float]:
    """Measure a ranking: average precision, nDCG@10 (graded), precision@top_k, recall@10.

    Source:
        Manning, Raghavan and Schuetze, Introduction to Information Retrieval, chapter 8; nDCG with gains over
        log2(rank + 1).
    """
    relevant, gains = query.relevant[order], query.gains[order]
    num_found = np.cumsum(relevant)
    precision = num_found / np.arange(1, len(order) + 1)
    discount = 1 / np.log2(np.arange(2, min(10, len(order)) + 2))
    ideal = np.sort(gains)[::-1][: len(discount)]
    return {
        "map": float(precision[relevant].mean()),
        "ndcg_at_10": float((gains[: len(discount)] * discount).sum() / (ideal * discount).sum()),
        "precision_at_k": float(relevant[:top_k].mean()),
        "recall_at_10": float(relevant[:10].sum() / relevant.sum()),
    }


def average_precision_without(
    relevant: NDArray[np.bool_], order: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the average precision with each item left out of the gallery; NaN if nothing relevant remains.

    Shape:
        relevant, order: (photos,); items: (photos,), numbered from 0; returns: (items,)
    """
    kept = (items[order] != np.arange(items.max() + 1)[:, None]).astype(np.float64)
    hits = kept * relevant[order]
    above = np.cumsum(kept, axis=1)
    precision = np.divide(np.cumsum(hits, axis=1), above, out=np.zeros_like(above), where=above > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((precision * hits).sum(axis=1) / hits.sum(axis=1))


def query_scores(hard: HardIndex, ranker: bm25s.BM25, index: Index, query: Query) -> dict[str, NDArray[np.floating]]:
    """Score the gallery with every method; `oracle` knows the true labels, `random` nothing. Shape: each (photos,)."""
    parsed = index.vocabulary.parse(query.text)
    return {
        "hard": hard.scores(query.text),
        "bm25": np.asarray(ranker.get_scores(query.text.split())),
        "soft_or": index.or_scores(parsed),
        "soft_and": index.and_scores(parsed),
        "oracle": query.gains,
        "random": np.zeros(len(index)),
    }


def measure_text(
    name: str, predictions: Predictions, index: Index, table: pd.DataFrame, queries: Sequence[Query], top_k: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Measure all methods on a gallery that the model was not trained on.

    Args:
        predictions, index, table: for the gallery only, in the same order.

    Returns:
        by method and number of terms (0: all queries), means over queries, with the interval of mAP from leaving out
        items: model, method, num_terms, num_queries, k, map, map_ci_low, map_ci_high, ndcg_at_10, precision_at_k,
        recall_at_10; and the gain of soft_and over hard in mAP, with its interval
    """
    hard, ranker = HardIndex(predictions), bm25s.BM25()
    ranker.index([text.split() for text in documents(predictions)], show_progress=False)
    items = number_items(table["instance_id"])
    rows: list[dict[str, Any]] = []
    without: dict[str, list[NDArray[np.float64]]] = {method: [] for method in METHODS}
    for number, query in enumerate(queries):
        scores = query_scores(hard, ranker, index, query)
        for method in METHODS:
            rng = np.random.default_rng([SEED, number])
            orders = [rank(scores[method], rng) for _ in range(ORDERS)]
            means = pd.DataFrame([measures(order, query, top_k) for order in orders]).mean()
            rows.append({"method": method, "num_terms": query.num_terms, **means})
            left = [average_precision_without(query.relevant, order, items) for order in orders]
            without[method].append(np.mean(left, axis=0))
    each = pd.DataFrame(rows)
    terms = np.array([query.num_terms for query in queries])
    table_rows = []
    for num_terms in [0, *sorted(set(terms.tolist()))]:
        chosen = np.flatnonzero((terms == num_terms) | (num_terms == 0))
        for method in METHODS:
            of_method = each[each["method"] == method].iloc[chosen]
            means = of_method[["map", "ndcg_at_10", "precision_at_k", "recall_at_10"]].mean()
            low, high = jackknife_interval(means["map"], np.nanmean([without[method][k] for k in chosen], axis=0))
            ends = {"map_ci_low": max(low, 0.0), "map_ci_high": min(high, 1.0)}
            counted = {"num_terms": num_terms, "num_queries": len(chosen), "k": top_k}
            table_rows.append({"model": name, "method": method, **counted, **means, **ends})
    overall = {row["method"]: row["map"] for row in table_rows if row["num_terms"] == 0}
    gain = overall["soft_and"] - overall["hard"]
    gains = np.nanmean(without["soft_and"], axis=0) - np.nanmean(without["hard"], axis=0)
    low, high = jackknife_interval(gain, gains)
    return pd.DataFrame(table_rows), {"map_gain": gain, "map_gain_ci_low": low, "map_gain_ci_high": high}


def mean_average_precision(index: Index, queries: Sequence[Query]) -> float:
    """Return the mean average precision of an index over queries, with ties in one random order."""
    rng = np.random.default_rng(SEED)
    orders = [rank(index.and_scores(index.vocabulary.parse(query.text)), rng) for query in queries]
    return float(np.mean([measures(order, query, 1)["map"] for order, query in zip(orders, queries, strict=True)]))


def measure_views(index: Index, top_k: int) -> dict[str, float]:
    """Measure how many other views of an item are among the first top_k by similarity, as a share of the maximum.

    Keys:
        n (photographs of items with several views), recall, recall_ci_low, recall_ci_high
    """
    items = number_items(index.instance_ids.tolist())
    similarity = index.embeddings @ index.embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :top_k]
    others = np.bincount(items)[items] - 1
    num_found = (items[order] == items[:, None]).sum(axis=1)
    several = others > 0
    if not several.any():
        return {"n": 0}
    shares = (num_found / np.maximum(np.minimum(others, top_k), 1))[several]
    return {
        key.replace("accuracy", "recall"): value
        for key, value in accuracy_with_interval(shares, items[several]).items()
    }


def headline_retrieval_metrics(
    measured: pd.DataFrame, gain: Mapping[str, float], views: Mapping[str, float], k: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Select a model's headline metrics over all queries for `dvc metrics show`, and their 95 % intervals.

    Args:
        measured: rows of `measure_text`; gain: of `measure_text`; views: of `measure_views`, for k.
    """
    row = measured[(measured["num_terms"] == 0) & (measured["method"] == "soft_and")].iloc[0]
    headlines: list[tuple[str, Any, str]] = [("map", row, "map"), ("map_gain", gain, "map_gain")]
    headlines += [(f"views_at_{k}", views, "recall")] if "recall" in views else []
    ends = {name: (float(each[f"{key}_ci_low"]), float(each[f"{key}_ci_high"])) for name, each, key in headlines}
    return {name: float(each[key]) for name, each, key in headlines}, ends


def example_queries(queries: Sequence[Query]) -> list[Query]:
    """Pick, for every number of terms, the query with the most relevant photographs; of ties, the first."""
    sizes = sorted({query.num_terms for query in queries})
    return [max((q for q in queries if q.num_terms == size), key=lambda q: int(q.relevant.sum())) for size in sizes]


# -- the reference's method, as a baseline -------------------------------------------------------------------------


class HardIndex:
    """TF-IDF over documents made of each photograph's most probable labels, ranked by cosine."""

    def __init__(self, predictions: Predictions) -> None:
        self.vectorizer = TfidfVectorizer(token_pattern=TOKEN_PATTERN)
        try:
            self.matrix = self.vectorizer.fit_transform(documents(predictions))
        except ValueError as error:
            raise ArtifactError(f"nothing to index: {error}") from None

    def scores(self, text: str) -> NDArray[np.float64]:
        """Return the cosine similarity of a query to every document; 0 if they share no word. Shape: (photos,)."""
        vector = self.vectorizer.transform([text])
        return np.round(np.asarray((self.matrix @ vector.T).todense()).ravel(), SCORE_DIGITS)


def documents(predictions: Predictions) -> list[str]:
    """Write each photograph's predicted labels as a document: attributes first, then the class."""
    tasks = task_order(predictions.label_space)
    chosen = {task: predictions.predicted(task) for task in tasks}
    labels = predictions.label_space.labels
    return [phrase([labels[task][chosen[task][row]] for task in tasks]) for row in range(len(predictions))]


def task_order(label_space: LabelSpace) -> list[str]:
    """Return the tasks, attributes first, then the class."""
    return [*(task for task in label_space if task != CLASS_TASK), CLASS_TASK]


def phrase(labels: Sequence[str]) -> str:
    """Write labels as a natural phrase: "blue plastic tableware water bottle"."""
    return " ".join(map(label_words, labels))


def search_table(
    name: str, index: Index, queries: Sequence[tuple[str, NDArray[np.bool_]]], only: NDArray[np.bool_], top_k: int
) -> pd.DataFrame:
    """Run queries over the photographs in `only`.

    Args:
        queries: texts, and masks of the truly relevant photographs, shape (photos,).

    Columns:
        model, query, rank, image_path, score, matches (each term's probability and label), relevant, row
    """
    rows: list[dict[str, Any]] = []
    for text, relevant in queries:
        for rank, hit in enumerate(index.search(text, top_k=top_k, only=only).hits, start=1):
            matches = "; ".join(
                f"{match.probability:.2f} {'' if match.wanted else 'not '}{label_words(match.label)}"
                for match in hit.matches
            )
            row = {"model": name, "query": text, "rank": rank, "image_path": hit.image_path, "score": hit.score}
            rows.append({**row, "matches": matches, "relevant": int(relevant[hit.row]), "row": hit.row})
    return pd.DataFrame(rows, columns=["model", "query", "rank", "image_path", "score", "matches", "relevant", "row"])


# -- all photographs of a cross-validation --------------------------------------------------------------------------


def search_scores(
    systems: Mapping[str, Mapping[str, NDArray[np.float32]]],
    table: pd.DataFrame,
    label_space: LabelSpace,
    params: IndexParams,
    synonyms: Mapping[str, Sequence[str]],
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Measure word search over all photographs, each predicted by a system that was not trained on it.

    Returns:
        as `measure_text`, concatenated for all networks and their ensemble; the gains by system
    """
    queries = true_queries(table, label_space, params)
    measured, gains = [], {}
    for name in (*NETWORKS, ENSEMBLE):
        # Embeddings of different folds' networks are not comparable, so only word search is measured.
        no_embeddings = np.zeros((len(table), 1), dtype=np.float32)
        predictions = Predictions(label_space, tuple(table["image_path"]), systems[name], no_embeddings)
        index = Index.build(name, predictions, table["instance_id"], synonyms)
        rows, gains[name] = measure_text(name, predictions, index, table, queries, params.top_k)
        measured.append(rows)
    return pd.concat(measured, ignore_index=True), gains
