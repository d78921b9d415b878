"""Write the comparison of the systems as Markdown, from metrics and tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from vitrine.artifacts import read_json, read_text
from vitrine.evaluation.metrics import ALL_TASKS
from vitrine.evaluation.scoring import MIN_PHOTOS
from vitrine.inference.wording import CERTAINTIES
from vitrine.labels import CLASS_TASK, display_name, read_photo_table, read_score_table
from vitrine.reporting.templating import SIGNIFICANCE, percent, points, render, with_interval

BASELINE = "svm"
PROBE = "linear_probe"
UNRELIABLE = CERTAINTIES["unreliable"]
ALL_KINDS = "all"
"""All outlier kinds together; repeats evaluation/novelty.py, whose import would make it a cross-validation dep."""

HEATMAP = "heat map"
HEATMAP_CONTROLS = ("random", "gaussian", "random_network")
HEATMAP_COLUMNS = {
    "task": "task",
    "model": "system",
    "faithfulness": "faithfulness",
    "random": "minus random",
    "gaussian": "minus center",
    "random_network": "minus random weights",
    "pointing": "hottest on object",
    "energy": "heat on object",
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReportData:
    """Measurements of the earlier stages. Columns are documented where the tables are written.

    Attributes:
        photos: the photographs (photos.csv)
        counts: data/splits/counts.json
        params: params.yaml, as text
    """

    photos: pd.DataFrame
    counts: Mapping[str, Any]
    params: str
    scores: pd.DataFrame
    comparisons: pd.DataFrame
    calibration: pd.DataFrame
    per_label: pd.DataFrame
    cost: pd.DataFrame
    retrieval: pd.DataFrame
    views: pd.DataFrame
    gains: pd.DataFrame
    near_duplicates: pd.DataFrame
    explained: pd.DataFrame
    novelty: pd.DataFrame

    @classmethod
    def read(cls) -> ReportData:
        """Read the tables of split, evaluate, index, explain and ood.

        Raises:
            ArtifactError: a file is missing or broken.
        """
        plots = Path("plots")
        return cls(
            read_photo_table(Path("data/splits/photos.csv")),
            read_json(Path("data/splits/counts.json")),
            read_text(Path("params.yaml")),
            read_score_table(plots / "evaluate/scores.csv"),
            read_score_table(plots / "evaluate/comparisons.csv"),
            read_score_table(plots / "evaluate/calibration.csv"),
            read_score_table(plots / "evaluate/per_label.csv"),
            read_score_table(plots / "evaluate/cost.csv"),
            read_score_table(plots / "index/retrieval.csv"),
            read_score_table(plots / "index/views.csv"),
            read_score_table(plots / "index/gains.csv"),
            read_score_table(plots / "split/near_duplicates.csv"),
            read_score_table(plots / "explain/faithfulness.csv"),
            read_score_table(plots / "ood/scores.csv"),
        )

    @property
    def systems(self) -> list[str]:
        """The networks and their ensemble."""
        return list(dict.fromkeys(self.calibration["model"]))


def write_report(data: ReportData) -> str:
    """Return report.md; addresses of pictures are relative to report/."""
    tasks = list(dict.fromkeys(data.comparisons["task"]))
    of_class = {name: _row(data, name, "val", CLASS_TASK)["accuracy"] for name in data.systems}
    best = max(data.systems, key=lambda name: of_class[name])
    sure = data.calibration[(data.calibration["model"] == best) & (data.calibration["task"] == CLASS_TASK)]
    others = [name for name in data.systems if name != best and _loses(data, name, PROBE)]
    at_once = data.retrieval["num_terms"] == 0
    return render(
        "report.md.j2",
        systems=data.systems,
        tasks=tasks,
        probe=PROBE,
        baseline=BASELINE,
        unreliable=UNRELIABLE,
        all_tasks=ALL_TASKS,
        min_photos=MIN_PHOTOS,
        best=best,
        on_val=of_class[best],
        row=_row(data, best, "test", CLASS_TASK),
        scorecard=_scorecard(data, best),
        against_probe=difference(data.comparisons, best, PROBE, CLASS_TASK),
        against_baseline=difference(data.comparisons, best, BASELINE, CLASS_TASK),
        losses={name: difference(data.comparisons, name, PROBE, CLASS_TASK) for name in others},
        recommended=_recommended(data, best),
        num_items=int(data.counts["items"]["test"]),
        sure=dict(sure.iloc[0]),
        quality={task: _quality(data, task) for task in dict.fromkeys(data.scores["task"])},
        differences=_differences(data, tasks),
        confidence=_confidence(data),
        cost=_cost(data),
        classes=_classes(data),
        search={row["model"]: row for row in data.gains.to_dict("records")},
        retrieval_header=retrieval_header(data.retrieval),
        retrieval=retrieval_rows(data.retrieval[at_once]),
        by_terms=retrieval_rows(data.retrieval[~at_once]),
        heatmap_header=[*HEATMAP_COLUMNS.values(), "shown"],
        heatmaps=_heatmaps(data),
        shown_heatmaps=_shown_heatmaps(data),
        has_masks=bool((data.explained["measure"] == "energy").any()),
        views=[[row["model"], with_interval(row, "recall")] for row in data.views.to_dict("records")],
        k=int(data.retrieval["k"].iloc[0]),
        split_counts=[
            [split, data.counts["photos"][split], data.counts["items"][split]] for split in ("train", "val", "test")
        ],
        task_counts=_task_counts(data),
        refusal=_refusal(data, best),
        novelty=_novelty(data),
        num_near_duplicates=len(data.near_duplicates),
        networks=[f"{row['model']} ({row['architecture']})" for row in data.cost.to_dict("records")],
        params=data.params,
        dataset=yaml.safe_load(data.params)["data"]["path"],
        num_classes=int(data.counts["labels"][CLASS_TASK]),
    )


def _row(data: ReportData, model: str, split: str, task: str) -> Row:
    scores = data.scores
    rows = scores[(scores["model"] == model) & (scores["split"] == split) & (scores["task"] == task)]
    return {str(key): value for key, value in rows.iloc[0].items()} if len(rows) else {}


def difference(comparisons: pd.DataFrame, first: str, second: str, task: str = CLASS_TASK) -> Row:
    """Return the comparison of two systems on a task, first minus second, whatever the order in the table."""
    table = comparisons[comparisons["task"] == task]
    forward = table[(table["first"] == first) & (table["second"] == second)]
    if len(forward):
        return {str(key): value for key, value in forward.iloc[0].items()}
    row = table[(table["first"] == second) & (table["second"] == first)].iloc[0]
    turned = {"difference": -row["difference"], "p_value": row["p_value"]}
    return turned | {"difference_ci_low": -row["difference_ci_high"], "difference_ci_high": -row["difference_ci_low"]}


def _scorecard(data: ReportData, best: str) -> list[tuple[str, str]]:
    """Return the names and values of the five most important numbers of the system chosen on val."""
    tasks = list(dict.fromkeys(data.calibration["task"]))[:2]
    rows = {task: _row(data, best, "test", task) for task in tasks}
    search = data.retrieval.query("model == @best and method == 'soft_and' and num_terms == 0")
    return [
        *((f"{display_name(task)} right", with_interval(row, "accuracy")) for task, row in rows.items()),
        ("items right, views combined", f"{int(rows[CLASS_TASK]['item_right'])} of {int(rows[CLASS_TASK]['item_n'])}"),
        ("search, mAP", with_interval(dict(search.iloc[0]), "map")),
        ("other views found", with_interval(dict(data.views.query("model == @best").iloc[0]), "recall")),
    ]


def _loses(data: ReportData, first: str, second: str) -> bool:
    row = difference(data.comparisons, first, second)
    return bool(row["p_value"] < SIGNIFICANCE and row["difference"] < 0)


def _recommended(data: ReportData, best: str) -> str:
    """Return the smallest network that neither the best system on val nor the probe beats, or the probe if it wins."""
    if _loses(data, best, PROBE):
        return PROBE
    by_size = data.cost.sort_values("parameters", kind="stable")["model"]
    equals = (name for name in by_size if name == best or not (_loses(data, name, best) or _loses(data, name, PROBE)))
    return next(equals, best)


def _quality(data: ReportData, task: str) -> list[list[str]]:
    rows = []
    for name in [*data.systems, PROBE, BASELINE]:
        test, val = _row(data, name, "test", task), _row(data, name, "val", task)
        if task == ALL_TASKS:
            rows.append([name, with_interval(test, "accuracy"), percent(val["accuracy"])])
            continue
        by_item = ""
        if test["item_n"] > 0:
            by_item = f"{int(test['item_right'])}/{int(test['item_n'])}, {with_interval(test, 'item_accuracy')}"
        cells = [with_interval(test, "accuracy"), by_item, with_interval(test, "macro_f1"), percent(val["accuracy"])]
        rows.append([name, *cells])
    if task != ALL_TASKS:
        test, val = (_row(data, BASELINE, split, task) for split in ("test", "val"))
        cells = [percent(test["majority_accuracy"]), "", "", percent(val["majority_accuracy"])]
        rows.append(["most common label", *cells])
    return rows


def _differences(data: ReportData, tasks: list[str]) -> list[list[str]]:
    table = data.comparisons
    return [
        [f"{first} minus {second}", *(points(difference(table, first, second, task)) for task in tasks)]
        for first, second in dict.fromkeys(zip(table["first"], table["second"], strict=True))
    ]


def _confidence(data: ReportData) -> list[list[Any]]:
    tasks = list(dict.fromkeys(data.calibration["task"]))
    rows = sorted(data.calibration.to_dict("records"), key=lambda row: tasks.index(row["task"]))
    return [
        [
            row["task"],
            row["model"],
            f"{row['temperature']:.2f}",
            *(f"{row[f'{key}_before']:.3f} \u2192 {row[f'{key}_after']:.3f}" for key in ("nll", "brier", "ece")),
            UNRELIABLE if pd.isna(row["sure_threshold"]) else f"{row['sure_threshold']:.2f}",
            percent(row["coverage"]),
            int(row["sure_items"]),
            percent(row["sure_accuracy"]),
        ]
        for row in rows
    ]


def _cost(data: ReportData) -> list[list[str]]:
    return [
        [
            row["model"],
            row["architecture"],
            f"{row['image_size_px']} px",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['flops'] / 1e9:.2f} G",
            row["device"],
            "no task" if pd.isna(row["ensemble_tasks"]) else row["ensemble_tasks"],
        ]
        for row in data.cost.to_dict("records")
    ]


def _classes(data: ReportData) -> list[list[Any]]:
    table = data.per_label[data.per_label["task"] == CLASS_TASK].set_index(["model", "label"])
    rows = []
    for label in dict.fromkeys(table.index.get_level_values("label")):
        cells = [percent(table.loc[(name, label), "f1"]) for name in data.systems]
        rows.append([display_name(label), int(table.loc[(data.systems[0], label), "n"]), *cells])
    return rows


def retrieval_header(table: pd.DataFrame) -> list[str]:
    k = int(table["k"].iloc[0])
    return ["query", "model", "method", "queries", "mAP", "nDCG@10", f"precision@{k}", "recall@10"]


def retrieval_rows(table: pd.DataFrame) -> list[list[Any]]:
    """Return the rows of `relevance.measure_text`, by number of labels in the query; oracle and random ones once."""
    first, rows = table["model"].iloc[0], []
    for row in table.sort_values("num_terms", kind="stable").to_dict("records"):
        is_reference, num_terms = row["method"] in ("oracle", "random"), row["num_terms"]
        if is_reference and row["model"] != first:
            continue  # the same for every model
        query = "all queries" if num_terms == 0 else f"{num_terms} label" + ("s" if num_terms > 1 else "")
        measured = [percent(row[key]) for key in ("ndcg_at_10", "precision_at_k", "recall_at_10")]
        cells = ["" if is_reference else row["model"], row["method"], int(row["num_queries"])]
        rows.append([query, *cells, with_interval(row, "map"), *measured])
    return rows


def _heatmaps(data: ReportData) -> list[list[Any]]:
    """Return a row per system and task: the measures of its heat maps on test, and their gain over each control."""
    test = data.explained[data.explained["split"] == "test"]
    rows = []
    for (model, task), measured in test.groupby(["model", "task"], sort=False):
        of = {(row["measure"], row["method"]): row for row in measured.to_dict("records")}
        own = of["faithfulness", HEATMAP]
        cells = [with_signed_interval(own, "value")]
        cells += [with_signed_interval(of["faithfulness", each], "difference") for each in HEATMAP_CONTROLS]
        cells += [with_interval(of.get((each, HEATMAP), {}), "value") for each in ("pointing", "energy")]
        rows.append([task, model, *cells, "yes" if own["shown"] else "no"])
    tasks = list(dict.fromkeys(row[0] for row in rows))
    return sorted(rows, key=lambda row: tasks.index(row[0]))


def with_signed_interval(row: Mapping[Any, Any], name: str) -> str:
    """Format a value in [-2, 2] and its interval, such as "+0.12 [+0.03, +0.21]"."""
    low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
    return f"{row[name]:+.2f} [{low:+.2f}, {high:+.2f}]"


def _shown_heatmaps(data: ReportData) -> dict[str, list[str]]:
    """Return the tasks whose heat maps are shown, by system."""
    pairs = data.explained.groupby(["model", "task"], sort=False)["shown"].first()
    return {
        model: [display_name(str(task)) for task, shown in pairs[model].items() if shown]
        for model in dict.fromkeys(pairs.index.get_level_values(0))
    }


def _of_use(data: ReportData, use: str) -> pd.DataFrame:
    """Return the measured rows of `novelty.judge_scores` for the outliers of one use: "choose" or "judge"."""
    return data.novelty[(data.novelty["use"] == use) & (data.novelty["n"] > 0)]


def _refusal(data: ReportData, best: str) -> dict[str, Any]:
    """Return what a system's served score refuses, in total and by kind of outlier."""
    kinds = {
        use: [k for k in dict.fromkeys(_of_use(data, use)["kind"]) if k != ALL_KINDS] for use in ("choose", "judge")
    }
    rows = data.novelty[(data.novelty["system"] == best) & data.novelty["served"] & (data.novelty["use"] == "judge")]
    by_kind = {row["kind"]: row for row in rows.to_dict("records")}
    return {"kinds": kinds, "row": by_kind[ALL_KINDS], "of_kinds": [by_kind[kind] for kind in kinds["judge"]]}


def _novelty(data: ReportData) -> list[list[Any]]:
    """Return a row per score and system: results on test and judging outliers, and the AUROC used to choose."""
    choose = _of_use(data, "choose").query("kind != @ALL_KINDS").groupby(["score", "system"])["auroc"].mean()
    rows = []
    for row in (
        _of_use(data, "judge").query("kind == @ALL_KINDS").sort_values("score", kind="stable").to_dict("records")
    ):
        cells = [with_interval(row, name) for name in ("auroc", "fpr_at_95_tpr", "refused", "known_refused")]
        on_val = choose.get((row["score"], row["system"]), float("nan"))
        name = row["score"].replace("_", " ")
        rows.append([f"**{name}**" if row["served"] else name, row["system"], *cells, percent(on_val)])
    return rows


def _task_counts(data: ReportData) -> list[list[Any]]:
    rows = []
    for task in sorted(data.counts["labels"], key=lambda name: (name != CLASS_TASK, name)):
        numbers = data.photos[task].value_counts()
        commonest, rarest = (f"{display_name(numbers.index[k])} {numbers.iloc[k]}" for k in (0, -1))
        few = int((numbers < MIN_PHOTOS).sum())
        cells = [data.counts["labels"][task], commonest, rarest, f"{numbers.iloc[0] / numbers.iloc[-1]:.1f}", few]
        rows.append([task, *cells, data.counts["missing"].get(task, 0)])
    return rows
