"""Write the tables of README.md and of pages in docs/ from the last runs: python tools/readme_tables.py.

Reads   plots/evaluate/scores.csv, plots/crossval/scores.csv, report/crossval_team13.csv, pretrain/curves/,
        plots/export/parity.csv, plots/index/matches.csv, plots/active/gains.csv, report/active_team13.csv,
        plots/video/scores.csv, plots/explain/faithfulness.csv, plots/ood/
Writes  PAGES, between `<!-- table NAME -->` and `<!-- end -->`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from vitrine.labels import CLASS_TASK, display_name, read_score_table
from vitrine.reporting.templating import markdown_table, percent, with_interval

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs/pretraining.md",
    ROOT / "docs/export.md",
    ROOT / "docs/search.md",
    ROOT / "docs/labeling.md",
    ROOT / "docs/video.md",
    ROOT / "docs/explain.md",
    ROOT / "docs/none_of_these.md",
)
COLUMNS = {
    "efficientnet": "EfficientNet-Lite0",
    "deit": "DeiT-Tiny",
    "mobilevit": "MobileViT-XXS",
    "ensemble": "ensemble",
    "linear_probe": "linear probe",
    "svm": "support vector machine",
    "majority": "most common label",
}
METHODS = {"random": "random map", "gaussian": "center spot", "random_network": "random weights"}
MEASURES = {"energy": "share of heat", "pointing": "hottest pixel"}
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def accuracy_table(scores: pd.DataFrame, system: str) -> str:
    """Return accuracies with their intervals: a row per task, a column per system. `system` is the systems' column."""
    cells: dict[str, dict[str, str]] = {}
    for row in scores.to_dict("records"):
        named = {str(key): value for key, value in row.items()}
        cells.setdefault(named["task"], {})[named[system]] = with_interval(named, "accuracy")
        if "majority_accuracy" in named:
            cells[named["task"]]["majority"] = percent(named["majority_accuracy"])
    shown = [name for name in COLUMNS if all(name in found for found in cells.values())]
    rows = [[display_name(task), *(found[name] for name in shown)] for task, found in cells.items()]
    return markdown_table(["accuracy", *(COLUMNS[name] for name in shown)], rows)


def curve_table(curves: Mapping[str, pd.DataFrame]) -> str:
    """Return the probes of several backbones: a row per number of pictures. Columns of the curves: see `probe.py`."""
    found = {
        (name, f"{task}_{pictures}"): with_interval(row, f"{task}_accuracy")
        for name, curve in curves.items()
        for pictures, row in curve.set_index("pictures").to_dict("index").items()
        for task in ("class", "color")
    }
    pictures = sorted({number for curve in curves.values() for number in curve["pictures"]})
    columns = [(name, task) for name in curves for task in ("class", "color")]
    rows = [
        [f"{number:,}", *(found.get((name, f"{task}_{number}"), "") for name, task in columns)] for number in pictures
    ]
    return markdown_table(["pictures", *(f"{COLUMNS[name]}, {task}" for name, task in columns)], rows)


def parity_table(parity: pd.DataFrame) -> str:
    """Return the share of photographs whose label changes, and the verdict: a row per system, a column per variant."""
    cells: dict[str, dict[str, str]] = {}
    for row in parity.to_dict("records"):
        verdict = "passes" if str(row["passed"]) == "True" else "**fails**"
        cells.setdefault(row["model"], {})[row["variant"]] = f"{percent(row['changed'])}, {verdict}"
    shown = list(dict.fromkeys(parity["variant"]))
    rows = [[COLUMNS[name], *(found.get(variant, "") for variant in shown)] for name, found in cells.items()]
    return markdown_table(["other labels", *shown], rows)


def matches_table(matches: pd.DataFrame) -> str:
    """Return the minimum score of a match, and how good the matches are: a row per system."""
    by_name = matches.set_index("model").to_dict("index")
    rows = [
        [COLUMNS[name], f"{row['least_score']:.2f}", percent(row["precision"]), percent(row["recall"])]
        for name, row in ((name, by_name[name]) for name in COLUMNS if name in by_name)
    ]
    return markdown_table(["matches by words", "least score", "precision", "recall"], rows)


def gains_table(gains: Mapping[str, pd.DataFrame]) -> str:
    """Return the gain of choosing items to label over random ones, in points, per strategy and dataset (columns)."""
    by_strategy = {name: table.set_index("strategy").to_dict("index") for name, table in gains.items()}
    rows = []
    for strategy in next(iter(gains.values()))["strategy"]:
        cells = []
        for found in by_strategy.values():
            row = found[strategy]
            gain, low, high = (100 * row[key] for key in ("gain", "gain_ci_low", "gain_ci_high"))
            compared = "" if strategy == "random" else f"; {gain:+.1f} [{low:+.1f}, {high:+.1f}]"
            cells.append(f"{percent(row['area'])}{compared}")
        rows.append([strategy, *cells])
    return markdown_table(["area; gain in points", *by_strategy], rows)


def video_table(scores: pd.DataFrame, system: str) -> str:
    """Return one system's accuracy on clips: a row per task, a column per method, and the gain of `fused`."""
    shown = {
        "single": "a random frame",
        "single_kept": "a random frame that is not dropped",
        "vote": "majority vote",
        "fused_all": "fused, nothing dropped",
        "fused": "fused",
    }
    rows = []
    for task, found in scores[scores["system"] == system].groupby("task", sort=False):
        methods = found.set_index("method").to_dict("index")
        single = methods["single"]
        points = [100 * single[f"accuracy_gain{end}"] for end in ("", "_ci_low", "_ci_high")]
        nats = [single[f"nll_gain{end}"] for end in ("", "_ci_low", "_ci_high")]
        rows.append(
            [
                display_name(str(task)),
                *(with_interval(methods[name], "accuracy") for name in shown),
                f"{points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}]",
                f"{nats[0]:+.2f} [{nats[1]:+.2f}, {nats[2]:+.2f}]",
            ]
        )
    header = ["accuracy", *shown.values(), "gain over a random frame, points", "its gain in likelihood, nats"]
    return markdown_table(header, rows)


def faithfulness_table(measured: pd.DataFrame) -> str:
    """Return the faithfulness of heat maps and controls on test: a row per task and method, a column per system."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in measured[(measured["split"] == "test") & (measured["measure"] == "faithfulness")].to_dict("records"):
        low, high = row["value_ci_low"], row["value_ci_high"]
        hidden = ", not shown" if row["method"] == "heat map" and not row["shown"] else ""
        cell = f"{row['value']:+.2f} [{low:+.2f}, {high:+.2f}]{hidden}"
        cells.setdefault((row["task"], row["method"]), {})[row["model"]] = cell
    shown = [name for name in COLUMNS if all(name in found for found in cells.values())]
    rows = [
        [display_name(task), METHODS.get(method, method), *(found[name] for name in shown)]
        for (task, method), found in cells.items()
    ]
    return markdown_table(["faithfulness", "", *(COLUMNS[name] for name in shown)], rows)


def object_table(measured: pd.DataFrame) -> str:
    """Return the share of heat on the object, for the class on test: a row per method, a column per system."""
    kept = measured[(measured["split"] == "test") & (measured["task"] == CLASS_TASK)]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for measure in ("energy", "pointing"):
        for row in kept[kept["measure"] == measure].to_dict("records"):
            cells.setdefault((measure, row["method"]), {})[row["model"]] = with_interval(row, "value")
    shown = [name for name in COLUMNS if cells and all(name in found for found in cells.values())]
    rows = [
        [MEASURES[measure], METHODS.get(method, method), *(found[name] for name in shown)]
        for (measure, method), found in cells.items()
    ]
    return markdown_table(["class, on the object", "", *(COLUMNS[name] for name in shown)], rows)


def refusals_table(scores: pd.DataFrame) -> str:
    """Return how well the served score detects outliers, and its cost: a row per system."""
    served = scores[scores["served"] & (scores["use"] == "judge") & (scores["kind"] == "all")]
    columns = {
        "auroc": "AUROC",
        "fpr_at_95_tpr": "FPR at 95 % TPR",
        "refused": "refused",
        "known_refused": "wrongly refused",
    }
    by_name = served.set_index("system").to_dict("index")
    rows = [
        [
            COLUMNS[name],
            by_name[name]["score"].replace("_", " "),
            *(with_interval(by_name[name], key) for key in columns),
        ]
        for name in COLUMNS
        if name in by_name
    ]
    return markdown_table(["system", "score", *columns.values()], rows)


def photos_table(photos: pd.DataFrame) -> str:
    """Return the refusals of real photographs, of other things and of the same classes: a row per system."""
    found = {(row["system"], row["group"]): row for row in photos.to_dict("records")}
    groups = list(dict.fromkeys(photos["group"]))
    header = ["system", "AUROC", "FPR at 95 % TPR"]
    header += [f"refused of {found[photos['system'].iloc[0], group]['n']} {group}" for group in groups]
    rows = []
    for name in [each for each in COLUMNS if (each, groups[0]) in found]:
        other = found[name, groups[0]]
        cells = [with_interval(other, "auroc"), with_interval(other, "fpr")]
        rows.append([COLUMNS[name], *cells, *(with_interval(found[name, group], "refused") for group in groups)])
    return markdown_table(header, rows)


def tables() -> dict[str, str]:
    test, photos = read_score_table(ROOT / "plots/evaluate/scores.csv"), ROOT / "plots/ood/photos.csv"
    curves = {name: read_score_table(ROOT / f"pretrain/curves/{name}.csv") for name in ("deit", "mobilevit")}
    simulated = {"sample": "plots/active/gains.csv", "Team 13's photographs": "report/active_team13.csv"}
    heatmaps = read_score_table(ROOT / "plots/explain/faithfulness.csv")
    return {
        "faithfulness": faithfulness_table(heatmaps),
        "object": object_table(heatmaps),
        "active": gains_table({name: read_score_table(ROOT / path) for name, path in simulated.items()}),
        "curve": curve_table(curves),
        "matches": matches_table(read_score_table(ROOT / "plots/index/matches.csv")),
        "ood": refusals_table(read_score_table(ROOT / "plots/ood/scores.csv")),
        "ood_photos": photos_table(read_score_table(photos)) if photos.is_file() else "Not measured yet: `make ood`.",
        "parity": parity_table(read_score_table(ROOT / "plots/export/parity.csv")),
        "test": accuracy_table(test[test["split"] == "test"], "model"),
        "team13": accuracy_table(read_score_table(ROOT / "report/crossval_team13.csv"), "system"),
        "video": video_table(read_score_table(ROOT / "plots/video/scores.csv"), "ensemble"),
        "crossval": accuracy_table(read_score_table(ROOT / "plots/crossval/scores.csv"), "system"),
    }


def with_tables(text: str) -> str:
    """Return a text with every marked table updated from the last runs. Raises: KeyError: a name is unknown."""
    found = tables()
    return MARKED.sub(lambda match: f"{match[1]}\n{found[match[2]]}\n\n{match[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
