"""The tools behind the make targets write the expected files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import keep_team13
import plots

BARS = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": [{"x": 1, "y": "<b>"}]},
    "mark": "bar",
    "encoding": {"x": {"field": "x"}, "y": {"field": "y"}},
}


def test_plots_are_drawn_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    charts: dict[str, list[dict[str, Any]]] = {
        "other.csv": [{"type": "vega", "revisions": ["HEAD", "workspace"], "content": BARS}],
        plots.FIRST[0]: [{"type": "image", "revisions": ["HEAD"], "url": str(tmp_path / "dvc_plots/static/a.png")}],
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "read_plots", lambda revisions: charts)
    plots.main(["HEAD"])
    page = (tmp_path / "dvc_plots/plots.html").read_text(encoding="utf-8")
    assert "<svg" in page and '<img src="static/a.png"' in page and "HEAD, workspace" in page
    assert "<script" not in page and "<b>" not in page
    assert page.index(plots.FIRST[0]) < page.index("other.csv")


def test_the_report_of_team_13_omits_photographs() -> None:
    report = (
        "# Cross-validation\n\nFolds.\n\n## Scores\n\n| a |\n\n## Labels that deserve a second look\n\n![p](p.jpg)\n"
    )
    kept = keep_team13.without_photographs(report)
    assert kept.startswith("# Cross-validation on Team 13's photographs\n") and kept.endswith("## Scores\n\n| a |\n")
    assert "p.jpg" not in kept
    with pytest.raises(ValueError, match="Create it with: make team13-crossval"):
        keep_team13.without_photographs("# Cross-validation\n")


def test_the_makefile_defines_every_target_once() -> None:
    root = Path(__file__).parents[1]
    parsed = subprocess.run(["make", "--dry-run", "help"], cwd=root, capture_output=True, text=True, check=True)
    assert parsed.stderr == ""  # make warns about a target that is defined twice
    lines = (root / "Makefile").read_text(encoding="utf-8").splitlines()
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    assert sorted(phony) == sorted(match[1] for line in lines if (match := re.match(r"([a-z0-9-]+):", line)))
