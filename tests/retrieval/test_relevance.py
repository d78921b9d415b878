"""Ranking measures agree with cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from vitrine.artifacts import ArtifactError
from vitrine.evaluation.resampling import jackknife_interval
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index
from vitrine.retrieval.relevance import (
    IndexParams,
    Query,
    average_precision_without,
    example_queries,
    headline_retrieval_metrics,
    measure_text,
    measure_views,
    measures,
    rank,
    true_queries,
)

SPACE = LabelSpace({"class": ("bag", "cup"), "color": ("blue", "red")})
TABLE = pd.DataFrame(
    {
        "class": ["bag", "bag", "cup", "cup", "bag", None],
        "color": ["blue", "blue", "blue", "red", "red", "red"],
        "instance_id": ["A", "A", "B", "C", "D", "E"],
    }
)
PARAMS = IndexParams(top_k=2, min_relevant=2, max_relevant_fraction=1.0)


def query(gains: list[float]) -> Query:
    return Query("q", 1, np.array(gains))


def test_queries_are_true_labels_with_neither_too_few_nor_too_many_relevant_photographs() -> None:
    texts = {q.text: q for q in true_queries(TABLE, SPACE, PARAMS)}
    assert set(texts) == {"blue", "red", "bag", "cup", "blue bag"}
    assert texts["blue bag"].relevant.tolist() == [True, True, False, False, False, False]
    # The class counts twice: a red bag has two thirds of "blue bag", a blue cup one third.
    assert texts["blue bag"].gains.tolist() == pytest.approx([1, 1, 1 / 3, 0, 2 / 3, 0])
    fewer = true_queries(TABLE, SPACE, IndexParams(top_k=2, min_relevant=2, max_relevant_fraction=0.4))
    assert {q.text for q in fewer} == {"cup", "blue bag"}
    with pytest.raises(ArtifactError, match=r"index\.min_relevant"):
        true_queries(TABLE, SPACE, IndexParams(top_k=2, min_relevant=6, max_relevant_fraction=1.0))


def test_measures_by_hand() -> None:
    found = measures(np.array([0, 1, 2, 3]), query([1, 0.5, 1, 0]), top_k=2)
    assert found["map"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["precision_at_k"] == 0.5 and found["recall_at_10"] == 1.0
    assert measures(np.array([0, 1, 2, 3]), query([1, 0.5, 1, 0]), top_k=1)["precision_at_k"] == 1.0
    gained = 1 + 0.5 / math.log2(3) + 1 / 2
    assert found["ndcg_at_10"] == pytest.approx(gained / (1 + 1 / math.log2(3) + 0.5 / 2))


def test_measures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, gains = rng.random(30), rng.choice([0, 0.5, 1], 30)
        gains[0] = 1
        found = measures(rank(scores, rng), query(gains.tolist()), top_k=5)
        assert found["map"] == pytest.approx(average_precision_score(gains >= 1, scores))
        assert found["ndcg_at_10"] == pytest.approx(ndcg_score(gains[None], scores[None], k=10))


def test_ties_are_ranked_at_random_and_others_by_score() -> None:
    orders = {tuple(rank(np.array([1.0, 2.0, 1.0]), np.random.default_rng(seed))) for seed in range(20)}
    assert orders == {(1, 0, 2), (1, 2, 0)}


def test_average_precision_without_an_item_equals_that_of_the_smaller_gallery() -> None:
    rng = np.random.default_rng(1)
    items, scores = np.repeat(np.arange(6), 3), rng.random(18)
    gains = rng.choice([0.0, 1.0], 18)
    order = rank(scores, rng)
    found = average_precision_without(gains >= 1, order, items)
    for item in range(6):
        kept = items != item
        assert found[item] == pytest.approx(average_precision_score(gains[kept], scores[kept]))
    lonely = average_precision_without(np.array([True, False]), np.array([0, 1]), np.array([0, 1]))
    assert np.isnan(lonely[0]) and lonely[1] == 1.0


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0])
    without = (values.sum() - values) / 3
    low, high = jackknife_interval(values.mean(), without)
    half = 3.182446 * values.std(ddof=1) / 2  # Student's t with 3 degrees of freedom
    assert (low, high) == pytest.approx((3.5 - half, 3.5 + half), rel=1e-5)
    assert np.isnan(jackknife_interval(1.0, np.array([1.0]))).all()


def test_probabilities_beat_words_if_the_second_label_is_right() -> None:
    """The true class is always the less probable one, but its probability still separates the photographs."""
    num = 40
    rng = np.random.default_rng(2)
    truth = np.arange(num) % 2
    table = pd.DataFrame({"class": [("bag", "cup")[code] for code in truth], "color": ["blue"] * num,
                          "instance_id": [f"{row // 2 * 2 + row % 2}" for row in range(num)]})  # fmt: skip
    cup = np.where(truth == 1, 0.4, 0.1) + rng.uniform(0, 0.05, num)
    probs = {"class": np.stack([1 - cup, cup], axis=1).astype(np.float32),
             "color": np.tile(np.float32([0.9, 0.1]), (num, 1))}  # fmt: skip
    predictions = Predictions(SPACE, tuple(map(str, range(num))), probs, rng.normal(size=(num, 4)).astype(np.float32))
    index = Index.build("m", predictions, table["instance_id"], {})
    queries = [q for q in true_queries(table, SPACE, PARAMS) if q.text == "cup"]
    found, gain = measure_text("m", predictions, index, table, queries, top_k=5)
    every = found[found["num_terms"] == 0].set_index("method")
    assert every.loc["soft_and", "map"] == every.loc["oracle", "map"] == every.loc["oracle", "precision_at_k"] == 1
    # No document contains cup: all are tied.
    assert every.loc["hard", "map"] == pytest.approx(every.loc["random", "map"])
    assert every.loc["random", "map"] == pytest.approx(0.5, abs=0.15)
    assert gain["map_gain"] == pytest.approx(1 - every.loc["hard", "map"]) and gain["map_gain_ci_low"] > 0
    views = {"recall": 0.5, "recall_ci_low": 0.4, "recall_ci_high": 0.6}
    metrics, intervals = headline_retrieval_metrics(found, gain, views, 5)
    assert set(metrics) == set(intervals) == {"map", "map_gain", "views_at_5"}
    assert all(low <= metrics[name] <= high for name, (low, high) in intervals.items())
    assert set(headline_retrieval_metrics(found, gain, {"n": 0}, 5)[0]) == {"map", "map_gain"}
    assert [q.text for q in example_queries(true_queries(TABLE, SPACE, PARAMS))] == ["blue", "blue bag"]


def test_recall_of_views_of_an_item_by_hand() -> None:
    angles = np.array([0.0, 0.1, 2.0, 0.05])  # A, A, A, B: nearest to the first A is B, then A
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    probs = {task: np.full((4, 2), 0.5, dtype=np.float32) for task in SPACE}
    index = Index.build("m", Predictions(SPACE, tuple("abcd"), probs, embeddings), ["A", "A", "A", "B"], {})
    # Each has two other views; among the first two hits, a finds b, b finds a, and c finds b.
    found = measure_views(index, 2)
    assert found["n"] == 3 and found["recall"] == pytest.approx(0.5)
    alone = Index.build("m", Predictions(SPACE, tuple("abcd"), probs, embeddings), list("abcd"), {})
    assert measure_views(alone, 2) == {"n": 0}
