"""Judge the models on val and test through the one Predictor, and save what they predict of every photograph.

Reads   models/, data/splits/, plots/train_deit/history.csv, plots/train_mobilevit/history.csv
Writes  predictions/MODEL.npz, metrics/evaluate.json, plots/evaluate/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vitrine import figures
from vitrine.artifacts import ArtifactError, read_csv, read_json, read_npy, write_csv, write_metrics
from vitrine.inference import Predictor
from vitrine.labels import CLASS_TASK, LabelSpace, read_photos
from vitrine.metrics import (
    EvaluateParams,
    confusion_counts,
    headline,
    per_label_table,
    principal_components,
    score_table,
    worst_mistakes,
)
from vitrine.params import ParamsError, exit_on, read_section


def main() -> None:
    exit_on(ParamsError, ArtifactError)
    params = read_section("evaluate", EvaluateParams)
    data, plots = Path("data/splits"), Path("plots/evaluate")
    table, photos = read_photos(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    codes, splits = label_space.encode(table), table["split"].to_numpy()
    labels, classes = label_space.labels[CLASS_TASK], codes[CLASS_TASK]
    test, held_out = splits == "test", splits != "train"

    scores, per_label, costs = [], [], []
    for name in params.models:
        predictor = Predictor.load(Path("models") / name)
        predictions = predictor.predict(photos, list(table["image_path"]))
        predictions.save(Path("predictions") / f"{name}.npz")
        costs.append({"model": name, **predictor.cost()})
        scores.append(score_table(name, codes, splits, predictions))
        test_codes = {task: values[test] for task, values in codes.items()}
        per_label.append(per_label_table(name, label_space, test_codes, predictions.select(test)))

        predicted = predictions.predicted(CLASS_TASK)
        pairs = {"actual": table.loc[test, CLASS_TASK], "predicted": [labels[code] for code in predicted[test]]}
        write_csv(plots / f"confusion_{name}.csv", pd.DataFrame(pairs))
        title = f"{name}: where the test photographs of a class end up"
        counts = confusion_counts(classes[test], predicted[test], len(labels))
        figures.confusion(counts, labels, title, plots / f"confusion_{name}.png")
        points = principal_components(predictions.embeddings)
        title = f"{name}: embeddings, strong: val and test, faint: train"
        figures.projection(points, classes, labels, held_out, title, plots / f"pca_{name}.png")
        worst = np.flatnonzero(held_out)[
            worst_mistakes(classes[held_out], predictions.probs[CLASS_TASK][held_out], params.num_mistakes)
        ]
        tiles = figures.mistake_tiles(photos[worst], table.iloc[worst], predictions.select(worst))
        title = f"{name}: the mistakes it is surest of, on val and test"
        figures.photo_grid([figures.GridRow("", row) for row in tiles], title, plots / f"mistakes_{name}.jpg")

    write_csv(plots / "scores.csv", pd.concat(scores))
    write_csv(plots / "per_label.csv", pd.concat(per_label))
    write_csv(plots / "cost.csv", pd.DataFrame(costs))
    histories = {name: read_csv(Path(f"plots/train_{name}/history.csv")) for name in params.models}
    figures.training_curves(histories, plots / "curves.png")
    write_metrics(Path("metrics/evaluate.json"), headline(pd.concat(scores)))


if __name__ == "__main__":
    main()
