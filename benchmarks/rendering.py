"""Measure the speed of the renderer on one core, at several sizes and samples per pixel.

python benchmarks/rendering.py [--views 20]
"""

from __future__ import annotations

import argparse
import time

from vitrine.render.catalogue import prepare
from vitrine.render.items import make_item
from vitrine.render.scenes import render_view

SETTINGS = ((64, 8), (96, 8), (128, 16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=20)
    arguments = parser.parse_args()
    prepare()
    render_view(make_item(0, 0), 0, 16, 1)  # warm-up
    print("| side, px | samples per pixel | photographs per second and core |\n| ---: | ---: | ---: |")
    for size, samples in SETTINGS:
        start = time.perf_counter()
        for number in range(arguments.views):
            render_view(make_item(1, number), 0, size, samples)
        print(f"| {size} | {samples} | {arguments.views / (time.perf_counter() - start):.2f} |", flush=True)


if __name__ == "__main__":
    main()
