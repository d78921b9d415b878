"""The tables in README match the committed scores."""

from __future__ import annotations

import re

import pandas as pd

from readme_tables import PAGES, ROOT, accuracy_table, curve_table, with_tables


def test_every_marked_table_matches_the_last_runs() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    marked = [set(re.findall(r"<!-- table (\w+) -->", text)) for text in texts]
    assert marked == [
        {"test", "crossval", "team13"},
        {"curve", "team13"},
        {"parity"},
        {"matches"},
        {"active"},
        {"video"},
        {"faithfulness", "object"},
        {"ood", "ood_photos"},
    ]
    assert list(map(with_tables, texts)) == texts, "Run: make readme"


def test_a_curve_has_one_row_per_number_of_pictures() -> None:
    ends = {f"{task}_accuracy{end}": 0.5 for task in ("class", "color") for end in ("", "_ci_low", "_ci_high")}
    curves = {
        "deit": pd.DataFrame([{"pictures": 0, **ends}, {"pictures": 2000, **ends}]),
        "mobilevit": pd.DataFrame([{"pictures": 0, **ends}]),
    }
    assert curve_table(curves).splitlines() == [
        "| pictures | DeiT-Tiny, class | DeiT-Tiny, color | MobileViT-XXS, class | MobileViT-XXS, color |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 0 | 50.0 % [50, 50] | 50.0 % [50, 50] | 50.0 % [50, 50] | 50.0 % [50, 50] |",
        "| 2,000 | 50.0 % [50, 50] | 50.0 % [50, 50] |  |  |",
    ]


def test_a_table_has_one_row_per_task_and_the_systems_common_to_all_tasks() -> None:
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


def test_links_and_pictures_point_to_files() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), (page, target)
