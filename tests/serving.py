"""Serve the page from another process for a test, and find a browser to open it with."""

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
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

START_SECONDS = 120

BROWSER = os.environ.get("VITRINE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Server:
    """A running `vitrine serve`; `log` is a file with its standard output and error."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as page:
            page.read()
    except (URLError, TimeoutError, ConnectionError):
        return False
    return True


@contextmanager
def running(folder: Path, until: str = "/", **environment: str) -> Iterator[Server]:
    """Run `vitrine serve` in a folder for the length of the block, which starts once the path `until` returns 200."""
    port = free_port()
    command = [sys.executable, "-m", "vitrine.cli", "serve", "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".log", delete=False) as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    server = Server(f"http://127.0.0.1:{port}", process, Path(log.name))
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(server.url + until):
            assert process.poll() is None, f"the server ended: {server.log.read_text(encoding='utf-8')}"
            assert time.monotonic() < deadline, (
                f"no answer in {START_SECONDS} s: {server.log.read_text(encoding='utf-8')}"
            )
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(START_SECONDS)
        server.log.unlink()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Do the same as `running`, but yield only the address."""
    with running(folder) as server:
        yield server.url
