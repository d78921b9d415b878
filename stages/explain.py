"""Draw heat maps that explain predictions, and measure on val and test whether they do so better than controls.

Reads   models/, data/splits/, ${data.path} (labels.csv and masks.png, if there are masks)
Writes  models/explanations.json (which heat maps are shown), metrics/explain.json, plots/explain/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vitrine.artifacts import read_json, read_npy, write_csv, write_metrics
from vitrine.data.catalog import DataParams
from vitrine.data.masks import read_masks
from vitrine.errors import exit_on_error
from vitrine.evaluation.explaining import first_views, headline_metrics, judge_heatmaps, split_rows
from vitrine.evaluation.faithfulness import ExplainParams, deciding_differences
from vitrine.evaluation.scoring import SEED, named_rows, number_items
from vitrine.inference.explanations import Explainer, predict_systems, without_training
from vitrine.inference.heatmaps import VERDICTS, Verdict, write_verdicts
from vitrine.inference.network import Network
from vitrine.inference.runtimes import checkpoint_digest
from vitrine.inference.systems import ENSEMBLE, NETWORKS, load_systems
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.reporting.explain_figures import example_rows, heatmap_picture


def main() -> None:
    exit_on_error()
    params, folder = read_section("explain", ExplainParams), read_section("data", DataParams).path
    models, data, plots = Path("models"), Path("data/splits"), Path("plots/explain")
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    masks = read_masks(Path(folder), list(table["image_path"]), photos.shape[1])
    mean_color = photos[(table["split"] == "train").to_numpy()].mean(axis=(0, 1, 2))
    systems, networks = load_systems(models / "systems.json"), {each: Network.load(models / each) for each in NETWORKS}
    untrained = {each: without_training(network, SEED) for each, network in networks.items()}
    explainers = {name: Explainer(name, systems, networks) for name in systems}
    blind = {name: Explainer(name, systems, untrained) for name in systems}

    judged, rows = {}, {}
    for split in ("val", "test"):
        rows[split] = first_views(table, split, params.views_per_item)
        judged[split] = judge_heatmaps(
            np.asarray(photos[rows[split]]),
            number_items(table["instance_id"].iloc[rows[split]]),
            [masks.get(path) for path in table["image_path"].iloc[rows[split]]],
            mean_color,
            explainers,
            blind,
            lambda images: predict_systems(explainers, images),
            params.num_steps,
        )
    deciding = {str(name): group for name, group in judged["val"].rows.groupby("model", sort=False)}
    verdicts = {
        (name, task): Verdict(checkpoint_digest(name, models), deciding_differences(group[group["task"] == task]))
        for name, group in deciding.items()
        for task in label_space
    }
    write_verdicts(models / VERDICTS, verdicts)
    shown = {key: verdict.shown for key, verdict in verdicts.items()}
    measured = pd.concat([split_rows(each.rows, split, shown) for split, each in judged.items()])
    write_csv(plots / "faithfulness.csv", named_rows(measured, "measure", "task", "model", "method", "split"), 4)
    write_metrics(Path("metrics/explain.json"), *headline_metrics(judged["test"], shown))
    codes, test = label_space.encode(table), judged["test"]
    true = {task: values[rows["test"]] for task, values in codes.items()}
    examples = example_rows(
        np.asarray(photos[rows["test"]]), true, test.codes, test.probs, test.maps, shown, label_space, ENSEMBLE
    )
    heatmap_picture(examples, list(explainers), plots / "heatmaps.jpg")


if __name__ == "__main__":
    main()
