"""Compare time and size of search over 10^4 to 10^6 photographs with TF-IDF, BM25 and exact products.

Generates galleries of random probabilities, as confident as those of a good model, and 192 clustered features, and
times queries one at a time on one thread. Every alternative is timed on the same queries in the same run.

Memory is the growth of the process from before a system was built or loaded until all its queries were run; for ours,
it includes the pages of the mapped files that were read.

    python benchmarks/search.py [--sizes 10000 100000 1000000] [--queries 200]
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import psutil
from sklearn.feature_extraction.text import TfidfVectorizer

from vitrine.artifacts import read_json
from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index, best_rows
from vitrine.retrieval.queries import read_synonyms
from vitrine.retrieval.relevance import TOKEN_PATTERN, documents, phrase

FEATURES, NUM_CLUSTERS, TOP_K, SEED = 192, 2000, 10, 13


def gallery(label_space: LabelSpace, num: int, rng: np.random.Generator) -> Predictions:
    probs = {}
    for task in label_space:
        sharp = rng.normal(size=(num, label_space.num_labels(task))).astype(np.float32)
        sharp[np.arange(num), rng.integers(0, sharp.shape[1], num)] += 5
        powers = np.exp(sharp)
        probs[task] = powers / powers.sum(axis=1, keepdims=True)
    centers = rng.normal(size=(NUM_CLUSTERS, FEATURES)).astype(np.float32)
    embeddings = centers[rng.integers(0, NUM_CLUSTERS, num)]
    embeddings += 0.5 * rng.normal(size=(num, FEATURES)).astype(np.float32)
    return Predictions(label_space, tuple(f"{row:07d}.jpg" for row in range(num)), probs, embeddings)


def texts(label_space: LabelSpace, num: int, rng: np.random.Generator) -> list[str]:
    """Return queries of one to three labels of different tasks."""
    queries = []
    for number in range(num):
        tasks = rng.permutation(list(label_space))[: number % 3 + 1]
        queries.append(phrase([str(rng.choice(label_space.labels[task])) for task in tasks]))
    return queries


def timed(ask: Callable[[Any], Any], queries: list[Any]) -> str:
    for query in queries[:3]:
        ask(query)
    took = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        took.append(1000 * (time.perf_counter() - start))
    return f"{np.percentile(took, 50):.2f} | {np.percentile(took, 99):.2f}"


def resident() -> float:
    """Return the resident memory of this process in megabytes."""
    gc.collect()
    return float(psutil.Process().memory_info().rss / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    label_space = LabelSpace.from_json(read_json(Path("data/splits/label_space.json")))
    synonyms = read_synonyms(Path("data/synonyms.yaml"))
    print("| photographs | what | build, s | disk, MB | memory, MB | p50, ms | p99, ms |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for num in arguments.sizes:
        rng = np.random.default_rng(SEED)
        predictions = gallery(label_space, num, rng)
        words = texts(label_space, arguments.queries, rng)
        likes = list(predictions.embeddings[rng.integers(0, num, arguments.queries)])
        likes = [like + 0.3 * rng.normal(size=FEATURES).astype(np.float32) for like in likes]
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            Index.build("m", predictions, predictions.image_paths, synonyms).save(Path(folder))
            built = time.perf_counter() - start
            size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
            before = resident()
            index = Index.load(Path(folder))

            def row(what: str, build: str, disk: str, times: str, grown: float, num: int = num) -> None:
                print(f"| {num} | {what} | {build} | {disk} | {max(0.0, grown):.0f} | {times} |", flush=True)

            def ask_words(text: str, index: Index = index) -> Any:
                return index.search(text, top_k=TOP_K)

            def ask_like(like: Any, index: Index = index) -> Any:
                return index.search(like=like, top_k=TOP_K)

            times = timed(ask_words, words)
            row("words: ours", f"{built:.1f}", f"{size:.0f}", times, resident() - before)
            before, times = resident(), timed(ask_like, likes)
            row("likeness: ours", "with it", "in it", times, resident() - before)
        written = documents(predictions)
        before, start = resident(), time.perf_counter()
        vectorizer = TfidfVectorizer(token_pattern=TOKEN_PATTERN)
        matrix = vectorizer.fit_transform(written)
        built = time.perf_counter() - start

        def ask_tf_idf(text: str, matrix: Any = matrix, vectorizer: Any = vectorizer) -> Any:
            scores = np.asarray((matrix @ vectorizer.transform([text]).T).todense(), dtype=np.float32).ravel()
            return best_rows(scores, TOP_K)

        times = timed(ask_tf_idf, words[:60])
        row("words: scikit-learn TF-IDF, cosine", f"{built:.1f}", "", times, resident() - before)
        before, start = resident(), time.perf_counter()
        ranker = bm25s.BM25()
        tokens = [text.split() for text in written]
        ranker.index(tokens, show_progress=False)
        built = time.perf_counter() - start

        def ask_bm25(text: str, ranker: Any = ranker) -> Any:
            return ranker.retrieve([text.split()], k=TOP_K, show_progress=False, n_threads=0)

        times = timed(ask_bm25, words[:60])
        row("words: bm25s", f"{built:.1f}", "", times, resident() - before)


if __name__ == "__main__":
    main()
