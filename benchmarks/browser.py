"""Compare the page of `vitrine export --format web` with the pipeline, in Chromium, on photographs of val and test.

Needs `make repro`, `make export`, npm and Chromium.

    python benchmarks/browser.py [--photos 100]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from vitrine.app.web import compressed_megabytes, package_web
from vitrine.data.catalog import DataParams
from vitrine.labels import read_photo_table
from vitrine.params import read_section
from vitrine.predictions import Predictions

SYSTEM = "mobilevit"

PREDICT = """async (text) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const page = await import("./app.js");
  return (await page.predict(new Blob([bytes]))).probs;
}"""


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder without logging."""

    def log_message(self, *_: object) -> None:
        pass


def serve(folder: Path) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    import base64

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100)
    num = parser.parse_args().photos
    folder = Path(read_section("data", DataParams).path)
    held_out = (read_photo_table(Path("data/splits/photos.csv"))["split"] != "train").to_numpy()
    expected = Predictions.load(Path("predictions") / f"{SYSTEM}.npz").select(np.flatnonzero(held_out)[:num])
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        paths = package_web(Path(temporary) / "page", SYSTEM)
        megabytes = compressed_megabytes([path for path in paths if path.parent.name != "thumbnails"])
        server = serve(Path(temporary) / "page")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        page, start = browser.new_page(), time.perf_counter()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-ready=yes]")
        ready = time.perf_counter() - start
        found, times = [], []
        for path in expected.image_paths:
            start = time.perf_counter()
            found.append(page.evaluate(PREDICT, base64.b64encode((folder / path).read_bytes()).decode()))
            times.append(time.perf_counter() - start)
        browser.close()
        server.shutdown()
    print(f"{megabytes:.1f} MB compressed without thumbnails; ready after {ready:.1f} s, ", end="")
    print(f"first answer {times[0]:.2f} s later, then {np.median(times):.2f} s per photograph")
    for task, probs in expected.probs.items():
        served = np.array([each[task] for each in found])
        changed = int((served.argmax(axis=1) != probs.argmax(axis=1)).sum())
        print(f"{task}: {changed} of {len(probs)} labels differ, probabilities by {np.abs(served - probs).max():.4f}")


if __name__ == "__main__":
    main()
