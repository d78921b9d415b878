"""A score over the commits of the project's git repository."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

MAX_COMMITS = 40


def score_history(root: Path, file: str, key: str) -> list[tuple[str, float]]:
    """Return each commit's name and score, oldest first; the working tree comes last if its score differs.

    Commits whose file lacks the number are left out; without a git repository, all are.

    Args:
        file: a JSON file of metrics, relative to `root`.
    """
    points = []
    log = _git(root, "log", f"-{MAX_COMMITS}", "--format=%h %cs", "--", file)
    for line in reversed((log or "").splitlines()):
        commit, date = line.split()
        score = _number(_git(root, "show", f"{commit}:./{file}"), key)
        if score is not None:
            points.append((f"{commit} of {date}", score))
    path = root / file
    now = _number(path.read_text(encoding="utf-8"), key) if path.is_file() else None
    if now is not None and (not points or points[-1][1] != now):
        points.append(("the working tree", now))
    return points


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout if result.returncode == 0 else None


def _number(text: str | None, key: str) -> float | None:
    try:
        value = json.loads(text or "{}").get(key)
    except (AttributeError, ValueError):
        return None
    return float(value) if isinstance(value, int | float) else None
