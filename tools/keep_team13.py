"""Keep the results of `make team13-crossval`: python tools/keep_team13.py.

Reads   report/crossval.md, plots/crossval/scores.csv, plots/crossval/comparisons.csv
Writes  report/crossval_team13.md, without the list and the picture of suspicious labels, because the photographs may
        not be published here; report/crossval_team13.csv and crossval_team13_comparisons.csv, the two tables
"""

from __future__ import annotations

import shutil
from pathlib import Path

TITLE = "# Cross-validation"
LEFT_OUT = "## Labels that deserve a second look"
HEAD = """# Cross-validation on Team 13's photographs

`make team13-crossval` writes this, from the weights in `weights/` and with half of the epochs of `params.yaml`.
Its commit is that of this file: `git log -1 -- report/crossval_team13.md`.
"""


def without_photographs(report: str) -> str:
    """Return the report of a cross-validation under Team 13's title. Raises: ValueError: its format differs."""
    title, _, rest = report.partition("\n")
    body, found, _ = rest.partition(LEFT_OUT)
    if title != TITLE or not found:
        raise ValueError(
            f"report/crossval.md: expected '{TITLE}' and '{LEFT_OUT}'. Create it with: make team13-crossval"
        )
    return f"{HEAD}{body.rstrip()}\n"


if __name__ == "__main__":
    folder = Path("report")
    text = without_photographs((folder / "crossval.md").read_text(encoding="utf-8"))
    (folder / "crossval_team13.md").write_text(text, encoding="utf-8")
    shutil.copyfile("plots/crossval/scores.csv", folder / "crossval_team13.csv")
    shutil.copyfile("plots/crossval/comparisons.csv", folder / "crossval_team13_comparisons.csv")
