"""Render objects that belong to none of the sample's classes.

Reads   params.yaml
Writes  images/, labels.csv
"""

from __future__ import annotations

from pathlib import Path

from vitrine.errors import exit_on_error
from vitrine.params import read_section
from vitrine.render.outliers import OutlierParams, render_outliers


def main() -> None:
    exit_on_error()
    render_outliers(Path("."), read_section("render", OutlierParams))


if __name__ == "__main__":
    main()
