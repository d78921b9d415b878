"""Draw DVC's plots without a network: python tools/plots.py [REVISION ...].

`dvc plots show` writes a page that fetches Vega from the web. This script draws the same plots as SVG, of the workspace
or of revisions side by side.

Reads   the inputs of `dvc plots show` or `dvc plots diff`
Writes  dvc_plots/plots.html
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from vitrine.reporting.templating import render

FOLDER = Path("dvc_plots")
FIRST = ("plots/evaluate/accuracy.png", "Validation macro F1 of the class", "plots/evaluate/confusion_ensemble.csv")
"""The first plots on the page; the others follow in DVC's order."""


def read_plots(revisions: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return DVC's plots by name. Raises: SystemExit: DVC fails."""
    command = ["plots", "diff", *revisions] if revisions else ["plots", "show"]
    command = [sys.executable, "-m", "dvc", *command, "--json", "-o", str(FOLDER)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr.strip())
    plots: dict[str, list[dict[str, Any]]] = json.loads(result.stdout)["data"]
    return {name: views for name, views in plots.items() if views}


def draw(view: dict[str, Any]) -> dict[str, Any]:
    """Return a plot's SVG, or the address of its picture, and its revisions."""
    shown: dict[str, Any] = {"revisions": ", ".join(view["revisions"])}
    if view["type"] == "image":
        return {**shown, "address": os.path.relpath(view["url"], FOLDER)}
    content = view["content"]
    spec = json.loads(content) if isinstance(content, str) else content
    return {**shown, "svg": Markup(vl_convert.vegalite_to_svg(spec))}


def main(revisions: list[str]) -> None:
    plots = read_plots(revisions)
    names = [*(name for name in FIRST if name in plots), *(name for name in plots if name not in FIRST)]
    FOLDER.mkdir(exist_ok=True)
    page = FOLDER / "plots.html"
    drawn = {name: [draw(view) for view in plots[name]] for name in names}
    text = render("plots.html.j2", title=" against ".join(revisions) or "Plots", plots=drawn)
    page.write_text(text, encoding="utf-8")
    print(f"{len(drawn)} plots: {page.resolve().as_uri()}")


if __name__ == "__main__":
    main(sys.argv[1:])
