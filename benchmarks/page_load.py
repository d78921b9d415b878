"""How does the page bear many visitors? Clients that search and predict against a local server, all at once.

Run it in a project after `make repro`. Prints latencies, errors, and the server's memory at the start and the end.

    python benchmarks/page_load.py [--clients 20] [--seconds 120]
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
from gradio_client import Client, handle_file

from vitrine.catalog import DataParams
from vitrine.params import read_section

sys.path.insert(0, "tests")
from serving import serving

WORDS = ("blue bottle", "red", "bag not black", "white plastic", "leather", "transparent bottle", "zebra", "new watch")
PREDICT_SHARE = 0.1
PAUSE_SECONDS = 1.0
"""Visitors look at what they found before they ask again."""


def visit(url: str, photos: list[Path], end: float, took: dict[str, list[float]], errors: list[str], seed: int) -> None:
    chance = random.Random(seed)
    client = Client(url, verbose=False, analytics_enabled=False)
    while time.monotonic() < end:
        kind = "predict" if chance.random() < PREDICT_SHARE else "search"
        began = time.perf_counter()
        try:
            if kind == "predict":
                photo = handle_file(str(chance.choice(photos)))
                answer = client.predict(photo=photo, model="ensemble", api_name="/predict")
                if "error" in answer:
                    errors.append(answer["error"])
            else:
                client.predict(words=chance.choice(WORDS), model="ensemble", top_k=24, api_name="/search")
        except Exception as error:
            errors.append(repr(error))
        took[kind].append(1000 * (time.perf_counter() - began))
        time.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))


def memory(port: int) -> float:
    """Resident megabytes of the process that listens at the port."""
    listening = (c for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == psutil.CONN_LISTEN)
    return psutil.Process(next(listening).pid).memory_info().rss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    folder = Path(read_section("data", DataParams).path)
    photos = sorted((folder / "images").iterdir())
    took: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    with serving(Path.cwd()) as url:
        port = int(url.rsplit(":", 1)[1])
        client = Client(url, verbose=False, analytics_enabled=False)
        client.predict(photo=handle_file(str(photos[0])), model="ensemble", api_name="/predict")
        before, end = memory(port), time.monotonic() + arguments.seconds
        visitors = [
            threading.Thread(target=visit, args=(url, photos, end, took, errors, seed))
            for seed in range(arguments.clients)
        ]
        half: list[float] = []
        watch = threading.Timer(arguments.seconds / 2, lambda: half.append(memory(port)))
        watch.start()
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        after = memory(port)
    print(f"{arguments.clients} clients, {arguments.seconds:g} s, errors: {len(errors)} {errors[:3]}\n")
    print("| request | number | p50 ms | p95 ms | p99 ms |\n| --- | ---: | ---: | ---: | ---: |")
    for kind, values in took.items():
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        print(f"| {kind} | {len(values)} | {p50:.0f} | {p95:.0f} | {p99:.0f} |")
    print(f"\nserver memory: {before:.0f} MB warm, {half[0]:.0f} MB half-way, {after:.0f} MB at the end")


if __name__ == "__main__":
    main()
