"""Compare the systems in a Markdown page for GitHub and in a self-contained HTML page.

Reads   data/splits/photos.csv, data/splits/counts.json, params.yaml, plots/split/, plots/evaluate/, plots/index/,
        plots/explain/, plots/ood/
Writes  report/report.md, report/index.html
"""

from __future__ import annotations

from pathlib import Path

from vitrine.artifacts import write_text
from vitrine.errors import exit_on_error
from vitrine.reporting.html import html_page
from vitrine.reporting.report import ReportData, write_report


def main() -> None:
    exit_on_error()
    folder, text = Path("report"), write_report(ReportData.read())
    write_text(folder / "index.html", html_page(text, folder))
    write_text(folder / "report.md", text)


if __name__ == "__main__":
    main()
