"""Evaluate all systems on out-of-fold predictions, every photograph once.

Reads   crossval/predictions/, crossval/folds.csv, data/splits/, data/synonyms.yaml
Writes  metrics/crossval/SYSTEM.json, plots/crossval/, report/crossval.md
"""

from __future__ import annotations

from pathlib import Path

from vitrine.artifacts import read_csv, read_json, read_npy, write_csv, write_metrics, write_text
from vitrine.errors import exit_on_error
from vitrine.evaluation.crossval import (
    JudgeParams,
    judge,
    out_of_fold_probs,
    suspicious_labels,
)
from vitrine.evaluation.scoring import headline_metrics, named_rows
from vitrine.labels import CLASS_TASK, LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.reporting import figures
from vitrine.reporting.crossval import write_crossval_report
from vitrine.retrieval.queries import read_synonyms
from vitrine.retrieval.relevance import IndexParams, search_scores

NUM_SHOWN = 18


def main() -> None:
    exit_on_error()
    params = read_section("judge", JudgeParams, Path("crossval/params.yaml"))
    searched = read_section("index", IndexParams)
    data, plots = Path("data/splits"), Path("plots/crossval")
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    folds = read_csv(Path("crossval/folds.csv"))["fold"].to_numpy()
    codes = label_space.encode(table)
    systems = out_of_fold_probs(Path("crossval/predictions"), table, folds, codes)
    scores, comparisons = judge(systems, codes, list(table["instance_id"]), params.calibration_bins)
    suspects = suspicious_labels(table, label_space, codes[CLASS_TASK], systems["ensemble"][CLASS_TASK])

    synonyms = read_synonyms(Path("data/synonyms.yaml"))
    retrieval, gains = search_scores(systems, table, label_space, searched, synonyms)

    write_csv(plots / "retrieval.csv", named_rows(retrieval, "num_terms", "model", "method"))
    write_csv(plots / "scores.csv", named_rows(scores, "task", "system"))
    write_csv(plots / "comparisons.csv", named_rows(comparisons, "task", "first", "second"))
    write_csv(plots / "suspicious_labels.csv", suspects.drop(columns="row"))
    tiles = figures.suspect_rows(suspects.head(NUM_SHOWN), photos)
    figures.photo_grid(tiles, "Labels that deserve a second look", plots / "suspicious_labels.jpg")
    for name, rows in scores.groupby("system"):
        write_metrics(Path(f"metrics/crossval/{name}.json"), *headline_metrics(rows))
    num_folds = int(folds.max()) + 1
    report = write_crossval_report(scores, comparisons, suspects, retrieval, gains, num_folds)
    write_text(Path("report/crossval.md"), report)


if __name__ == "__main__":
    main()
