"""A page served from another process for a test, and a browser to look at it with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

START_SECONDS = 120

BROWSER = os.environ.get("VITRINE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as page:
            page.read()
    except (URLError, TimeoutError, ConnectionError):
        return False
    return True


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run `vitrine serve` in a folder until the block ends; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vitrine.cli", "serve", "--port", str(port)]
    with tempfile.NamedTemporaryFile("w", suffix=".log", delete=False) as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(url):
            assert server.poll() is None, f"the server ended: {Path(log.name).read_text()}"
            assert time.monotonic() < deadline, f"no answer in {START_SECONDS} s: {Path(log.name).read_text()}"
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(START_SECONDS)
        Path(log.name).unlink()
