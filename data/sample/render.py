"""Render the sample catalog.

Reads   params.yaml
Writes  images/, labels.csv, masks.png
"""

from __future__ import annotations

from pathlib import Path

from vitrine.errors import exit_on_error
from vitrine.params import read_section
from vitrine.render.catalogue import RenderParams, render_catalogue


def main() -> None:
    exit_on_error()
    render_catalogue(Path("."), read_section("render", RenderParams))


if __name__ == "__main__":
    main()
