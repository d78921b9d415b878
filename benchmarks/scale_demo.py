"""Index 20,000 photographs with Ray on two processors, kill the job halfway, resume it, and check the result.

Prints photographs per second for one and for two workers. Checks that every photograph is in the index exactly once,
and that the local engine writes the same bytes, and it and Qdrant (its engine in this process) give the same answers,
for the first thousand. The exit code is 1 otherwise. Needs the extra scale and the models.

    python benchmarks/scale_demo.py [--model ensemble] [--photos 20000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from gallery import ROOT, draw_gallery

sys.path[:0] = ["tests", "tests/retrieval"]
from test_qdrant import start_server  # noqa: E402

from vitrine.retrieval.qdrant import QdrantIndex  # noqa: E402
from vitrine.retrieval.qdrant_push import push  # noqa: E402
from vitrine.retrieval.sharded import ShardedIndex  # noqa: E402

SHARD_PHOTOS = 512
SUBSET = 2 * SHARD_PHOTOS
ONE_WORKER = 4 * SHARD_PHOTOS
QUERIES = ("red bag", "blue bottle, not plastic", "wooden or glass", "new watch", "cap -black")


def start(source: Path, out: Path, model: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vitrine.cli", "--project", str(ROOT), "index", "build", str(source), str(out)]
    return subprocess.Popen([*command, "--model", model, *options], env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        sys.exit("FAILED: index build exited with an error")


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("parquet/[0-9]*.parquet"))


def photos_per_second(out: Path) -> float:
    """Return the rate from the first finished shard to the last, which excludes the startup of Ray and its workers."""
    times = sorted(path.stat().st_mtime for path in shards(out))
    return SHARD_PHOTOS * (len(times) - 1) / (times[-1] - times[0])


def table_of(paths: Sequence[Path], table: Path) -> Path:
    table.write_text("path\n" + "".join(f"{path}\n" for path in paths), encoding="utf-8")
    return table


def push_to_qdrant(index: ShardedIndex, folder: Path) -> None:
    """Push an index through the client to Qdrant's engine in this process, and compare scores."""
    folder.mkdir()
    _, client = start_server(folder)
    push(client, "demo", index)
    searched, right = QdrantIndex(client, "demo"), 0
    for query in QUERIES:
        first, second = searched.search(query), index.search(query)
        scores = [[hit.score for hit in result.hits] for result in (first, second)]
        right += len(scores[0]) == len(scores[1]) and np.allclose(*scores, atol=1e-4)
    check(right == len(QUERIES), f"Qdrant gives the same scores for {right} queries on {len(index)} photographs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ensemble")
    parser.add_argument("--photos", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.model, arguments.photos)


def run(root: Path, model: str, num_photos: int) -> None:
    begin = time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(draw_gallery, [root / "photos"] * 2, [num_photos] * 2, [0, 1], [2, 2]))
    paths = sorted((root / "photos").rglob("*.jpg"))
    print(f"{len(paths)} photographs drawn in {time.monotonic() - begin:.0f} s", flush=True)

    one = root / "one"
    finish(start(table_of(paths[:ONE_WORKER], root / "one.csv"), one, model, "--engine", "ray", "--workers", "1"))
    print(f"1 worker: {photos_per_second(one):.0f} photographs/s", flush=True)

    out, two = root / "two", ("--engine", "ray", "--workers", "2")
    half = len(paths) // SHARD_PHOTOS // 2
    process = start(root / "photos", out, model, *two)
    while len(shards(out)) < half and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in shards(out)}
    print(f"2 workers: {photos_per_second(out):.0f} photographs/s", flush=True)
    print(f"Killed with {len(before)} of {-(-len(paths) // SHARD_PHOTOS)} shards; resuming", flush=True)
    finish(start(root / "photos", out, model, *two))

    index = ShardedIndex.load(out / "index")
    found = [path for shard in index.shards for path in shard.image_paths.tolist()]
    check(found == [str(path) for path in paths], "every photograph is in the index exactly once, in order")
    kept = all((out / "parquet" / name).stat().st_mtime_ns == when for name, when in before.items())
    check(kept, f"{len(before)} shards from before the kill were kept")

    local = root / "local"
    finish(start(table_of(paths[:SUBSET], root / "local.csv"), local, model))
    same = [path.read_bytes() == (out / "parquet" / path.name).read_bytes() for path in shards(local)]
    check(
        len(same) == SUBSET // SHARD_PHOTOS and all(same),
        f"the local engine writes the same bytes for {SUBSET}",
    )
    small, only = ShardedIndex.load(local / "index"), np.arange(len(index)) < SUBSET
    right = 0
    for query in QUERIES:
        first, second = index.search(query, only=only), small.search(query)
        right += [(hit.image_path, hit.score) for hit in first.hits] == [
            (hit.image_path, hit.score) for hit in second.hits
        ]
    check(right == len(QUERIES), f"its index gives the same answers to {right} queries")
    push_to_qdrant(small, root / "qdrant")
    print(f"Done in {time.monotonic() - begin:.0f} s", flush=True)


def check(is_right: bool, what: str) -> None:
    if not is_right:
        sys.exit(f"WRONG: {what}")
    print(f"right: {what}", flush=True)


if __name__ == "__main__":
    main()
