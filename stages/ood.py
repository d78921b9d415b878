"""Fit the threshold of "none of these": choose the score on val, evaluate it on test with other outliers.

Reads   models/, predictions/, data/splits/, ood.outliers
Writes  models/novelty/, metrics/ood.json, plots/ood/
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitrine.artifacts import read_json, write_csv, write_metrics
from vitrine.data.outliers import read_outliers, unnamed_kinds
from vitrine.errors import exit_on_error
from vitrine.evaluation import novelty
from vitrine.evaluation.scoring import named_rows, number_items
from vitrine.inference.network import Network
from vitrine.inference.novelty import FOLDER, Novelty
from vitrine.inference.outliers import predict_outliers, system_signals
from vitrine.inference.runtimes import checkpoint_digest
from vitrine.inference.systems import ENSEMBLE, NETWORKS, load_systems
from vitrine.labels import CLASS_TASK, LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.photos import Decoding
from vitrine.predictions import Predictions
from vitrine.reporting.novelty_figures import KNOWN, refusals


def main() -> None:
    exit_on_error()
    params = read_section("ood", novelty.OodParams)
    data, models, plots = Path("data/splits"), Path("models"), Path("plots/ood")
    table = read_photo_table(data / "photos.csv")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    codes, items = label_space.encode(table)[CLASS_TASK], number_items(table["instance_id"])
    train, val, test = ((table["split"] == split).to_numpy() for split in ("train", "val", "test"))
    known = load_systems(models / "systems.json")
    systems = {name: known[name] for name in (*NETWORKS, ENSEMBLE)}
    networks = {name: Network.load(models / name) for name in NETWORKS}
    predictions = {name: Predictions.load(Path("predictions") / f"{name}.npz") for name in systems}
    signals = system_signals(systems, networks, predictions)
    fitted = {name: novelty.fit_scores(each, codes, train, val, params) for name, each in signals.items()}

    decoding, classes = Decoding(**read_json(data / "decoding.json")), label_space.labels[CLASS_TASK]
    measured: dict[str, pd.DataFrame] = {}
    outliers, predicted = {}, {}
    for use, rows, wanted in (("choose", val, params.choose_kinds), ("judge", test, params.judge_kinds)):
        kinds = unnamed_kinds(wanted, classes)
        outliers[use] = read_outliers(Path(params.outliers), kinds, decoding, params.seed)
        predicted[use] = predict_outliers(systems, networks, outliers[use].photos)
        measured[use] = pd.concat(
            novelty.judge_scores(
                name,
                *fitted[name],
                (signals[name].select(rows), items[rows]),
                (predicted[use][name], outliers[use].kinds, outliers[use].items),
                params.seed,
            )
            for name in systems
        )
    score = novelty.choose_score(measured["choose"])
    for name, (detectors, thresholds) in fitted.items():
        chosen = Novelty(detectors[score], thresholds[score], checkpoint_digest(name, models))
        chosen.save(models / FOLDER, name)

    scores = pd.concat([each.assign(use=use, served=each["score"] == score) for use, each in measured.items()])
    write_csv(plots / "scores.csv", named_rows(scores, "score", "system", "kind", "use"))
    write_metrics(Path("metrics/ood.json"), *novelty.headline_novelty_metrics(measured["judge"], score))
    groups = [(KNOWN, signals[ENSEMBLE].select(test))]
    groups += [(k, s) for use in predicted for k, s in novelty.by_kind(predicted[use][ENSEMBLE], outliers[use].kinds)]
    detectors, thresholds = fitted[ENSEMBLE]
    relative = novelty.relative_scores(detectors[score], thresholds[score], groups)
    everything = measured["judge"].query("kind == @novelty.ALL_KINDS")
    refusals(relative, everything, ENSEMBLE, plots / "refusals.png")


if __name__ == "__main__":
    main()
