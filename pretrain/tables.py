"""Print the tables of docs/pretraining.md: python pretrain/tables.py.

Reads   pretrain/probe.csv, pretrain/finetuned/, pretrain/backbones/
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitrine.artifacts import ArtifactError, read_csv, read_json
from vitrine.labels import CLASS_TASK
from vitrine.params import exit_on
from vitrine.reporting import markdown_table
from vitrine.scoring import with_interval

TASKS = (CLASS_TASK, "color", "material", "condition")
FULL = ("mobilevit_first", "mobilevit_second", "mobilevit", "deit_first", "deit_second", "deit", "deit_fourth")


def cells(table: pd.DataFrame, tasks: tuple[str, ...]) -> list[str]:
    rows = {row["task"]: {str(key): value for key, value in row.items()} for row in table.to_dict("records")}
    return [with_interval(rows[task], "accuracy") for task in tasks]


def main() -> None:
    exit_on(ArtifactError)
    print("Fine-tuning on Team 13's train and val photographs, 5 folds of items\n")
    tuned = {path.stem: read_csv(path) for path in sorted(Path("pretrain/finetuned").glob("*.csv"))}
    print(markdown_table(["start", *TASKS], [[name, *cells(table, TASKS)] for name, table in tuned.items()]))

    print("\nLinear probes on the same folds, and accuracy on 500 renders that no arm was trained on\n")
    header = ["arm", "seen", "renders: class", "renders: color", "renders: material", "probe: class", "probe: color"]
    rows = []
    for arm, table in read_csv(Path("pretrain/probe.csv")).groupby("backbone", sort=False):
        card = read_json(Path("pretrain/backbones") / f"{arm}.json")
        on_renders, on_team13 = (table[table["photographs"] == name] for name in ("renders", "team13"))
        seen = f"{card['samples_seen']:,}"
        rows.append([arm, seen, *cells(on_renders, TASKS[:3]), *cells(on_team13, TASKS[:2])])
    print(markdown_table(header, rows))

    print("\nOne training: accuracy on the 500 renders by photographs seen\n")
    for arm in FULL:
        card = read_json(Path("pretrain/backbones") / f"{arm}.json")
        history = card.get("accuracy_by_epoch")
        if history:
            num = len(history[CLASS_TASK])
            chosen = sorted({1, num // 8, num // 4, num // 2, 3 * num // 4, num} - {0})
            scores = [[f"{100 * history[task][epoch - 1]:.1f} %" for task in TASKS] for epoch in chosen]
            photographs = [f"{card['samples_seen'] * epoch // num:,}" for epoch in chosen]
            rows = [[first, *rest] for first, rest in zip(photographs, scores, strict=True)]
            print(markdown_table([arm, *TASKS], rows))


if __name__ == "__main__":
    main()
