"""Write the report of a cross-validation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vitrine.evaluation.scoring import MIN_PHOTOS
from vitrine.inference.systems import ENSEMBLE, NETWORKS
from vitrine.labels import CLASS_TASK
from vitrine.reporting.report import BASELINE, PROBE, difference, retrieval_header, retrieval_rows
from vitrine.reporting.templating import render, with_interval


def write_crossval_report(
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    suspects: pd.DataFrame,
    retrieval: pd.DataFrame,
    gains: Mapping[str, Mapping[str, float]],
    num_folds: int,
) -> str:
    """Return crossval.md; addresses of pictures are relative to report/."""
    one_class = scores[scores["task"] == CLASS_TASK]
    pairs = [(name, PROBE) for name in (ENSEMBLE, *NETWORKS)] + [(name, BASELINE) for name in NETWORKS]
    pairs += [(ENSEMBLE, name) for name in NETWORKS]
    at_once = retrieval["num_terms"] == 0
    return render(
        "crossval.md.j2",
        num_photos=int(one_class["n"].iloc[0]),
        num_items=int(one_class["item_n"].iloc[0]),
        num_folds=num_folds,
        verdict=[(*pair, difference(comparisons, *pair)) for pair in pairs],
        scores={
            task: [_cells(row) for row in group.to_dict("records")]
            for task, group in scores.groupby("task", sort=False)
        },
        probe=PROBE,
        search=gains,
        retrieval_header=retrieval_header(retrieval),
        retrieval=retrieval_rows(retrieval[at_once]),
        by_terms=retrieval_rows(retrieval[~at_once]),
        num_suspects=len(suspects),
        min_photos=MIN_PHOTOS,
    )


def _cells(row: Mapping[Any, Any]) -> list[str]:
    by_item = f"{with_interval(row, 'item_accuracy')}, {int(row['item_right'])}/{int(row['item_n'])} items"
    accuracy, macro_f1 = with_interval(row, "accuracy"), with_interval(row, "macro_f1")
    return [row["system"], accuracy, macro_f1, by_item, f"{row['nll']:.2f}", f"{row['ece']:.3f}"]
