"""Compare the models in a page that GitHub shows.

Reads   data/splits/photos.csv, predictions/, metrics/split.json, plots/split/, plots/evaluate/, plots/index/
Writes  report/report.md
"""

from __future__ import annotations

from pathlib import Path

from vitrine.artifacts import ArtifactError, write_text
from vitrine.labels import CLASS_TASK, read_photos
from vitrine.params import exit_on
from vitrine.predictions import Predictions
from vitrine.reporting import ReportData, write_report


def main() -> None:
    exit_on(ArtifactError)
    table = read_photos(Path("data/splits/photos.csv"))
    predicted = {}
    for path in sorted(Path("predictions").glob("*.npz")):
        predictions = Predictions.load(path)
        labels = predictions.label_space.labels[CLASS_TASK]
        predicted[path.stem] = [labels[code] for code in predictions.predicted(CLASS_TASK)]
    write_text(Path("report/report.md"), write_report(ReportData.read(table, predicted)))


if __name__ == "__main__":
    main()
