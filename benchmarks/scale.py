"""Measure how search over shards scales from 10^5 to 10^7 photographs, and estimate 10^8 and 10^9.

Writes galleries of random probabilities (48 labels) and random embeddings (128 features) to disk shard by shard, so
that at most one shard is in memory, then searches them in a separate process, one query at a time, with the same
queries for every size. Three checks of the table: hits of words are compared with a full sort of all scores, recall is
relative to cosines in float64, and bytes, memory and time per photograph are compared between sizes.

- "cold" is the first search by likeness after asking the system to drop the files from its cache, which may keep some.
- Memory is the growth of the process from before loading the index until all queries were run; "mapped" is the part in
  pages of the files, which the system can reclaim.
- The cost model extrapolates the measurements; its assumptions are printed with it.

10^7 photographs take 8.1 GB of disk in a temporary folder, which is deleted. The ensemble's 1792 features would take
77 GB; the cost model computes them.

    python benchmarks/scale.py [--sizes 100000 1000000 10000000] [--queries 50] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index
from vitrine.retrieval.sharded import ShardedIndex
from vitrine.retrieval.shards import SHARD_PHOTOS

SPACE = LabelSpace(
    {
        "class": tuple(f"kind{number}" for number in range(20)),
        "color": tuple(f"color{number}" for number in range(14)),
        "material": tuple(f"stuff{number}" for number in range(10)),
        "condition": ("new", "good", "worn", "broken"),
    }
)
FEATURES, NUM_CLUSTERS, TOP_K, NUM_RECALL, SEED = 128, 2000, 10, 20, 13

ENSEMBLE = (37, 1792, 48 + 35)
"""Numbers of labels, features, and characters of a path and an item in index/ensemble of the sample."""

INDEXED = {"photographs of 96 px": 460 / 2, "photographs of 12 megapixels": 53 / 2}
"""Photographs per second and core: README, "Speed", indexing with both transformers on 2 cores."""

MACHINE_GB, FREE_FRACTION = 256, 0.8
"""Assumed memory of a server, and the fraction of it that is available for the files of an index."""


def centers() -> NDArray[np.float32]:
    return np.random.default_rng(SEED).standard_normal((NUM_CLUSTERS, FEATURES), dtype=np.float32)


def part(number: int, num: int) -> Index:
    """Generate one shard: probabilities as confident as those of a good model, and clustered embeddings."""
    rng, probs = np.random.default_rng([SEED, number]), {}
    for task in SPACE:
        sharp = rng.standard_normal((num, SPACE.num_labels(task)), dtype=np.float32)
        sharp[np.arange(num), rng.integers(0, sharp.shape[1], num)] += 5
        np.exp(sharp, out=sharp)
        probs[task] = sharp / sharp.sum(axis=1, keepdims=True)
    embeddings = 0.5 * rng.standard_normal((num, FEATURES), dtype=np.float32)
    embeddings += centers()[rng.integers(0, NUM_CLUSTERS, num)]
    paths = tuple(f"{number:04d}/{row:07d}.jpg" for row in range(num))
    return Index.build("scale", Predictions(SPACE, paths, probs, embeddings), (path[:10] for path in paths), {})


def build(folder: Path, num: int) -> tuple[float, float]:
    """Write an index of shards; return seconds, without the time to generate photographs, and gigabytes."""
    making = 0.0

    def parts() -> Iterator[Index]:
        nonlocal making
        for number, start in enumerate(range(0, num, SHARD_PHOTOS)):
            began = time.perf_counter()
            made = part(number, min(SHARD_PHOTOS, num - start))
            making += time.perf_counter() - began
            yield made

    began = time.perf_counter()
    ShardedIndex.create(folder, parts())
    seconds = time.perf_counter() - began - making
    return seconds, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def queries(num: int) -> tuple[list[str], NDArray[np.float32]]:
    """Generate texts of one to three labels of different tasks, and embeddings near the cluster centers."""
    rng, texts = np.random.default_rng(SEED + 1), []
    for number in range(num):
        tasks = rng.permutation(list(SPACE))[: number % 3 + 1]
        texts.append(" ".join(str(rng.choice(SPACE.labels[task])) for task in tasks))
    likes = centers()[rng.integers(0, NUM_CLUSTERS, num)]
    return texts, likes + 0.3 * rng.standard_normal((num, FEATURES), dtype=np.float32)


def drop_cache(folder: Path) -> None:
    """Ask the system to drop the files from its cache; it may keep some."""
    os.sync()
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ask(folder: Path, num_queries: int) -> dict[str, Any]:
    """Search an index in this fresh process and return the measurements."""
    texts, likes = queries(num_queries)
    if hasattr(os, "posix_fadvise"):
        drop_cache(folder)
    process = psutil.Process()
    before = process.memory_info()
    index = ShardedIndex.load(folder)
    began = time.perf_counter()
    index.search(like=likes[0])
    measured: dict[str, Any] = {"cold": time.perf_counter() - began}
    kinds: dict[str, list[dict[str, Any]]] = {
        "words": [{"text": text} for text in texts],
        "likeness": [{"like": like} for like in likes],
        "both": [{"text": text, "like": like} for text, like in zip(texts, likes, strict=True)],
    }
    found: dict[str, list[list[int]]] = {}
    for kind, calls in kinds.items():
        index.search(**calls[0], top_k=TOP_K)
        took = []
        for arguments in calls:
            began = time.perf_counter()
            hits = index.search(**arguments, top_k=TOP_K).hits
            took.append(1000 * (time.perf_counter() - began))
            found.setdefault(kind, []).append([hit.row for hit in hits])
        measured[kind] = [float(np.percentile(took, percent)) for percent in (50, 99)]
    after = process.memory_info()
    mapped = after.shared - before.shared
    measured["memory"] = {"mapped": mapped / 1e6, "own": (after.rss - before.rss - mapped) / 1e6}
    measured["recall"] = recall(index, likes[:NUM_RECALL], found["likeness"])
    measured["words_exact"] = float(np.mean([words_exact(index, texts[i], found["words"][i]) for i in range(10)]))
    return measured


def recall(index: ShardedIndex, likes: NDArray[np.float32], found: list[list[int]]) -> float:
    """Return the fraction of the best rows by cosines in float64 that was found."""
    units = likes.astype(np.float64) / np.linalg.norm(likes, axis=1, keepdims=True)
    best_rows, best, start = np.empty((len(likes), 0), np.int64), np.empty((len(likes), 0)), 0
    for shard in index.shards:
        for begin in range(0, len(shard), 100_000):
            cosines = units @ shard.embeddings[begin : begin + 100_000].astype(np.float64).T
            rows = np.argpartition(-cosines, min(TOP_K, cosines.shape[1] - 1), axis=1)[:, :TOP_K]
            best_rows = np.hstack([best_rows, rows + start + begin])
            best = np.hstack([best, np.take_along_axis(cosines, rows, axis=1)])
        start += len(shard)
    kept = np.take_along_axis(best_rows, np.argsort(-best, axis=1)[:, :TOP_K], axis=1)
    return float(
        np.mean([len(set(rows) & set(exact)) / TOP_K for rows, exact in zip(found, kept.tolist(), strict=False)])
    )


def words_exact(index: ShardedIndex, text: str, found: list[int]) -> bool:
    """Return whether the hits equal the first rows of a full sort, in order."""
    scores = np.concatenate([shard.and_scores(index.vocabulary.parse(text)) for shard in index.shards])
    return found == np.argsort(-scores, kind="stable")[:TOP_K].tolist()


# -- tables ----------------------------------------------------------------------------------------------------------


def print_growth(results: dict[int, dict[str, Any]]) -> None:
    """Print the cost per photograph at each size, and its growth from the previous size."""
    print("\n| photographs | bytes on disk | mapped bytes | words, ns | likeness, ns | largest growth |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    before: list[float] = []
    for num, result in results.items():
        now = [result["gigabytes"] * 1e9 / num, result["memory"]["mapped"] * 1e6 / num]
        now += [1e6 * result[kind][0] / num for kind in ("words", "likeness")]
        growth = f"{max(new / old - 1 for new, old in zip(now, before, strict=True)):+.1%}" if before else ""
        print(f"| {num:,} | {' | '.join(f'{value:.1f}' for value in now)} | {growth} |")
        before = now


def print_costs(results: dict[int, dict[str, Any]]) -> None:
    """Print the estimated cost of 10^8 and 10^9 photographs, from the largest measured size."""
    num, result = max(results.items())
    own = (sum(SPACE.num_labels(task) for task in SPACE), FEATURES, 16 + 10)
    words, likeness = (result[kind][0] / num / 1000 for kind in ("words", "likeness"))  # seconds per photograph
    read, write = 4 * FEATURES / likeness, result["gigabytes"] * 1e9 / result["build"]  # bytes per second
    print(f"\nCost model, from {num:,} photographs:\n")
    kinds = " | ".join(f"core hours, {kind}" for kind in INDEXED)
    print(f"| photographs | index | storage, TB | servers | words, s | likeness, s | writing, min | {kinds} |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * len(INDEXED))
    for goal in (10**8, 10**9):
        for name, (labels, features, characters) in (("as measured", own), ("ensemble", ENSEMBLE)):
            size = goal * 4 * (labels + features + characters)
            servers = math.ceil(size / (FREE_FRACTION * MACHINE_GB * 1e9))
            each = goal / servers
            cells = [f"10^{round(math.log10(goal))}", f"{name}, {size / goal:,.0f} bytes per photograph"]
            cells += [f"{size / 1e12:.2f}", str(servers), f"{each * words:.2f}", f"{each * 4 * features / read:.1f}"]
            cells += [f"{size / write / 60 / servers:.0f}"]
            print(f"| {' | '.join(cells + [f'{goal / rate / 3600:,.0f}' for rate in INDEXED.values()])} |")
    rates = " and ".join(f"{rate:.0f} {kind}" for kind, rate in INDEXED.items())
    print(
        f"""
- Storage: 4 bytes for each label, each feature, and each character of path and item. Measured:
  {result["gigabytes"] * 1e9 / num:.0f} bytes per photograph; computed: {4 * sum(own)}.
- Servers: as many as hold all files in {FREE_FRACTION:.0%} of {MACHINE_GB} GB of memory (assumed).
- Words: {1e9 * words:.1f} ns per photograph; likeness: {read / 1e9:.1f} GB/s of embeddings (p50 in the table). All
  servers search at once, each with one process.
- Writing: {write / 1e9:.2f} GB/s (build in the table), one writer per server.
- Core hours of prediction: {rates} per second and core (README, Speed)."""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        print(json.dumps(ask(arguments.ask, arguments.queries)))
        return
    results: dict[int, dict[str, Any]] = {}
    print(
        "| photographs | shards | build, s | disk, GB | memory, MB: mapped + own | words p50, p99, ms | "
        "likeness p50, p99, ms | both p50, p99, ms | cold, s | words exact | recall@10 |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for num in sorted(arguments.sizes):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            free = shutil.disk_usage(place).free
            if num * 4 * 202 * 1.1 > free:
                raise SystemExit(f"{num:,} photographs need {num * 4 * 202 / 1e9:.0f} GB; {place} has {free / 1e9:.0f}")
            seconds, gigabytes = build(Path(place) / "index", num)
            command = [sys.executable, __file__, "--ask", f"{place}/index", "--queries", str(arguments.queries)]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        result |= {"build": seconds, "gigabytes": gigabytes}
        results[num] = result
        times = [" / ".join(f"{value:.1f}" for value in result[kind]) for kind in ("words", "likeness", "both")]
        memory = f"{result['memory']['mapped']:,.0f} + {result['memory']['own']:,.0f}"
        cells = [f"{num:,}", f"{-(-num // SHARD_PHOTOS)}", f"{seconds:.1f}", f"{gigabytes:.2f}", memory, *times]
        cells += [f"{result['cold']:.2f}", f"{result['words_exact']:.0%}", f"{result['recall']:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print_growth(results)
    print_costs(results)


if __name__ == "__main__":
    main()
