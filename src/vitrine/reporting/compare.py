"""Compare metrics, params and pictures with a git revision, for the gate and for reviewers of pull requests."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.artifacts import INTERVALS
from vitrine.errors import VitrineError
from vitrine.reporting.templating import render

LOWER_IS_BETTER = ("loss", "nll", "brier", "ece", "fpr", "wrongly_refused")
"""Names of metrics, or their suffixes after an underscore."""

NEUTRAL = ("num_", "epoch")
"""Prefixes of the names of metrics for which neither higher nor lower is better."""

PICTURES = ("plots/evaluate/curves.png", "plots/evaluate/calibration.png", "plots/evaluate/confusion_")
ORDER = ("worse", "gone", "better", "within noise", "no interval", "new", "neither")
FAILURES = ("worse", "gone")
"""Verdicts that fail the gate."""

ARROWS = {"worse": "\u25bc", "better": "\u25b2"}


class CompareError(VitrineError):
    """The comparison cannot be made."""


@dataclass(frozen=True)
class Change:
    """A metric at the revision and now; `old` or `new` is None if it does not exist.

    Attributes:
        noise: how far a 95 % interval of the change extends toward zero if both were measured on different
            photographs; None without intervals
        verdict: worse, better, within noise, no interval (the noise of the change is unknown), gone (measured only at
            the revision), new, or neither (a count)
    """

    path: str
    name: str
    old: float | None
    new: float | None
    noise: float | None
    verdict: str

    @property
    def key(self) -> str:
        return f"{Path(self.path).with_suffix('').as_posix().removeprefix('metrics/')}: {self.name}"


def direction(name: str) -> int:
    """Return 1 if higher is better, -1 if lower is, 0 if neither. Only the last part of a name counts."""
    last = name.rsplit(".", 1)[-1]
    if last.startswith(NEUTRAL):
        return 0
    return -1 if last in LOWER_IS_BETTER or last.endswith(tuple(f"_{name}" for name in LOWER_IS_BETTER)) else 1


Intervals = Mapping[str, Mapping[str, Sequence[float]]]
"""By file and metric: [low, high]."""


def classify_changes(
    document: Mapping[str, Mapping[str, Mapping[str, Any]]], old: Intervals, new: Intervals
) -> list[Change]:
    """Classify the changes in `dvc metrics diff --json --all`, by file and name.

    A change is beyond noise if it exceeds the root of the summed squares of the parts of both intervals that face each
    other. Both runs mostly use the same photographs, so this errs toward noise.

    Args:
        old, new: the intervals at the revision and now.

    Source:
        Newcombe, Interval estimation for the difference between independent proportions (1998), method 10.
    """
    changes = []
    for path, metrics in sorted(document.items()):
        for name, values in sorted(metrics.items()):
            before, now = values.get("old"), values.get("new")
            if not all(value is None or isinstance(value, (int, float)) for value in (before, now)):
                continue
            noise = _noise(before, now, old.get(path, {}).get(name), new.get(path, {}).get(name))
            changes.append(Change(path, name, before, now, noise, _verdict(name, before, now, noise)))
    return changes


def _noise(
    old: float | None, new: float | None, old_ends: Sequence[float] | None, new_ends: Sequence[float] | None
) -> float | None:
    if old is None or new is None or old_ends is None or new_ends is None:
        return None
    facing = (0, 1) if new < old else (1, 0)
    return math.hypot(old - old_ends[facing[0]], new - new_ends[facing[1]])


def _verdict(name: str, old: float | None, new: float | None, noise: float | None) -> str:
    if direction(name) == 0:
        return "neither"
    if old is None or new is None:
        return "new" if old is None else "gone"
    if noise is None:
        return "no interval"
    if abs(new - old) <= noise:
        return "within noise"
    return "better" if (new > old) == (direction(name) > 0) else "worse"


def metric_changes(revision: str) -> list[Change]:
    """Compare the workspace's metrics with those of a git revision.

    Raises:
        CompareError: this is not a DVC project, or there is no such revision.
    """
    document = _dvc("metrics", "diff", "--all", revision)
    at_revision = {path: _intervals(_committed(revision, path)) for path in document}
    now = {path: _intervals(Path(path).read_bytes() if Path(path).is_file() else None) for path in document}
    return classify_changes(document, at_revision, now)


def _committed(revision: str, path: str) -> bytes | None:
    result = subprocess.run(["git", "show", f"{revision}:./{path}"], capture_output=True)
    return None if result.returncode else result.stdout


def _intervals(content: bytes | None) -> Mapping[str, Sequence[float]]:
    document = json.loads(content or b"{}")
    return document.get(INTERVALS, {}) if isinstance(document, dict) else {}


def param_changes(revision: str) -> list[tuple[str, Any, Any]]:
    """Return changed params, sorted: name, old, new. Raises: as `metric_changes`."""
    document = _dvc("params", "diff", revision)
    rows = [
        (name, values.get("old"), values.get("new")) for params in document.values() for name, values in params.items()
    ]
    return sorted(rows, key=lambda row: row[0])


def _dvc(*arguments: str) -> Any:
    result = subprocess.run([sys.executable, "-m", "dvc", *arguments, "--json"], capture_output=True, text=True)
    if result.returncode:
        message = result.stderr.strip().splitlines() or ["dvc failed without a message"]
        raise CompareError(f"dvc {' '.join(arguments)}: {message[0].removeprefix('ERROR: ')}")
    document = json.loads(result.stdout or "{}")
    return document.get("diff", document) if isinstance(document, dict) else {}


def _git(*arguments: str) -> bytes:
    result = subprocess.run(["git", *arguments], capture_output=True)
    if result.returncode:
        raise CompareError(f"git {' '.join(arguments)}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


# -- words --------------------------------------------------------------------------------------------------------


def count_changes(changes: Sequence[Change]) -> str:
    """Summarize in one sentence how many metrics are worse, better, within noise, gone and new."""
    moved = [change for change in changes if change.old != change.new]
    number = {verdict: sum(change.verdict == verdict for change in moved) for verdict in ORDER}
    return (
        f"{number['worse']} worse beyond noise, {number['better']} better beyond noise, "
        f"{number['within noise']} changed within noise, {number['no interval']} changed without an interval, "
        f"{number['gone']} gone, {number['new']} new."
    )


def format_value(change: Change, when: str) -> str:
    """Format a metric's value to four decimal places."""
    value = change.old if when == "old" else change.new
    return "" if value is None else f"{value:d}" if isinstance(value, int) else f"{value:.4f}"


def format_change(change: Change) -> str:
    """Format a change with its noise, such as "+0.0312 \u00b1 0.1100"."""
    if change.old is None or change.new is None:
        return "new" if change.old is None else "gone"
    noise = "" if change.noise is None else f" \u00b1 {change.noise:.4f}"
    return f"{change.new - change.old:+.4f}{noise}"


def write_summary(revision: str, out: Path, repository_url: str | None) -> None:
    """Write Markdown for a pull request: changes beyond noise, params, all changed metrics, pictures before and now.

    Args:
        repository_url: the repository's address on GitHub, used to link to pictures by commit. Without it, they are
            copied into a folder next to `out`.

    Raises:
        CompareError: as `metric_changes`, or a picture is not in the revision.
    """
    changes, params = metric_changes(revision), param_changes(revision)
    base, head = (f"`{_git('rev-parse', '--short', name).decode().strip()}`" for name in (revision, "HEAD"))
    if _git("status", "--porcelain", "--untracked-files=no", "--", "metrics", "params.yaml"):
        head = "the working tree"
    shown_first = (*ARROWS, *FAILURES)
    beyond = sorted((c for c in changes if c.verdict in shown_first), key=lambda c: (ORDER.index(c.verdict), c.key))
    rest = [c for c in changes if c.old != c.new and c.verdict not in (*shown_first, "neither")]
    text = render(
        "pull_request.md.j2",
        head=head,
        base=base,
        counts=count_changes(changes),
        params=[[f"`{name}`", _cell(old), _cell(new)] for name, old, new in params],
        header=["metric", "before", "now", "change"],
        beyond=list(map(_cells, beyond)),
        rest=list(map(_cells, rest)),
        pictures=_pictures(revision, out, repository_url),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def _cell(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def _cells(change: Change) -> list[str]:
    moved = f"{format_change(change)} {ARROWS.get(change.verdict, '')}".strip()
    return [change.key, format_value(change, "old"), format_value(change, "new"), moved]


def _pictures(revision: str, out: Path, repository_url: str | None) -> list[tuple[str, str, str]]:
    """Return the name and both addresses of every changed picture."""
    changed = _git("diff", "--name-only", "--diff-filter=M", revision, "--", "plots").decode().split()
    parts = []
    for path in sorted(name for name in changed if name.startswith(PICTURES) and name.endswith(".png")):
        if repository_url:
            sides = [
                f"{repository_url}/blob/{_git('rev-parse', name).decode().strip()}/{path}?raw=true"
                for name in (revision, "HEAD")
            ]
        else:
            folder = out.parent / f"{out.stem}_pictures"
            folder.mkdir(parents=True, exist_ok=True)
            sides = []
            for when, content in (("before", _git("show", f"{revision}:{path}")), ("now", Path(path).read_bytes())):
                copy = folder / f"{Path(path).stem}_{when}.png"
                copy.write_bytes(content)
                sides.append(os.path.relpath(copy, out.parent))
        before, now = sides
        parts.append((Path(path).stem, before, now))
    return parts
