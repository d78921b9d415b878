"""Searches over Qdrant answer as the index that was pushed; pushing is idempotent, resumes, and refuses what differs.

The requests go through the client's own HTTP layer to Qdrant's engine, which runs in this process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_engine import Server

from vitrine.labels import LabelSpace
from vitrine.retrieval.index import Index, MatchRule, SearchResult
from vitrine.retrieval.qdrant import QdrantIndex, connect
from vitrine.retrieval.qdrant_push import Pushed, push

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
"""Scores that differ by less are equals."""


def made_up(photos: int, seed: int = 0, features: int = 16, sharpness: float = 4.0) -> Index:
    """A gallery whose items have several photographs each, of sure and of unsure labels, alike within a class."""
    rng = np.random.default_rng(seed)
    items = np.sort(rng.integers(0, max(1, photos // 4), photos))
    of_item = {task: rng.integers(0, SPACE.num_labels(task), photos) for task in SPACE}
    probs = []
    for task in SPACE:
        logits = rng.normal(size=(photos, SPACE.num_labels(task)))
        logits[np.arange(photos), of_item[task][items]] += sharpness * rng.random(photos)
        logits *= rng.choice([1, 4], size=(photos, 1))  # some so sure that other labels nearly vanish
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


def started(folder: Path, **options: Any) -> tuple[Server, QdrantClient]:
    server = Server(folder, **options)
    return server, connect(URL, transport=httpx.MockTransport(server.handle))


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, QdrantIndex, Server]:
    index = made_up(3000)
    server, client = started(tmp_path_factory.mktemp("qdrant"))
    assert push(client, "c", index) == Pushed(3000, 0, 0)
    return index, QdrantIndex(client, "c"), server


def random_text(rng: np.random.Generator) -> str:
    """One to three terms: labels, words that many labels answer, negations, unions within and across tasks, typos."""
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
    """Same hits up to ties: same scores in order, and each hit as the index describes the photograph."""
    assert len(found.hits) == len(expected.hits)
    scores = np.array([hit.score for hit in expected.hits])
    np.testing.assert_allclose([hit.score for hit in found.hits], scores, atol=CLOSE)
    by_row = {hit.row: hit for hit in expected.hits}
    for hit, other in zip(found.hits, expected.hits, strict=True):
        if hit.row != other.row:  # only where another photograph is as good
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
def test_a_hundred_random_searches_rank_as_the_index_does(pushed: tuple[Index, QdrantIndex, Server], seed: int) -> None:
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
        answer = found.search(text, **options, only=only or None)
        assert_same(answer, expected)
        assert abs(answer.num_matches - expected.num_matches) <= (0 if like is None else 1), (text, options)
