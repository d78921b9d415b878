"""Qdrant gives the same hits as the pushed index; pushing is idempotent, resumes, and refuses mismatches.

The requests go through the client's own HTTP layer to Qdrant's engine, which runs in this process.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_engine import Server

from vitrine.labels import LabelSpace
from vitrine.retrieval.index import FLOOR, Index, MatchRule, SearchResult
from vitrine.retrieval.qdrant import QdrantError, QdrantIndex, connect, point_id
from vitrine.retrieval.qdrant_push import Pushed, push
from vitrine.retrieval.qdrant_queries import entries, upper_bound
from vitrine.retrieval.sharded import ShardedIndex

URL = "http://127.0.0.1:6333"
SPACE = LabelSpace(
    {
        "class": ("soap_bar", "tall_bottle", "travel_handbag", "travel_backpack", "water_bottle", "watch"),
        "color": ("black", "blue", "green", "red", "white"),
        "material": ("glass", "leather", "plastic", "steel"),
    }
)
RULE = MatchRule(0.2, 12.0, -6.0)
CLOSE = 1e-5
"""Scores that differ by less are ties."""


def synthetic_index(photos: int, seed: int = 0, features: int = 16, sharpness: float = 4.0) -> Index:
    """Return an index of items with several photographs, confident and less confident labels, and clustered classes."""
    rng = np.random.default_rng(seed)
    items = np.sort(rng.integers(0, max(1, photos // 4), photos))
    of_item = {task: rng.integers(0, SPACE.num_labels(task), photos) for task in SPACE}
    probs = []
    for task in SPACE:
        logits = rng.normal(size=(photos, SPACE.num_labels(task)))
        logits[np.arange(photos), of_item[task][items]] += sharpness * rng.random(photos)
        logits *= rng.choice([1, 4], size=(photos, 1))  # some so confident that other labels nearly vanish
        values = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs.append((values / values.sum(axis=1, keepdims=True)).T)
    centers = rng.normal(size=(SPACE.num_labels("class"), features))
    embeddings = centers[of_item["class"][items]] + 0.7 * rng.normal(size=(photos, features))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Index(
        "m",
        SPACE,
        {"sack": ["bag"]},
        np.array([f"images/{row:05}.jpg" for row in rng.permutation(photos)]),
        np.array([f"item-{item}" for item in items]),
        np.concatenate(probs).astype(np.float32),
        embeddings.astype(np.float32),
        rule=RULE,
    )


def start_server(folder: Path, **options: Any) -> tuple[Server, QdrantClient]:
    server = Server(folder, **options)
    return server, connect(URL, transport=httpx.MockTransport(server.handle))


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, QdrantIndex, Server]:
    index = synthetic_index(2000)
    server, client = start_server(tmp_path_factory.mktemp("qdrant"))
    assert push(client, "c", index) == Pushed(2000, 0, 0)
    return index, QdrantIndex(client, "c"), server


def random_text(rng: np.random.Generator) -> str:
    """Return one to three terms: labels, words of many labels, negations, unions within and across tasks, typos."""
    words = [
        "bottle",
        "bag",
        "travel",
        "sack",
        "plastc",
        *(label for labels in SPACE.labels.values() for label in labels),
    ]
    terms = []
    for _ in range(rng.integers(1, 4)):
        term = " or ".join(rng.choice(words, size=rng.choice([1, 1, 1, 2, 3])))
        terms.append(f"not {term}" if rng.random() < 0.3 else term)
    return ", ".join(terms)


def assert_same(found: SearchResult, expected: SearchResult) -> None:
    """Assert that hits are equal up to ties: equal scores in order, and each hit as described by the index."""
    assert len(found.hits) == len(expected.hits)
    scores = np.array([hit.score for hit in expected.hits])
    np.testing.assert_allclose([hit.score for hit in found.hits], scores, atol=CLOSE)
    by_row = {hit.row: hit for hit in expected.hits}
    for hit, other in zip(found.hits, expected.hits, strict=True):
        if hit.row != other.row:  # only in case of a tie
            same = by_row.get(hit.row)
            assert abs(hit.score - (same.score if same else scores[-1])) <= CLOSE
        same = by_row.get(hit.row)
        if same:
            assert (hit.image_path, hit.instance_id, hit.matches) == (same.image_path, same.instance_id, same.matches)
            assert hit.similarity == (None if same.similarity is None else pytest.approx(same.similarity, abs=CLOSE))
    assert (found.query, found.message) == (expected.query, expected.message)


def chosen_rows(index: Index, chosen: dict[str, list[str]]) -> NDArray[np.bool_]:
    kept = np.ones(len(index), dtype=bool)
    for task, labels in chosen.items():
        kept &= np.isin(index.most_probable(task), [SPACE.labels[task].index(label) for label in labels])
    return kept


@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_random_searches_rank_like_the_index(pushed: tuple[Index, QdrantIndex, Server], seed: int) -> None:
    index, found, _ = pushed
    rng = np.random.default_rng(seed)
    for _ in range(100):
        kind = rng.choice(["words", "words", "like", "both"])
        text = "" if kind == "like" else random_text(rng)
        like = None if kind == "words" else index.embeddings[rng.integers(len(index))] + 0.1 * rng.normal(size=16)
        options: dict[str, Any] = {"like": like, "top_k": int(rng.choice([1, 10, 60])), "by_item": rng.random() < 0.3}
        only: dict[str, list[str]] = {}
        if rng.random() < 0.3:
            for task in rng.choice(SPACE.tasks, size=2, replace=False):
                only[task] = rng.choice(SPACE.labels[task], size=2, replace=False).tolist()
        expected = index.search(text, **options, only=chosen_rows(index, only) if only else None)
        result = found.search(text, **options, only=only or None)
        assert_same(result, expected)
        assert abs(result.num_matches - expected.num_matches) <= 1, (text, options)  # one score equals the minimum


def test_a_bound_is_never_below_a_score_and_exact_for_terms_of_one_label() -> None:
    index = synthetic_index(400, seed=1)
    rng = np.random.default_rng(1)
    for _ in range(300):
        query = index.vocabulary.parse(random_text(rng))
        touching = {term: float(rng.uniform(0.01, 1)) for term in query.terms}
        bounds = entries(index.probs.T) @ upper_bound(query, SPACE, touching)
        scores = np.log(index.and_scores(query))
        assert (bounds >= scores - 1e-4).all(), query
        if all(len(term.labels) == 1 for term in query.terms):
            np.testing.assert_allclose(bounds, scores, atol=1e-4)


def test_the_sparse_vector_of_a_photograph_by_hand() -> None:
    one = entries(np.array([[0.5, 0.0]], dtype=np.float32))[0]
    expected = [1, math.log(0.501 / FLOOR), -math.log(0.501 / 1.001), 0.5, 0, 0, 0]
    np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_searches_can_be_filtered_by_rows(pushed: tuple[Index, QdrantIndex, Server]) -> None:
    index, found, _ = pushed
    only = np.arange(len(index)) % 7 == 0
    assert_same(found.search("bag, blue or red", only=only), index.search("bag, blue or red", only=only))
    assert found.search("bag", only=np.zeros(len(index), dtype=bool)).hits == ()


def test_a_query_without_known_words_sends_no_request(pushed: tuple[Index, QdrantIndex, Server]) -> None:
    index, found, server = pushed
    server.requests.clear()
    assert_same(found.search("zebra"), index.search("zebra"))
    assert not server.requests and len(found) == len(index)


def test_if_too_many_photographs_match_the_message_says_so(
    pushed: tuple[Index, QdrantIndex, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, found, _ = pushed
    monkeypatch.setattr("vitrine.retrieval.qdrant.MAX_CANDIDATES", 100)
    monkeypatch.setattr("vitrine.retrieval.qdrant_queries.MAX_CANDIDATES", 100)
    result = found.search("blue")
    assert result.num_matches == 100 and result.message == "More than 100 photographs match; 100 were counted."
    assert [hit.score for hit in result.hits] == pytest.approx([hit.score for hit in index.search("blue").hits])
    hard = found.search("not leather or bag or glass, bag, blue or white", like=index.embeddings[0], top_k=50)
    assert "Only the 100 most likely photographs were ranked." in (hard.message or "")


# -- pushing -------------------------------------------------------------------------------------------------------


def written(server: Server) -> list[str]:
    """Return the paths of the photographs that were sent."""
    upserts = [body["points"] for method, path, body in server.requests if method == "PUT" and path.endswith("points")]
    return [
        point["payload"]["image_path"] for points in upserts for point in points if "image_path" in point["payload"]
    ]


def test_pushing_twice_writes_only_changes(tmp_path: Path) -> None:
    index = synthetic_index(600)
    server, client = start_server(tmp_path)
    progress: list[int] = []
    assert push(client, "c", index, progress.append) == Pushed(600, 0, 0) and sum(progress) == 600
    server.requests.clear()
    assert push(client, "c", index) == Pushed(0, 0, 600)
    assert not [path for method, path, _ in server.requests if method == "PUT" or path.endswith("delete")]
    changed = index.drop({str(index.image_paths[-1]), str(index.image_paths[-2])})
    changed.probs[:, 3] = np.roll(changed.probs[:, 3], 1)
    assert push(client, "c", changed) == Pushed(1, 2, 597)
    assert written(server) == [index.image_paths[3]]
    assert_same(QdrantIndex(client, "c").search("bag", top_k=600), changed.search("bag", top_k=600))


def test_an_interrupted_push_is_not_searched_and_resumes(tmp_path: Path) -> None:
    index = synthetic_index(1000)
    server, client = start_server(tmp_path)
    server.fail_after = 13  # after the collection, its document, and two batches of photographs
    with pytest.raises(QdrantError, match=r"the Qdrant server does not respond"):
        push(client, "c", index)
    server.fail_after = None
    done = written(server)
    assert 0 < len(done) < 1000
    with pytest.raises(QdrantError, match=r"its push has not finished. Run the same `vitrine index push` again"):
        QdrantIndex(client, "c")
    pushed = push(client, "c", index)
    assert pushed.num_written + pushed.num_kept == 1000 and 0 < pushed.num_kept <= len(done)
    assert_same(QdrantIndex(client, "c").search("bag"), index.search("bag"))


def test_an_index_of_shards_is_pushed_as_one_index(tmp_path: Path) -> None:
    index = synthetic_index(700)
    _, client = start_server(tmp_path)
    shards = ShardedIndex.create(tmp_path / "shards", [index.take(slice(0, 300)), index.take(slice(300, 700))])
    assert push(client, "c", shards) == Pushed(700, 0, 0)
    assert push(client, "c", index) == Pushed(0, 0, 700)


def test_a_point_holds_vectors_and_a_readable_payload(tmp_path: Path) -> None:
    index = synthetic_index(5)
    server, client = start_server(tmp_path)
    push(client, "c", index)
    (point,) = client.retrieve("c", [point_id(str(index.image_paths[2]))], with_payload=True)
    assert point.payload is not None and point.payload.pop("digest")
    labels = {task: SPACE.labels[task][index.most_probable(task)[2]] for task in SPACE}
    assert point.payload == {"row": 2, "image_path": index.image_paths[2], "instance_id": index.instance_ids[2],
                             "label": labels}  # fmt: skip
    create = next(body for method, path, body in server.requests if (method, path) == ("PUT", "/collections/c"))
    assert create["vectors"]["embedding"] == {"size": 16, "distance": "Cosine"}
    assert create["vectors"]["probs"] == {"size": 15, "distance": "Dot", "hnsw_config": {"m": 0}}
    assert create["sparse_vectors"] == {"labels": {}}
    document = client.retrieve("c", [point_id("")])[0].payload["vitrine"]  # type: ignore[index]
    assert (document["system"], document["photos"], document["match_rule"]["least_score"]) == ("m", 5, 0.2)
    np.testing.assert_allclose(document["expected"], index.probs.sum(axis=1), rtol=1e-6)


# -- errors --------------------------------------------------------------------------------------------------------


def test_an_unreachable_or_old_server_or_a_bad_address_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(QdrantError, match=r"^http://127.0.0.1:6333: Qdrant 1.9.2 is too old. Install 1.10 or later$"):
        start_server(tmp_path, version="1.9.2")
    with pytest.raises(
        QdrantError, match=r"the Qdrant server does not respond .Connection refused.. Start it or check"
    ):
        start_server(tmp_path, fail_after=0)
    with pytest.raises(QdrantError, match=r"^localhost: invalid server address"):
        connect("localhost")


def test_a_search_fails_while_the_server_is_down_and_works_again_afterwards(tmp_path: Path) -> None:
    server, client = start_server(tmp_path)
    push(client, "c", synthetic_index(50))
    index = QdrantIndex(client, "c")
    server.fail_after = 0
    with pytest.raises(QdrantError, match=r"^c: the Qdrant server does not respond"):
        index.search("bag")
    server.fail_after = None
    assert index.search("bag").hits
    server.shards.clear()
    with pytest.raises(QdrantError, match=r"^c: Qdrant responded with 404 Not Found"):
        index.search("bag")


def test_a_missing_foreign_or_incompatible_collection_is_refused(tmp_path: Path) -> None:
    _, client = start_server(tmp_path)
    with pytest.raises(QdrantError, match=r"^c: collection not found. Create it with: vitrine index push$"):
        QdrantIndex(client, "c")
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    client.create_collection("c", vectors_config={"other": params})
    client.upsert("c", [models.PointStruct(id=1, vector={"other": [1.0, 2.0]}, payload={})])
    for refused in (lambda: QdrantIndex(client, "c"), lambda: push(client, "c", synthetic_index(5))):
        with pytest.raises(QdrantError, match=r"^c: does not contain a Vitrine index. Choose another --coll"):
            refused()
    push(client, "old", synthetic_index(5))
    client.upsert("old", [models.PointStruct(id=point_id(""), vector={}, payload={"vitrine": {"format": 0}})])
    with pytest.raises(QdrantError, match=r"^old: was pushed by another version of Vitrine \(format 0, expected 1\)"):
        QdrantIndex(client, "old")


def test_an_index_of_another_system_or_shape_does_not_overwrite_a_collection(tmp_path: Path) -> None:
    _, client = start_server(tmp_path)
    push(client, "c", synthetic_index(5))
    other = synthetic_index(5)
    other.name = "deit"
    with pytest.raises(QdrantError, match=r"^c: contains an index of m that differs from this index of deit in system"):
        push(client, "c", other)
    with pytest.raises(QdrantError, match=r"in features\."):
        push(client, "c", synthetic_index(5, features=8))


def test_a_wrong_key_names_the_variable_to_set() -> None:
    with pytest.raises(QdrantError, match=r"Qdrant responded with 401 Unauthorized. Set QDRANT_API_KEY"):
        connect(URL, transport=httpx.MockTransport(lambda request: httpx.Response(401)))
