"""Write the report of a cross-validation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from vitrine.evaluation.scoring import MIN_PHOTOS, with_interval
from vitrine.inference.systems import ENSEMBLE, NETWORKS
from vitrine.labels import CLASS_TASK
from vitrine.reporting.report import (
    BASELINE,
    HOW_SEARCHED,
    PROBE,
    PROBE_IN_WORDS,
    comparison_sentence,
    markdown_table,
    retrieval_table,
    search_sentence,
)


def write_crossval_report(
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    suspects: pd.DataFrame,
    retrieval: pd.DataFrame,
    gains: Mapping[str, Mapping[str, float]],
    num_folds: int,
) -> str:
    """Return crossval.md; pictures are addressed from the folder report/."""
    one_class = scores[scores["task"] == CLASS_TASK].set_index("system")
    lines = [f"- {comparison_sentence(first, PROBE, comparisons)}" for first in (ENSEMBLE, *NETWORKS)]
    lines += [f"- {comparison_sentence(first, BASELINE, comparisons)}" for first in NETWORKS]
    lines += [f"- {comparison_sentence(ENSEMBLE, first, comparisons)}" for first in NETWORKS]
    tables = []
    for task, group in scores.groupby("task", sort=False):
        rows = [
            [
                row["system"],
                with_interval(dict(row), "accuracy"),
                with_interval(dict(row), "macro_f1"),
                f"{with_interval(dict(row), 'item_accuracy')}, {int(row['item_right'])}/{int(row['item_n'])} items",
                f"{row['nll']:.2f}",
                f"{row['ece']:.3f}",
            ]
            for _, row in group.iterrows()
        ]
        header = ["system", "accuracy", "macro F1", "by item, views fused", "NLL", "ECE"]
        tables += [f"### {str(task).capitalize()}", markdown_table(header, rows)]
    num_photos, num_items = int(one_class["n"].iloc[0]), int(one_class["item_n"].iloc[0])
    sections = [
        "# Cross-validation",
        f"Every one of {num_photos} photographs of {num_items} items was predicted by systems that had not seen its "
        f"item: {num_folds} folds of whole items. In brackets are 95 % intervals over items. The networks train with "
        "the strategies of params.yaml, for as long as crossval/params.yaml says. No epoch is picked on the fold that "
        "is judged, and temperatures are fitted on the other folds. All systems are listed; none is singled out by its "
        "score. Some learning rates and settings of the baselines were chosen by earlier cross-validations, which "
        "flatters their scores here where these used the same photographs: "
        "[which](../docs/evaluation.md#what-was-chosen-on-what).",
        "## Verdict",
        "\n".join(lines),
        "## Scores",
        *tables,
        f"`{PROBE}`: {PROBE_IN_WORDS}. `svm`: histograms of oriented gradients and of colors with an RBF support "
        "vector machine. `neighbors`: votes of the nearest photographs in the linear probe's features. `majority`: "
        "always the commonest label of train. `ensemble`: the mean of the calibrated probabilities of those networks "
        "that are best together. Its members and all temperatures are chosen on the other folds. NLL: mean negative "
        "log-likelihood, in nats. ECE: expected calibration error over bins of equal numbers.",
        "## Search",
        "\n".join(search_sentence(name, gain) for name, gain in gains.items()),
        retrieval_table(retrieval),
        "Searched are all photographs, each as it was predicted by networks that had not seen it. " + HOW_SEARCHED,
        "## Labels that deserve a second look",
        f"cleanlab finds {len(suspects)} photographs whose class looks wrong to the ensemble; a model this unsure is "
        "often wrong itself. Of labels with fewer than "
        f"{MIN_PHOTOS} photographs nothing is claimed. The whole list is in "
        "[suspicious_labels.csv](../plots/crossval/suspicious_labels.csv).",
        "![Photographs whose class looks wrong](../plots/crossval/suspicious_labels.jpg)",
    ]
    return "\n\n".join(sections) + "\n"
