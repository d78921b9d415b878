"""Ranking, ties and queries agree with cases worked out by hand; any query gets an answer."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.artifacts import ArtifactError
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval import (
    IndexParams,
    Query,
    TextIndex,
    documents,
    example_queries,
    headline,
    measure,
    precision_at_k,
    search_table,
    true_queries,
)

SPACE = LabelSpace({"class": ("travel_handbag", "water_bottle"), "color": ("blue", "red")})
PARAMS = IndexParams(top_k=2, min_relevant=1, max_relevant_fraction=1.0)


def predictions(pairs: list[tuple[int, int]]) -> Predictions:
    """Photographs z.jpg, y.jpg, ... with the given class and colour."""
    paths = tuple(f"{chr(ord('z') - row)}.jpg" for row in range(len(pairs)))
    values = {task: np.eye(2, dtype=np.float32)[[pair[i] for pair in pairs]] for i, task in enumerate(SPACE)}
    return Predictions(SPACE, paths, values, np.zeros((len(pairs), 2), dtype=np.float32))


GALLERY = predictions(
    [(0, 0), (0, 1), (1, 0), (0, 0)]
)  # z: blue handbag, y: red handbag, x: blue bottle, w: blue handbag
INDEX = TextIndex.build(GALLERY)


def test_documents_are_the_predicted_words_class_last() -> None:
    assert documents(GALLERY)[:3] == ["blue travel handbag", "red travel handbag", "blue water bottle"]


def test_scores_are_tf_idf_cosines() -> None:
    # scikit-learn's smooth idf: ln((1 + n) / (1 + df)) + 1
    blue, red, bag = (math.log(5 / (1 + df)) + 1 for df in (3, 1, 3))
    document = math.sqrt(red**2 + 2 * bag**2)
    assert INDEX.scores("red")[1] == pytest.approx(red / document)
    query = math.sqrt(red**2 + bag**2)
    assert INDEX.scores("red handbag")[1] == pytest.approx((red**2 + bag**2) / (document * query))
    assert INDEX.scores("blue")[0] == pytest.approx(blue / math.sqrt(blue**2 + 2 * bag**2))


def test_hits_come_best_first_and_ties_by_path() -> None:
    found = INDEX.search("Blue HANDBAG", 10)
    assert [hit.image_path for hit in found.hits][:2] == ["w.jpg", "z.jpg"]
    assert found.hits[0].score == found.hits[1].score
    assert {hit.image_path for hit in found.hits[2:]} == {"x.jpg", "y.jpg"}
    assert found.hits[0].document == "blue travel handbag"
    assert [hit.image_path for hit in INDEX.search("bottle", 10).hits] == ["x.jpg"]


def test_part_of_the_gallery_can_be_searched() -> None:
    only = np.array([True, True, True, False])
    assert [hit.image_path for hit in INDEX.search("blue handbag", 1, only).hits] == ["z.jpg"]


def test_unknown_words_are_named_and_nothing_is_found_for_them_alone() -> None:
    found = INDEX.search("purple handbag of velvet", 5)
    assert found.unknown_words == ("purple", "of", "velvet")
    assert len(found.hits) == 3
    assert INDEX.search("purple", 5).hits == ()
    assert INDEX.search("", 5).hits == INDEX.search("!?_", 5).hits == ()


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_query_gets_an_answer(query: str) -> None:
    assert len(INDEX.search(query, 3).hits) <= 3


def test_an_index_survives_saving_without_pickle(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "i")
    again = TextIndex.load(tmp_path / "i")
    for query in ("blue handbag", "red", "bottle nothing"):
        assert again.search(query, 5) == INDEX.search(query, 5)
    assert sorted(path.suffix for path in (tmp_path / "i").iterdir()) == [".json", ".npz"]
    first = [path.read_bytes() for path in sorted((tmp_path / "i").iterdir())]
    again.save(tmp_path / "j")
    assert first == [path.read_bytes() for path in sorted((tmp_path / "j").iterdir())]
    with pytest.raises(ArtifactError, match="not found"):
        TextIndex.load(tmp_path / "k")
    (tmp_path / "i" / "index.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a whole index"):
        TextIndex.load(tmp_path / "i")


def test_no_photographs_cannot_be_indexed() -> None:
    with pytest.raises(ArtifactError, match="nothing to index"):
        TextIndex.build(predictions([]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 7))
def test_precision_is_the_mean_over_all_orders_of_ties(photos: list[tuple[int, bool]], k: int) -> None:
    scores = np.array([score for score, _ in photos], dtype=float)
    relevant = np.array([answer for _, answer in photos])
    orders = [order for order in permutations(range(len(photos))) if all(np.diff(scores[list(order)]) <= 0)]
    kept = min(k, len(photos))
    expected = np.mean([relevant[list(order)][:kept].mean() for order in orders])
    assert precision_at_k(scores, relevant, k) == pytest.approx(expected)


def test_precision_of_nothing_is_nothing() -> None:
    assert precision_at_k(np.array([]), np.array([], dtype=bool), 5) == 0.0


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "class": ["travel_handbag", "travel_handbag", "water_bottle", "travel_handbag"],
            "color": ["blue", "red", "blue", None],
        }
    )


def test_queries_are_all_true_combinations() -> None:
    queries = true_queries(table(), SPACE, PARAMS)
    assert [(query.text, query.num_terms, query.relevant.sum()) for query in queries] == [
        ("blue", 1, 2),
        ("red", 1, 1),
        ("travel handbag", 1, 3),
        ("water bottle", 1, 1),
        ("blue travel handbag", 2, 1),
        ("blue water bottle", 2, 1),
        ("red travel handbag", 2, 1),
    ]


def test_queries_with_too_few_or_too_many_answers_are_left_out() -> None:
    strict = IndexParams(top_k=2, min_relevant=2, max_relevant_fraction=0.5)
    assert [query.text for query in true_queries(table(), SPACE, strict)] == ["blue"]


def test_the_measure_is_the_mean_over_queries_of_the_gallery_alone() -> None:
    gallery = np.array([True, True, True, False])
    queries = true_queries(table()[gallery], SPACE, PARAMS)
    measured = measure("m", INDEX, queries, gallery, 2).set_index("num_terms")
    assert measured["num_queries"].to_dict() == {0: 7, 1: 4, 2: 3}
    # blue: 2 of 2; red: y, then two at 0 of which none; handbag: y and z; bottle: x, then one at 0
    assert measured.loc[1, "precision_at_k"] == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert measured.loc[1, "random_precision_at_k"] == pytest.approx((2 + 1 + 2 + 1) / 3 / 4)
    summary = headline(measured.reset_index())
    assert summary["m"]["num_queries"] == 7
    assert summary["m"]["precision_at_2"] == pytest.approx((3 + 3 * 0.5) / 7)
    with pytest.raises(ArtifactError, match="no query is left"):
        measure("m", INDEX, [], gallery, 2)


def test_examples_are_the_most_answered_of_each_length() -> None:
    queries = true_queries(table(), SPACE, PARAMS)
    assert [query.text for query in example_queries(queries)] == ["travel handbag", "blue travel handbag"]
    gallery = np.array([True, True, True, True])
    found = search_table("m", INDEX, example_queries(queries), gallery, 3)
    first = found[found["query"] == "travel handbag"]
    assert set(first["image_path"]) == {"w.jpg", "y.jpg", "z.jpg"}
    assert first["relevant"].tolist() == [1, 1, 1]
    assert [GALLERY.image_paths[row] for row in found["row"]] == found["image_path"].tolist()
    nothing = search_table("m", INDEX, [Query("purple", 1, np.zeros(4, dtype=bool))], gallery, 3)
    assert list(nothing.columns) == list(found.columns)
    assert nothing.empty
