"""Write the tables of README.md from the scores of the last runs: python tools/readme_tables.py.

Reads   plots/evaluate/scores.csv, plots/crossval/scores.csv
Writes  README.md, between `<!-- table NAME -->` and `<!-- end -->`
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from vitrine.labels import display_name, read_measures
from vitrine.reporting.templating import markdown_table, percent, with_interval

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "efficientnet": "EfficientNet-Lite0",
    "deit": "DeiT-Tiny",
    "mobilevit": "MobileViT-XXS",
    "ensemble": "ensemble",
    "linear_probe": "linear probe",
    "svm": "support vector machine",
    "majority": "most common label",
}
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def accuracy_table(scores: pd.DataFrame, system: str) -> str:
    """Return accuracies with their intervals: a row a task, a column a system. `system` names the systems' column."""
    cells: dict[str, dict[str, str]] = {}
    for row in scores.to_dict("records"):
        named = {str(key): value for key, value in row.items()}
        cells.setdefault(named["task"], {})[named[system]] = with_interval(named, "accuracy")
        if "majority_accuracy" in named:
            cells[named["task"]]["majority"] = percent(named["majority_accuracy"])
    shown = [name for name in COLUMNS if all(name in found for found in cells.values())]
    rows = [[display_name(task), *(found[name] for name in shown)] for task, found in cells.items()]
    return markdown_table(["accuracy", *(COLUMNS[name] for name in shown)], rows)


def tables() -> dict[str, str]:
    test = read_measures(ROOT / "plots/evaluate/scores.csv")
    return {
        "test": accuracy_table(test[test["split"] == "test"], "model"),
        "crossval": accuracy_table(read_measures(ROOT / "plots/crossval/scores.csv"), "system"),
    }


def with_tables(text: str) -> str:
    """Return README's text with every marked table as the last runs say. Raises: KeyError: a name is unknown."""
    found = tables()
    return MARKED.sub(lambda match: f"{match[1]}\n{found[match[2]]}\n\n{match[3]}", text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
