"""Measure recall and time of similarity searches with Qdrant, compared with our index.

Pushes the synthetic gallery of the tests to Qdrant's engine in this process, through the HTTP layer of the client,
lets it build its graph, and runs queries one at a time: exactly, and with the graph.

    python benchmarks/qdrant_search.py [--photos 30000] [--features 128] [--queries 100]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = ["tests", "tests/retrieval"]
from test_qdrant import start_server, synthetic_index  # noqa: E402

from vitrine.retrieval.qdrant import QdrantIndex  # noqa: E402
from vitrine.retrieval.qdrant_push import push  # noqa: E402

TOP_K = 10
WORDS = ("blue", "bottle", "red bag")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("photos", 30_000), ("features", 128), ("queries", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    index = synthetic_index(args.photos, features=args.features)
    with tempfile.TemporaryDirectory() as folder:
        server, client = start_server(Path(folder))
        began = time.perf_counter()
        push(client, "c", index)
        pushed = time.perf_counter()
        server.shards["c"].optimize()
        print(f"pushed in {pushed - began:.0f} s, graph built in {time.perf_counter() - pushed:.0f} s\n")
        print("| search | engine | recall@10 | p50, ms |\n| --- | --- | ---: | ---: |")
        for kind in ("likeness", "words and likeness"):
            for exact in (True, False):
                searched, found, seconds = QdrantIndex(client, "c", exact=exact), 0, []
                for seed in range(args.queries):
                    rng = np.random.default_rng(seed)
                    text = "" if kind == "likeness" else WORDS[seed % len(WORDS)]
                    like = index.embeddings[rng.integers(len(index))] + 0.1 * rng.normal(size=args.features)
                    began = time.perf_counter()
                    result = searched.search(text, like=like, top_k=TOP_K)
                    seconds.append(time.perf_counter() - began)
                    expected = index.search(text, like=like, top_k=TOP_K)
                    found += len({hit.row for hit in result.hits} & {hit.row for hit in expected.hits})
                engine = "exact" if exact else "graph"
                recall, p50 = found / (TOP_K * args.queries), 1000 * float(np.median(seconds))
                print(f"| {kind} | {engine} | {recall:.3f} | {p50:.0f} |")


if __name__ == "__main__":
    main()
