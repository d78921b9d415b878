"""Measure the server under many concurrent clients that search and predict through its REST interface.

The clients are coroutines of one process, to leave the processors to the server. Run it in a project after
`make repro`. Prints latencies, errors, processor time, and the memory of the server after the first minute and at the
end. The exit code is 1 if there was an error.

    python benchmarks/page_load.py [--clients 60] [--seconds 300]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from vitrine.data.catalog import DataParams
from vitrine.params import read_section

sys.path.insert(0, "tests")
from serving import running

UNKNOWN = "zebra"
WORDS = ("blue bottle", "red", "bag not black", "white plastic", "leather", "transparent bottle", "new watch", UNKNOWN)
NUM_HITS = 24
PREDICT_SHARE = 0.1
PAUSE_SECONDS = 1.0
"""Mean pause of a visitor between requests."""


@dataclass
class Record:
    """Milliseconds per request of each kind, and errors."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)


async def predict(http: httpx.AsyncClient, photo: Path) -> None:
    """Request the prediction of a photograph."""
    response = await http.post("/api/predict", files={"photos": (photo.name, photo.read_bytes())})
    response.raise_for_status()
    if not response.json()["answers"]:
        raise ValueError("no answers")


async def search(http: httpx.AsyncClient, words: str) -> None:
    response = await http.get("/api/search", params={"q": words, "top_k": NUM_HITS})
    response.raise_for_status()
    if words != UNKNOWN and not response.json()["hits"]:
        raise ValueError(f"no hits for {words}")


async def visit(url: str, photos: list[Path], end: float, record: Record, seed: int) -> None:
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS))
        while time.monotonic() < end:
            kind = "predict" if rng.random() < PREDICT_SHARE else "search"
            began = time.perf_counter()
            try:
                if kind == "predict":
                    await predict(http, rng.choice(photos))
                else:
                    await search(http, rng.choice(WORDS))
            except (httpx.HTTPError, KeyError, ValueError) as error:
                record.errors.append(repr(error))
            record.took[kind].append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(rng.uniform(0, 2 * PAUSE_SECONDS))


def listener(port: int) -> psutil.Process:
    """Return the process that listens on a port."""
    listening = (c for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == psutil.CONN_LISTEN)
    return psutil.Process(next(listening).pid)


def megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 1e6)


def busy_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def load(url: str, photos: list[Path], clients: int, seconds: float, record: Record) -> tuple[float, float]:
    """Run the visitors; return megabytes of the server after a minute (at most a fifth of the time) and at the end."""
    server = listener(int(url.rsplit(":", 1)[1]))
    end = time.monotonic() + seconds
    visitors = [asyncio.create_task(visit(url, photos, end, record, seed)) for seed in range(clients)]
    await asyncio.sleep(min(60, seconds / 5))
    early = megabytes(server)
    await asyncio.gather(*visitors)
    return early, megabytes(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    photos = sorted((Path(read_section("data", DataParams).path) / "images").iterdir())
    record = Record()
    with running(Path.cwd(), "/healthz") as opened:
        server, own = listener(int(opened.url.rsplit(":", 1)[1])), psutil.Process()
        before = busy_seconds(server), busy_seconds(own), time.monotonic()
        early, late = asyncio.run(load(opened.url, photos, arguments.clients, arguments.seconds, record))
        spent = [each - start for each, start in zip((busy_seconds(server), busy_seconds(own)), before, strict=False)]
        lasted = time.monotonic() - before[2]
    print(f"{arguments.clients} clients, {arguments.seconds:g} s, errors: {len(record.errors)} {record.errors[:3]}\n")
    print("| request | number | p50 ms | p95 ms | p99 ms |\n| --- | ---: | ---: | ---: | ---: |")
    for kind, values in sorted(record.took.items(), reverse=True):
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        print(f"| {kind} | {len(values)} | {p50:.0f} | {p95:.0f} | {p99:.0f} |")
    print(f"\nprocessor: server {spent[0] / lasted:.0%} of a core, clients {spent[1] / lasted:.0%}")
    print(f"server memory: {early:.0f} MB after the first minute, {late:.0f} MB at the end ({late / early - 1:+.1%})")
    sys.exit(bool(record.errors))


if __name__ == "__main__":
    main()
