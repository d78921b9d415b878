"""How does the page bear many visitors? Clients that search and predict against a local server, all at once.

The clients are coroutines of one process that speak plain HTTP, as docs/page.md shows it with curl: twenty threads of
`gradio_client` keep one interpreter busy and would measure themselves. Run it in a project after `make repro`. Prints
latencies, errors, processor time, and the server's memory at the start, half-way and at the end.

    python benchmarks/page_load.py [--clients 20] [--seconds 120]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from vitrine.data.catalog import DataParams
from vitrine.params import read_section

sys.path.insert(0, "tests")
from serving import serving

WORDS = ("blue bottle", "red", "bag not black", "white plastic", "leather", "transparent bottle", "zebra", "new watch")
PREDICT_SHARE = 0.1
PAUSE_SECONDS = 1.0
"""Visitors look at what they found before they ask again."""


@dataclass
class Record:
    """What the visitors saw: milliseconds a request of each kind took, and what went wrong."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)


async def call(http: httpx.AsyncClient, name: str, data: list[Any]) -> Any:
    """Ask an endpoint and wait for its answer."""
    asked = await http.post(f"/gradio_api/call/{name}", json={"data": data})
    asked.raise_for_status()
    events = await http.get(f"/gradio_api/call/{name}/{asked.json()['event_id']}")
    event, line = events.text.strip().split("\n")[-2:]
    if event != "event: complete":
        raise RuntimeError(f"{name}: {events.text[:200]}")
    return json.loads(line.removeprefix("data: "))[0]


async def predict(http: httpx.AsyncClient, photo: Path) -> None:
    """Upload a photograph and ask what it shows."""
    sent = await http.post("/gradio_api/upload", files={"files": (photo.name, photo.read_bytes())})
    sent.raise_for_status()
    file = {"path": sent.json()[0], "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
    answer = await call(http, "predict", [file, "ensemble"])
    if "error" in answer:
        raise RuntimeError(answer["error"])


async def visit(url: str, photos: list[Path], end: float, record: Record, seed: int) -> None:
    chance = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS))
        while time.monotonic() < end:
            kind = "predict" if chance.random() < PREDICT_SHARE else "search"
            began = time.perf_counter()
            try:
                if kind == "predict":
                    await predict(http, chance.choice(photos))
                else:
                    await call(http, "search", [chance.choice(WORDS), "ensemble", 24])
            except (httpx.HTTPError, RuntimeError, ValueError) as error:
                record.errors.append(repr(error))
            record.took[kind].append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))


def listener(port: int) -> psutil.Process:
    """The process that listens at the port."""
    listening = (c for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == psutil.CONN_LISTEN)
    return psutil.Process(next(listening).pid)


def megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 1e6)


def busy_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def load(url: str, photos: list[Path], clients: int, seconds: float, record: Record) -> list[float]:
    """Let the visitors in. Returns the server's megabytes: warm, half-way, at the end."""
    server = listener(int(url.rsplit(":", 1)[1]))
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(3):
            await predict(http, photos[0])
    used = [megabytes(server)]
    end = time.monotonic() + seconds
    visitors = [asyncio.create_task(visit(url, photos, end, record, seed)) for seed in range(clients)]
    await asyncio.sleep(seconds / 2)
    used.append(megabytes(server))
    await asyncio.gather(*visitors)
    return [*used, megabytes(server)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    photos = sorted((Path(read_section("data", DataParams).path) / "images").iterdir())
    record = Record()
    with serving(Path.cwd()) as url:
        server, own = listener(int(url.rsplit(":", 1)[1])), psutil.Process()
        before = busy_seconds(server), busy_seconds(own), time.monotonic()
        used = asyncio.run(load(url, photos, arguments.clients, arguments.seconds, record))
        spent = [each - start for each, start in zip((busy_seconds(server), busy_seconds(own)), before, strict=False)]
        lasted = time.monotonic() - before[2]
    print(f"{arguments.clients} clients, {arguments.seconds:g} s, errors: {len(record.errors)} {record.errors[:3]}\n")
    print("| request | number | p50 ms | p95 ms | p99 ms |\n| --- | ---: | ---: | ---: | ---: |")
    for kind, values in sorted(record.took.items(), reverse=True):
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        print(f"| {kind} | {len(values)} | {p50:.0f} | {p95:.0f} | {p99:.0f} |")
    print(f"\nprocessor: server {spent[0] / lasted:.0%} of a core, clients {spent[1] / lasted:.0%}")
    print("server memory: {:.0f} MB warm, {:.0f} MB half-way, {:.0f} MB at the end".format(*used))


if __name__ == "__main__":
    main()
