"""How good a ranking is: queries made of true labels, and measures with intervals over items."""

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

from vitrine.artifacts import ArtifactError
from vitrine.labels import CLASS_TASK, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions
from vitrine.resampling import jackknife_interval
from vitrine.retrieval import HardIndex, Index, documents, phrase, spoken_order
from vitrine.scoring import SEED, number_items, rate

MAX_TERMS = 3
CLASS_WEIGHT = 2
"""Of the class among the terms of a query, in graded relevance."""

ORDERS = 10
"""Random orders of equal scores over which measures are averaged."""

SYSTEMS = ("hard", "bm25", "soft_or", "soft_and", "oracle", "random")


class IndexParams(Section):
    """What to measure."""

    top_k: Annotated[int, Field(ge=1, le=20)]
    min_relevant: Annotated[int, Field(ge=1)]
    max_relevant_fraction: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Query:
    """Words made of true labels, and how well photographs answer them.

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

    Combinations with too few relevant photographs say little, and those with very many are hit by chance: both are
    left out, as params say.

    Args:
        table: the gallery, with a column for every task.
    """
    queries = []
    tasks = spoken_order(label_space)
    for num_terms in range(1, min(MAX_TERMS, len(tasks)) + 1):
        for chosen in combinations(tasks, num_terms):
            labelled = table.dropna(subset=list(chosen))
            weights = [CLASS_WEIGHT if task == CLASS_TASK else 1 for task in chosen]
            for labels in sorted(set(labelled[list(chosen)].itertuples(index=False, name=None))):
                right = [(table[task] == label).to_numpy() for task, label in zip(chosen, labels, strict=True)]
                gains = np.average(right, axis=0, weights=weights)
                if params.min_relevant <= (gains >= 1).sum() <= params.max_relevant_fraction * len(table):
                    queries.append(Query(phrase(labels), num_terms, gains))
    if not queries:
        raise ArtifactError(
            "no query is left to measure: lower index.min_relevant or raise index.max_relevant_fraction"
        )
    return queries


def rank(scores: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """Order photographs by score, the highest first, equals at random. Shape: (photos,)."""
    return np.lexsort((rng.random(len(scores)), -scores)).astype(np.int64)


def measures(order: NDArray[np.int64], query: Query, top_k: int) -> dict[str, float]:
    """Measure a ranking: average precision, nDCG@10 (graded), precision@top_k, recall@10.

    Source:
        Manning, Raghavan and Schuetze, Introduction to Information Retrieval, chapter 8; nDCG with gains over
        log2(rank + 1).
    """
    relevant, gains = query.relevant[order], query.gains[order]
    found = np.cumsum(relevant)
    precision = found / np.arange(1, len(order) + 1)
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
    """Average precision with each item left out of the gallery; NaN where nothing relevant is left.

    Shape:
        relevant, order: (photos,); items: (photos,), numbered from 0; returns: (items,)
    """
    kept = (items[order] != np.arange(items.max() + 1)[:, None]).astype(np.float64)
    right = kept * relevant[order]
    above = np.cumsum(kept, axis=1)
    precision = np.divide(np.cumsum(right, axis=1), above, out=np.zeros_like(above), where=above > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((precision * right).sum(axis=1) / right.sum(axis=1))


def query_scores(hard: HardIndex, ranker: bm25s.BM25, index: Index, query: Query) -> dict[str, NDArray[np.floating]]:
    """Score the gallery by every system; `oracle` knows the true labels, `random` nothing. Shape: each (photos,)."""
    parsed = index.vocabulary.parse(query.text)
    return {
        "hard": hard.scores(query.text),
        "bm25": np.asarray(ranker.get_scores(query.text.split())),
        "soft_or": index.any_of(parsed),
        "soft_and": index.all_of(parsed),
        "oracle": query.gains,
        "random": np.zeros(len(index)),
    }


def measure_text(
    name: str, predictions: Predictions, index: Index, table: pd.DataFrame, queries: Sequence[Query], top_k: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Measure all systems on a gallery that the model was not trained on.

    Args:
        predictions, index, table: of the gallery alone, in the same order.

    Returns:
        by system and number of terms (0: all queries), means over queries, with the interval of mAP from leaving out
        items: model, system, num_terms, num_queries, k, map, map_ci_low, map_ci_high, ndcg_at_10, precision_at_k,
        recall_at_10; and the gain of soft_and over hard in mAP, with its interval
    """
    hard, ranker = HardIndex(predictions), bm25s.BM25()
    ranker.index([text.split() for text in documents(predictions)], show_progress=False)
    items = number_items(table["instance_id"])
    rows: list[dict[str, Any]] = []
    without: dict[str, list[NDArray[np.float64]]] = {system: [] for system in SYSTEMS}
    for number, query in enumerate(queries):
        scores = query_scores(hard, ranker, index, query)
        for system in SYSTEMS:
            rng = np.random.default_rng([SEED, number])
            orders = [rank(scores[system], rng) for _ in range(ORDERS)]
            means = pd.DataFrame([measures(order, query, top_k) for order in orders]).mean()
            rows.append({"system": system, "num_terms": query.num_terms, **means})
            left = [average_precision_without(query.relevant, order, items) for order in orders]
            without[system].append(np.mean(left, axis=0))
    each = pd.DataFrame(rows)
    terms = np.array([query.num_terms for query in queries])
    table_rows = []
    for num_terms in [0, *sorted(set(terms.tolist()))]:
        chosen = np.flatnonzero((terms == num_terms) | (num_terms == 0))
        for system in SYSTEMS:
            of_system = each[each["system"] == system].iloc[chosen]
            means = of_system[["map", "ndcg_at_10", "precision_at_k", "recall_at_10"]].mean()
            low, high = jackknife_interval(means["map"], np.nanmean([without[system][k] for k in chosen], axis=0))
            ends = {"map_ci_low": max(low, 0.0), "map_ci_high": min(high, 1.0)}
            counted = {"num_terms": num_terms, "num_queries": len(chosen), "k": top_k}
            table_rows.append({"model": name, "system": system, **counted, **means, **ends})
    overall = {row["system"]: row["map"] for row in table_rows if row["num_terms"] == 0}
    gain = overall["soft_and"] - overall["hard"]
    gains = np.nanmean(without["soft_and"], axis=0) - np.nanmean(without["hard"], axis=0)
    low, high = jackknife_interval(gain, gains)
    return pd.DataFrame(table_rows), {"map_gain": gain, "map_gain_ci_low": low, "map_gain_ci_high": high}


def measure_views(index: Index, top_k: int) -> dict[str, float]:
    """Find the other views of an item by likeness: the share that is among the first top_k, of those that can be.

    Keys:
        n (photographs of items with several views), recall, recall_ci_low, recall_ci_high
    """
    items = number_items(index.instance_ids.tolist())
    likeness = index.embeddings @ index.embeddings.T
    np.fill_diagonal(likeness, -np.inf)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :top_k]
    others = np.bincount(items)[items] - 1
    found = (items[order] == items[:, None]).sum(axis=1)
    several = others > 0
    if not several.any():
        return {"n": 0}
    shares = (found / np.maximum(np.minimum(others, top_k), 1))[several]
    return {key.replace("accuracy", "recall"): value for key, value in rate(shares, items[several]).items()}


def headline(
    measured: pd.DataFrame, gains: Mapping[str, Mapping[str, float]], views: Mapping[str, Mapping[str, float]], k: int
) -> dict[str, dict[str, Any]]:
    """Pick, for every model, the few numbers over all queries that `dvc metrics diff` compares; keys name k."""
    picked: dict[str, dict[str, Any]] = {}
    for row in measured[(measured["num_terms"] == 0) & measured["system"].isin(["hard", "soft_and"])].to_dict(
        "records"
    ):
        values = {key: row[key] for key in ("map", "map_ci_low", "map_ci_high", "ndcg_at_10")}
        values[f"precision_at_{k}"] = row["precision_at_k"]
        picked.setdefault(row["model"], {"num_queries": int(row["num_queries"])})[row["system"]] = values
    for name, values in picked.items():
        values |= gains[name]
        values["views"] = {key.replace("recall", f"recall_at_{k}"): value for key, value in views[name].items()}
    return picked


def example_queries(queries: Sequence[Query]) -> list[Query]:
    """Pick, for every number of terms, the query with the most relevant photographs; of equals, the first."""
    sizes = sorted({query.num_terms for query in queries})
    return [max((q for q in queries if q.num_terms == size), key=lambda q: int(q.relevant.sum())) for size in sizes]
