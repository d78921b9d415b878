"""Write the comparison of the systems as Markdown, from metrics and tables alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vitrine.artifacts import read_json, read_text
from vitrine.evaluation.metrics import ALL_TASKS
from vitrine.evaluation.scoring import MIN_PHOTOS, with_interval
from vitrine.labels import CLASS_TASK, display_name, read_measures, read_photos

SIGNIFICANCE = 0.05
BASELINE = "svm"
PROBE = "linear_probe"
PROBE_IN_WORDS = (
    "logistic regression on frozen features of EfficientNet-Lite0 with ImageNet's weights, which is what five lines of "
    "code give without this project"
)
UNRELIABLE = "unreliable on this data"


@dataclass(frozen=True)
class ReportData:
    """What the earlier stages measured. Columns are those that their writers document.

    Attributes:
        photos: the photographs (photos.csv)
        counts: metrics/split.json
        params: params.yaml, as it stands
        search: metrics/retrieval.json
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
    search: Mapping[str, Any]
    near_duplicates: pd.DataFrame

    @classmethod
    def read(cls) -> ReportData:
        """Read the tables of split, evaluate and index.

        Raises:
            ArtifactError: a file is missing or broken.
        """
        plots = Path("plots")
        return cls(
            read_photos(Path("data/splits/photos.csv")),
            read_json(Path("metrics/split.json")),
            read_text(Path("params.yaml")),
            read_measures(plots / "evaluate/scores.csv"),
            read_measures(plots / "evaluate/comparisons.csv"),
            read_measures(plots / "evaluate/calibration.csv"),
            read_measures(plots / "evaluate/per_label.csv"),
            read_measures(plots / "evaluate/cost.csv"),
            read_measures(plots / "index/retrieval.csv"),
            read_measures(plots / "index/views.csv"),
            read_json(Path("metrics/retrieval.json")),
            read_measures(plots / "split/near_duplicates.csv"),
        )

    @property
    def systems(self) -> list[str]:
        """The networks and their ensemble."""
        return list(dict.fromkeys(self.calibration["model"]))

    @property
    def networks(self) -> list[str]:
        return list(self.cost["model"])


def write_report(data: ReportData) -> str:
    """Return report.md; pictures are addressed from the folder report/."""
    systems = data.systems
    sections = [
        "# How well the models see and find",
        *_verdict(data),
        "## Quality",
        *_quality(data),
        "## Differences",
        *_differences(data),
        "## Confidence",
        *_confidence(data),
        "## Cost",
        *_cost(data),
        "## Learning",
        "![Loss and macro F1 by epoch](../plots/evaluate/curves.png)",
        "## Confusion",
        *(f"![Confusion matrix of {name}](../plots/evaluate/confusion_{name}.png)" for name in systems),
        "## Every class",
        *_classes(data, systems),
        "## Mistakes",
        *(f"![Classes that {name} mixes up](../plots/evaluate/mistakes_{name}.jpg)" for name in systems),
        "## Embeddings",
        *(f"![Embeddings of {name} in two dimensions](../plots/evaluate/pca_{name}.png)" for name in systems),
        "## Search",
        *_search(data, systems),
        "## Data card",
        *_data(data),
        "## Model card",
        *_model_card(data),
        "## How to make this report",
        *_reproduction(data),
    ]
    return "\n\n".join(sections) + "\n"


def percent(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f} %"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table; the first column is text, the others stand right. Pipes in cells are escaped."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _row(data: ReportData, model: str, split: str, task: str) -> dict[str, Any]:
    scores = data.scores
    rows = scores[(scores["model"] == model) & (scores["split"] == split) & (scores["task"] == task)]
    return {str(key): value for key, value in rows.iloc[0].items()} if len(rows) else {}


def difference(comparisons: pd.DataFrame, first: str, second: str, task: str) -> dict[str, Any]:
    """Return the comparison of two systems on a task, first minus second, whichever way round it was made."""
    table = comparisons[comparisons["task"] == task]
    forward = table[(table["first"] == first) & (table["second"] == second)]
    if len(forward):
        return {str(key): value for key, value in forward.iloc[0].items()}
    row = table[(table["first"] == second) & (table["second"] == first)].iloc[0]
    turned = {"difference": -row["difference"], "p_value": row["p_value"]}
    return turned | {"difference_ci_low": -row["difference_ci_high"], "difference_ci_high": -row["difference_ci_low"]}


def difference_in_points(row: Mapping[str, Any]) -> str:
    """Write a difference of accuracies with its interval and p-value."""
    gain, low, high = (100 * row[key] for key in ("difference", "difference_ci_low", "difference_ci_high"))
    p_value = "p < 0.001" if row["p_value"] < 0.0005 else f"p = {row['p_value']:.3f}"
    return f"{gain:+.1f} points [{low:+.0f}, {high:+.0f}], {p_value}"


def comparison_sentence(first: str, second: str, comparisons: pd.DataFrame, task: str = CLASS_TASK) -> str:
    """Say whether one system names more labels right than another, or that no difference can be shown."""
    row = difference(comparisons, first, second, task)
    if row["p_value"] >= SIGNIFICANCE:
        return f"No difference between **{first}** and **{second}** can be shown ({difference_in_points(row)})."
    return f"**{first}** {'beats' if row['difference'] > 0 else 'loses to'} **{second}** ({difference_in_points(row)})."


def _verdict(data: ReportData) -> list[str]:
    items = int(data.counts["items"]["test"])
    rows = {name: _row(data, name, "test", CLASS_TASK) for name in data.systems}
    on_val = {name: _row(data, name, "val", CLASS_TASK)["accuracy"] for name in data.systems}
    best = max(data.systems, key=lambda name: on_val[name])
    row = rows[best]
    lines = [
        f"- **{best}**, chosen on val ({percent(on_val[best])} there, the most), names the class of "
        f"{with_interval(row, 'accuracy')} of the test photographs right, and of {int(row['item_right'])} of "
        f"{int(row['item_n'])} items from all their views; always saying the commonest class would get "
        f"{percent(row['majority_accuracy'])}.",
        f"- {comparison_sentence(best, PROBE, data.comparisons)} `{PROBE}` is {PROBE_IN_WORDS}.",
        f"- {comparison_sentence(best, BASELINE, data.comparisons)} `{BASELINE}` is a support vector machine on "
        "histograms.",
        *(f"- {said}" for said in _losses(data, best)),
        f"- {_recommendation(data, best)}",
    ]
    lines.append(
        f"- {items} test items are few: one more or less moves the accuracy by about {percent(1 / items)}. "
        "[Cross-validation](crossval.md) uses every item."
    )
    of_class = data.calibration[(data.calibration["model"] == best) & (data.calibration["task"] == CLASS_TASK)]
    lines.append(f"- Is it sure when it says so? {_sureness(dict(of_class.iloc[0]))}")
    return ["\n".join(lines)]


def _loses(data: ReportData, first: str, second: str) -> bool:
    row = difference(data.comparisons, first, second, CLASS_TASK)
    return bool(row["p_value"] < SIGNIFICANCE and row["difference"] < 0)


def _losses(data: ReportData, best: str) -> list[str]:
    """Name the other systems that lose to the linear probe."""
    others = [name for name in data.systems if name != best and _loses(data, name, PROBE)]
    return [comparison_sentence(name, PROBE, data.comparisons) for name in others]


def _recommendation(data: ReportData, best: str) -> str:
    """Recommend the smallest network that the system best on val does not beat, unless the linear probe beats that."""
    if _loses(data, best, PROBE):
        return f"Take **{PROBE}**: on this data it beats every system here that val would choose."
    by_size = data.cost.sort_values("parameters", kind="stable")["model"]
    equals = [name for name in by_size if name == best or not (_loses(data, name, best) or _loses(data, name, PROBE))]
    if not equals or equals[0] == best:
        return f"Take **{best}**."
    return f"Take **{equals[0]}**: that **{best}** is better cannot be shown, and no smaller network is as good."


def _sureness(row: Mapping[str, Any]) -> str:
    if pd.isna(row["sure_threshold"]):
        return "It never says so: val does not show of any confidence that its answers are right often enough."
    if not row["coverage"]:
        return f"No test photograph reaches its threshold ({row['sure_threshold']:.2f})."
    return (
        f"From its threshold ({row['sure_threshold']:.2f}) on lie {percent(row['coverage'])} of the test photographs, "
        f"which are of {int(row['sure_items'])} items; of those photographs {percent(row['sure_accuracy'])} are right."
    )


def _quality(data: ReportData) -> list[str]:
    header = [
        *("task", "system", "test accuracy", "items, views fused", "test macro F1", "test balanced", "val accuracy"),
        *("commonest label", "test photographs"),
    ]
    rows = []
    for task in dict.fromkeys(data.scores["task"]):
        for name in [*data.systems, PROBE, BASELINE]:
            test, val = _row(data, name, "test", task), _row(data, name, "val", task)
            by_item = ""
            if task != ALL_TASKS and test["item_n"] > 0:
                by_item = f"{int(test['item_right'])}/{int(test['item_n'])}, {with_interval(test, 'item_accuracy')}"
            cells = [with_interval(test, "accuracy"), by_item, with_interval(test, "macro_f1")]
            cells += [percent(test["balanced_accuracy"]), percent(val["accuracy"])]
            shown = "all at once" if task == ALL_TASKS else task
            rows.append([shown, name, *cells, percent(test["majority_accuracy"]), int(test["n"])])
    return [
        markdown_table(header, rows),
        "In brackets are 95 % intervals over items, since views of one item are alike. `items, views fused`: items "
        "that are right when the probabilities of their views are multiplied. `ensemble`: the mean of the calibrated "
        f"probabilities of {_ensemble_in_words(data)}. `{PROBE}`: {PROBE_IN_WORDS}. `svm`: a support vector machine on "
        "histograms of gradients and colors. "
        "`commonest label`: accuracy of always saying the label that is commonest in train. Balanced accuracy is the "
        "mean recall of the labels. Photographs without a label for a task do not count for it. The epoch, the "
        "temperatures, the thresholds, the members of the ensemble and the system named first were picked on val, so "
        "val scores flatter.",
    ]


def _differences(data: ReportData) -> list[str]:
    table = data.comparisons
    tasks = list(dict.fromkeys(table["task"]))
    rows = []
    for first, second in dict.fromkeys(zip(table["first"], table["second"], strict=True)):
        cells = [difference_in_points(difference(table, first, second, task)) for task in tasks]
        rows.append([f"{first} minus {second}", *cells])
    return [
        markdown_table(["accuracy on test", *tasks], rows),
        "Points are percentage points with 95 % intervals. p is of a sign-flip permutation test over items. With many "
        "pairs and tasks, one in twenty falls below 0.05 by chance.",
    ]


def _confidence(data: ReportData) -> list[str]:
    rows = [
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
        for row in data.calibration.sort_values("task", kind="stable", key=_order(data)).to_dict("records")
    ]
    header = [
        "task",
        "system",
        "temperature",
        "NLL",
        "Brier",
        "ECE",
        "sure from",
        "share sure",
        "items",
        "right of those",
    ]
    return [
        markdown_table(header, rows),
        "One temperature a task is fitted on val; the scores are of test, before and after. NLL: mean negative "
        "log-likelihood in nats. Brier: mean squared distance, 0 to 2. ECE: expected calibration error over bins of "
        "equal numbers. `sure from`: the confidence from which on val shows, counted by item and at a risk of 5 %, "
        "that at least evaluate.sure_accuracy of the answers are right; below it the answer is \u201cnot sure\u201d. "
        f"\u201c{UNRELIABLE}\u201d: there is no such confidence, and no answer of the task is called sure.",
        "![Reliability, and accuracy against coverage](../plots/evaluate/calibration.png)",
    ]


def _order(data: ReportData) -> Any:
    place = {task: number for number, task in enumerate(dict.fromkeys(data.calibration["task"]))}
    return lambda column: column.map(place)


def _cost(data: ReportData) -> list[str]:
    rows = [
        [
            row["model"],
            row["architecture"],
            f"{row['image_size_px']} px",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['flops'] / 1e9:.2f} G",
            row["device"],
        ]
        for row in data.cost.to_dict("records")
    ]
    header = ["network", "architecture", "image size", "parameters", "FLOPs a photograph", "predicted on"]
    return [
        markdown_table(header, rows),
        f"The ensemble costs the sum of its members: {_ensemble_in_words(data)}.",
    ]


def _ensemble_in_words(data: ReportData) -> str:
    members = list(data.cost.loc[data.cost["in_ensemble"].astype(bool), "model"])
    left_out = [name for name in data.networks if name not in members]
    said = " and ".join(members) if len(members) > 1 else f"{members[0]} alone"
    return f"{said} ({' and '.join(left_out)} did not help on val)" if left_out else said


def _classes(data: ReportData, models: list[str]) -> list[str]:
    table = data.per_label[data.per_label["task"] == CLASS_TASK].set_index(["model", "label"])
    rows = []
    for label in dict.fromkeys(table.index.get_level_values("label")):
        cells = [percent(table.loc[(name, label), key]) for name in models for key in ("precision", "recall", "f1")]
        rows.append([display_name(label), int(table.loc[(models[0], label), "n"]), *cells])
    columns = [f"{name} {key}" for name in models for key in ("precision", "recall", "F1")]
    return [
        markdown_table(["class", "test photographs", *columns], rows),
        "The other tasks' labels are in [per_label.csv](../plots/evaluate/per_label.csv).",
    ]


def _search(data: ReportData, models: list[str]) -> list[str]:
    k = int(data.retrieval["k"].iloc[0])
    views = [[row["model"], with_interval(dict(row), "recall")] for _, row in data.views.iterrows()]
    return [
        "\n".join(search_sentence(name, data.search[name]) for name in models),
        retrieval_table(data.retrieval),
        "Searched are val and test: a model knows its training photographs by heart. " + HOW_SEARCHED,
        markdown_table(["likeness", f"other views of an item among the first {k}"], views),
        *(f"![Example searches with {name}](../plots/index/searches_{name}.jpg)" for name in models),
    ]


HOW_SEARCHED = (
    "Queries are made of true labels; a photograph is relevant if all of them are true of it, and nDCG counts the "
    "share of them, the class twice. `hard`: a document of the most probable labels, TF-IDF and cosine; `bm25`: the "
    "same documents, BM25 (bm25s). `soft_or`: the probabilities weighted by rarity, summed. `soft_and`: their product; "
    "the search uses this one. `oracle` knows the true labels, `random` nothing. Equals are ranked in ten random "
    "orders. In brackets are 95 % intervals from leaving out items; queries share photographs, so no interval is drawn "
    "over queries."
)


def retrieval_table(table: pd.DataFrame) -> str:
    """Write the rows of `relevance.measure_text`, by number of labels in the query; what knows all or nothing once."""
    k, first = int(table["k"].iloc[0]), table["model"].iloc[0]
    rows = []
    for num_terms in sorted(set(table["num_terms"])):
        asked = "all queries" if num_terms == 0 else f"{num_terms} label" + ("s" if num_terms > 1 else "")
        for _, row in table[(table["num_terms"] == num_terms)].iterrows():
            known = row["system"] in ("oracle", "random")
            if known and row["model"] != first:
                continue  # the same for every model
            measured = [percent(row[key]) for key in ("ndcg_at_10", "precision_at_k", "recall_at_10")]
            cells = ["" if known else row["model"], row["system"], int(row["num_queries"])]
            rows.append([asked, *cells, with_interval(dict(row), "map"), *measured])
    header = ["query", "model", "system", "queries", "mAP", "nDCG@10", f"precision@{k}", "recall@10"]
    return markdown_table(header, rows)


def search_sentence(name: str, found: Mapping[str, Any]) -> str:
    """Say whether probabilities search better than words."""
    gain, low, high = (100 * found[f"map_gain{end}"] for end in ("", "_ci_low", "_ci_high"))
    numbers = f"({gain:+.1f} points of mAP [{low:+.1f}, {high:+.1f}])"
    if low > 0:
        return f"- **{name}**: searching probabilities beats searching words {numbers}."
    if high < 0:
        return f"- **{name}**: searching probabilities loses to searching words {numbers}."
    return f"- **{name}**: that searching probabilities beats searching words cannot be shown {numbers}."


def _data(data: ReportData) -> list[str]:
    counts = data.counts
    rows = [[split, counts["photos"][split], counts["items"][split]] for split in ("train", "val", "test")]
    tasks = []
    for task in sorted(counts["labels"], key=lambda name: (name != CLASS_TASK, name)):
        numbers = data.photos[task].value_counts()
        commonest, rarest = (f"{display_name(numbers.index[k])} {numbers.iloc[k]}" for k in (0, -1))
        few = int((numbers < MIN_PHOTOS).sum())
        cells = [counts["labels"][task], commonest, rarest, f"{numbers.iloc[0] / numbers.iloc[-1]:.1f}", few]
        tasks.append([task, *cells, counts["missing"].get(task, 0)])
    header = ["task", "labels", "commonest", "rarest", "ratio", f"below {MIN_PHOTOS} photographs", "without a label"]
    return [
        markdown_table(["split", "photographs", "items"], rows),
        markdown_table(header, tasks),
        f"Of labels with fewer than {MIN_PHOTOS} photographs nothing should be claimed. Pairs of near duplicates "
        f"across splits: {len(data.near_duplicates)}. No item is in two splits.",
        "![Photographs and items of every class in each split](../plots/split/class_by_split.png)",
    ]


def _model_card(data: ReportData) -> list[str]:
    networks = ", ".join(f"{row['model']} ({row['architecture']})" for row in data.cost.to_dict("records"))
    return [
        "\n".join(
            [
                f"- **Models**: {networks}, each a timm backbone with one head a task, and their ensemble.",
                f"- **Trained on**: {data.counts['photos']['train']} photographs of {data.counts['items']['train']} "
                "items; the weights that they start from stand under `weights` below.",
                "- **Made for**: naming and finding products of these classes in photographs like these. Other things "
                "get one of these labels too: the models know no \u201cnone of them\u201d.",
                "- **Not for**: decisions about people, or any use where a wrong label does harm.",
                "- **Limits**: the figures hold for items like the test items, of which there are few; another camera, "
                "background or kind of product can be much worse.",
            ]
        )
    ]


def _reproduction(data: ReportData) -> list[str]:
    return [
        "`dvc repro` writes it from params.yaml and the data; on the same machine the same inputs give the same bytes. "
        "The commit is that of this file: `git log -1 -- report/report.md`. `dvc.lock` holds the hashes of code, data "
        "and models. "
        "`dvc metrics diff`, `dvc params diff` and `dvc plots diff` compare with another commit, and `make gate` says "
        "what is beyond noise.",
        "The params:",
        f"```yaml\n{data.params.strip()}\n```",
    ]
