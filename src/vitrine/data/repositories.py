"""Fetch photographs from public git repositories: only some paths, at a pinned commit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vitrine.errors import VitrineError


class FetchError(VitrineError):
    """Photographs are not available, or are not the expected ones."""


def checkout_files(url: str, commit: str, paths: Sequence[str], folder: Path, otherwise: str) -> None:
    """Check out paths of a repository at a commit into an empty folder.

    Args:
        otherwise: what to do without a network, for the error message.
    Raises:
        FetchError: git fails.
    """
    commands = [
        ["init", "--quiet"],
        ["remote", "add", "origin", url],
        ["sparse-checkout", "set", "--no-cone", *(f"/{path}" for path in paths)],
        ["fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", commit],
        ["checkout", "--quiet", "FETCH_HEAD"],
    ]
    for command in commands:
        result = subprocess.run(
            ["git", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
        if result.returncode != 0:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FetchError(f"cannot fetch {url} at {commit[:12]} ({reason}). Without network access, {otherwise}")
