"""Evaluate the networks, their ensemble and two baselines on val and test; save all predictions.

Reads   models/, data/splits/, plots/train_NETWORK/history.csv
Writes  models/systems.json, predictions/SYSTEM.npz, metrics/evaluate/SYSTEM.json, plots/evaluate/
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitrine.artifacts import read_csv, read_json, read_npy, write_csv, write_metrics
from vitrine.errors import exit_on_error
from vitrine.evaluation import metrics
from vitrine.evaluation.baselines import PROBE_SIZE_PX, baseline_probs
from vitrine.evaluation.scoring import compare_all, headline_metrics, named_rows, number_items
from vitrine.inference.network import Network, imagenet_features
from vitrine.inference.systems import ENSEMBLE, NETWORKS, fit_systems, save_systems, system_predictions
from vitrine.labels import CLASS_TASK, LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.reporting import figures
from vitrine.scores import confusion_counts


def main() -> None:
    exit_on_error()
    params, data, plots = read_section("evaluate", metrics.EvaluateParams), Path("data/splits"), Path("plots/evaluate")
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    codes, items = label_space.encode(table), number_items(table["instance_id"])
    splits, labels, classes = table["split"].to_numpy(), label_space.labels[CLASS_TASK], codes[CLASS_TASK]
    test, held_out, bins = splits == "test", splits != "train", params.calibration_bins
    test_codes = {task: values[test] for task, values in codes.items()}
    networks = {name: Network.load(Path("models") / name) for name in NETWORKS}
    raw = {name: network.predict(photos, list(table["image_path"])) for name, network in networks.items()}
    systems = fit_systems(raw, codes, items, splits == "val", params.sure_accuracy)
    save_systems(Path("models/systems.json"), systems)
    judged = {name: system_predictions(name, systems, raw) for name in systems}
    baselines = baseline_probs(
        photos, imagenet_features(photos, PROBE_SIZE_PX), codes, label_space, splits == "train", params.svm_c
    )
    probs = {name: predictions.probs for name, predictions in judged.items()} | baselines
    on_test = {name: {task: values[test] for task, values in each.items()} for name, each in probs.items()}
    scores = pd.concat([metrics.score_table(name, codes, splits, items, each, bins) for name, each in probs.items()])
    tested = {name: each.select(test) for name, each in judged.items()}
    calibrated = metrics.calibration_tables(codes, items, test, raw, systems, bins)
    tables = {"scores": named_rows(scores, "task", "model", "split")}
    tables["comparisons"] = named_rows(compare_all(on_test, test_codes, items[test]), "task", "first", "second")
    tables["per_label"] = named_rows(metrics.per_label_table(label_space, test_codes, tested), "task", "label", "model")
    tables["calibration"] = named_rows(calibrated["calibration"], "task", "model")
    tables["cost"] = metrics.cost_table({name: each.cost() for name, each in networks.items()}, systems[ENSEMBLE])
    for name, written in tables.items():
        write_csv(plots / f"{name}.csv", written)
    for system, measured in scores[scores["split"] == "test"].groupby("model"):
        write_metrics(Path(f"metrics/evaluate/{system}.json"), *headline_metrics(measured))
    figures.accuracies(scores.query("split == 'test' and task != @metrics.ALL_TASKS"), plots / "accuracy.png")
    figures.calibration(calibrated["reliability"], calibrated["coverage"], plots / "calibration.png")
    histories = {n: read_csv(Path(f"plots/train_{n}/history.csv")) for n in networks}
    figures.training_curves(histories, plots / "curves.png")

    for name, predictions in judged.items():
        predictions.save(Path("predictions") / f"{name}.npz")
        predicted = predictions.predicted(CLASS_TASK)
        pairs = {"actual": table.loc[test, CLASS_TASK], "predicted": [labels[code] for code in predicted[test]]}
        write_csv(plots / f"confusion_{name}.csv", pd.DataFrame(pairs))
        bins_of_class = calibrated["reliability"].query("model == @name and task == @CLASS_TASK")
        write_csv(plots / f"reliability_{name}.csv", bins_of_class[["confidence", "accuracy", "n"]])
        counts = confusion_counts(classes[test], predicted[test], len(labels))
        figures.confusion(counts, labels, name, plots / f"confusion_{name}.png")
        points, explained = metrics.principal_components(predictions.embeddings)
        figures.projection(points, explained, classes, labels, held_out, name, plots / f"pca_{name}.png")
        unseen = predictions.select(held_out)
        confused = metrics.commonest_confusions(classes[held_out], unseen.probs[CLASS_TASK], params.num_confusions)
        rows = figures.mistake_rows(photos[held_out], unseen, confused)
        figures.photo_grid(rows, f"{name}: most frequent confusions in val and test", plots / f"mistakes_{name}.jpg")


if __name__ == "__main__":
    main()
