"""README's tables are the committed scores."""

from __future__ import annotations

import re

import pandas as pd

from readme_tables import ROOT, accuracy_table, with_tables

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_marked_table_is_what_the_last_runs_say() -> None:
    assert set(re.findall(r"<!-- table (\w+) -->", TEXT)) == {"test", "crossval"}
    assert with_tables(TEXT) == TEXT, "Run: python tools/readme_tables.py"


def test_a_table_has_a_row_a_task_and_the_systems_that_all_tasks_have() -> None:
    row = {"accuracy": 0.5, "accuracy_ci_low": 0.25, "accuracy_ci_high": 0.75}
    scores = pd.DataFrame(
        [{"task": task, "system": name, **row} for task in ("class", "my_size") for name in ("svm", "deit")]
        + [{"task": "class", "system": "ensemble", **row}]
    )
    assert accuracy_table(scores, "system").splitlines() == [
        "| accuracy | DeiT-Tiny | support vector machine |",
        "| --- | ---: | ---: |",
        "| class | 50.0 % [25, 75] | 50.0 % [25, 75] |",
        "| my size | 50.0 % [25, 75] | 50.0 % [25, 75] |",
    ]


def test_links_and_pictures_lead_to_files() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), (page, target)
