"""Write the comparison of the models as Markdown, from metrics and tables alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from vitrine.artifacts import read_csv, read_json
from vitrine.labels import CLASS_TASK
from vitrine.metrics import ALL_TASKS

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class ReportData:
    """What the earlier stages measured. Columns are those that their writers document.

    Attributes:
        counts: metrics/split.json
        right: per model, the share of right class predictions for every test item
    """

    counts: Mapping[str, Any]
    scores: pd.DataFrame
    per_label: pd.DataFrame
    cost: pd.DataFrame
    retrieval: pd.DataFrame
    near_duplicates: pd.DataFrame
    right: pd.DataFrame

    @classmethod
    def read(cls, table: pd.DataFrame, predicted: Mapping[str, Sequence[str]]) -> ReportData:
        """Read the tables of split, evaluate and index.

        Args:
            table: the photographs (photos.csv).
            predicted: per model, the class of every photograph.

        Raises:
            ArtifactError: a file is missing or broken.
        """
        plots = Path("plots")
        test = (table["split"] == "test").to_numpy()
        right = {
            name: (pd.Series(labels) == table[CLASS_TASK].reset_index(drop=True))[test]
            .groupby(table["instance_id"].to_numpy()[test])
            .mean()
            for name, labels in predicted.items()
        }
        return cls(
            read_json(Path("metrics/split.json")),
            read_csv(plots / "evaluate/scores.csv"),
            read_csv(plots / "evaluate/per_label.csv"),
            read_csv(plots / "evaluate/cost.csv"),
            read_csv(plots / "index/retrieval.csv"),
            read_csv(plots / "split/near_duplicates.csv"),
            pd.DataFrame(right),
        )


def write_report(data: ReportData) -> str:
    """Return report.md; pictures are addressed from the folder report/."""
    models = list(data.cost["model"])
    sections = [
        "# How well the models see and find",
        *_verdict(data, models),
        "## Quality",
        *_quality(data, models),
        "## Cost",
        *_cost(data),
        "## Learning",
        "![Loss and macro F1 by epoch](../plots/evaluate/curves.png)",
        "## Confusion",
        *(f"![Confusion matrix of {name}](../plots/evaluate/confusion_{name}.png)" for name in models),
        "## Every class",
        *_classes(data, models),
        "## Mistakes",
        *(f"![The mistakes {name} is surest of](../plots/evaluate/mistakes_{name}.jpg)" for name in models),
        "## Embeddings",
        *(f"![Embeddings of {name} in two dimensions](../plots/evaluate/pca_{name}.png)" for name in models),
        "## Search",
        *_search(data, models),
        "## Data",
        *_data(data),
        "## How to make this report",
        "`dvc repro` writes it from params.yaml and the data; the same inputs give the same bytes. "
        "`dvc metrics diff`, `dvc params diff` and `dvc plots diff` compare it with another commit.",
    ]
    return "\n\n".join(sections) + "\n"


def percent(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f} %"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table; the first column is text, the others stand right. Pipes in cells are escaped."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _score(data: ReportData, model: str, split: str, task: str, metric: str) -> float:
    scores = data.scores
    row = scores[(scores["model"] == model) & (scores["split"] == split) & (scores["task"] == task)]
    return float(row[metric].iloc[0]) if len(row) else float("nan")


def compare_items(first: pd.Series, second: pd.Series) -> tuple[int, int, float]:
    """Compare two models item by item: items on which each has more views right, and the sign test's p-value.

    Views of an item are not independent, so the item is the unit.

    Source:
        exact two-sided sign test, ties left out (Conover, Practical Nonparametric Statistics, section 3.4).
    """
    wins, losses = int((first > second).sum()), int((first < second).sum())
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return wins, losses, p_value


def _verdict(data: ReportData, models: list[str]) -> list[str]:
    items = int(data.counts["items"]["test"])
    ranked = sorted(models, key=lambda name: -_score(data, name, "test", CLASS_TASK, "accuracy"))
    parameters = dict(zip(data.cost["model"], data.cost["parameters"], strict=True))
    best, smallest = ranked[0], min(models, key=lambda name: int(parameters[name]))
    lines = []
    for name in ranked:
        accuracy, majority = (
            _score(data, name, "test", CLASS_TASK, metric) for metric in ("accuracy", "majority_accuracy")
        )
        lines.append(
            f"- **{name}** names the class of {percent(accuracy)} of the test photographs right; always saying the "
            f"commonest class would get {percent(majority)}."
        )
    equals = [best]
    for other in ranked[1:]:
        wins, losses, p_value = compare_items(data.right[best], data.right[other])
        if p_value >= SIGNIFICANCE:
            equals.append(other)
        verdict = "is better than" if p_value < SIGNIFICANCE else "cannot be told from"
        lines.append(
            f"- {best} {verdict} {other} on these {items} test items: more views right on {wins}, fewer on {losses} "
            f"(sign test over items, p = {p_value:.2f})."
        )
    if smallest == best:
        lines.append(f"- Take **{best}**: it scores best and is the smallest.")
    elif smallest in equals:
        lines.append(f"- Take **{smallest}**, the smallest: that {best} is better cannot be shown.")
    else:
        lines.append(f"- Take **{best}** for quality, and **{smallest}** where size counts.")
    lines.append(
        f"- {items} items are few: one more or less moves the accuracy by about {percent(1 / items)}. The epoch was "
        "picked on val, so val scores flatter."
    )
    return ["\n".join(lines)]


def _quality(data: ReportData, models: list[str]) -> list[str]:
    header = [
        *("task", "model", "val accuracy", "val macro F1", "test accuracy", "test balanced", "test macro F1"),
        *("test weighted F1", "commonest label", "test photographs"),
    ]
    rows = []
    for task in dict.fromkeys(data.scores["task"]):
        for name in models:
            val = [percent(_score(data, name, "val", task, metric)) for metric in ("accuracy", "macro_f1")]
            metrics = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "majority_accuracy")
            test = [percent(_score(data, name, "test", task, metric)) for metric in metrics]
            shown = "all at once" if task == ALL_TASKS else task
            rows.append([shown, name, *val, *test, int(_score(data, name, "test", task, "n"))])
    return [
        markdown_table(header, rows),
        "Photographs without a label for a task do not count for it. `commonest label`: accuracy of always saying the "
        "label that is commonest in train. Balanced accuracy is the mean recall of the labels.",
    ]


def _cost(data: ReportData) -> list[str]:
    rows = [
        [
            row["model"],
            row["architecture"],
            f"{row['image_size_px']} px",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['checkpoint_bytes'] / 1e6:.1f} MB",
            f"{row['flops'] / 1e9:.2f} G",
        ]
        for row in data.cost.to_dict("records")
    ]
    header = ["model", "architecture", "image size", "parameters", "checkpoint", "FLOPs a photograph"]
    return [markdown_table(header, rows)]


def _classes(data: ReportData, models: list[str]) -> list[str]:
    table = data.per_label[data.per_label["task"] == CLASS_TASK].set_index(["model", "label"])
    rows = []
    for label in dict.fromkeys(table.index.get_level_values("label")):
        cells = [percent(table.loc[(name, label), key]) for name in models for key in ("precision", "recall", "f1")]
        rows.append([label.replace("_", " "), int(table.loc[(models[0], label), "n"]), *cells])
    columns = [f"{name} {key}" for name in models for key in ("precision", "recall", "F1")]
    return [
        markdown_table(["class", "test photographs", *columns], rows),
        "The other tasks' labels are in [per_label.csv](../plots/evaluate/per_label.csv).",
    ]


def _search(data: ReportData, models: list[str]) -> list[str]:
    k = int(data.retrieval["k"].iloc[0])
    rows = []
    for num_terms in sorted(set(data.retrieval["num_terms"])):
        group = data.retrieval[data.retrieval["num_terms"] == num_terms].set_index("model")
        asked = "all queries" if num_terms == 0 else f"{num_terms} label" + ("s" if num_terms > 1 else "")
        cells = [percent(group.loc[name, "precision_at_k"]) for name in models]
        rows.append([asked, int(group["num_queries"].iloc[0]), *cells, percent(group["random_precision_at_k"].iloc[0])])
    header = ["query", "number", *(f"{name} precision@{k}" for name in models), "random order"]
    return [
        "A photograph's document is its predicted labels; TF-IDF and cosine rank them. Queries are made of true "
        "labels; a hit is right if all of them are true of it. Searched are val and test: a model knows its training "
        "photographs by heart.",
        markdown_table(header, rows),
        *(f"![Example searches with {name}](../plots/index/searches_{name}.jpg)" for name in models),
    ]


def _data(data: ReportData) -> list[str]:
    counts = data.counts
    rows = [[split, counts["photos"][split], counts["items"][split]] for split in ("train", "val", "test")]
    labels = ", ".join(f"{task} {number}" for task, number in sorted(counts["labels"].items()))
    missing = ", ".join(f"{task} {number}" for task, number in sorted(counts["missing"].items()) if number) or "none"
    return [
        markdown_table(["split", "photographs", "items"], rows),
        f"Labels: {labels}. Photographs without a label (or with a masked one): {missing}. "
        f"Pairs of near duplicates across splits: {len(data.near_duplicates)}. No item is in two splits.",
        "![Photographs and items of every class in each split](../plots/split/class_by_split.png)",
    ]
