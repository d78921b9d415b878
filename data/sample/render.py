"""Render the sample catalogue.

Reads   params.yaml
Writes  images/, labels.csv, masks.png
"""

from __future__ import annotations

from pathlib import Path

from vitrine.params import ParamsError, exit_on, read_section
from vitrine.render.catalogue import RenderError, RenderParams, render_catalogue


def main() -> None:
    exit_on(ParamsError, RenderError)
    render_catalogue(Path("."), read_section("render", RenderParams))


if __name__ == "__main__":
    main()
