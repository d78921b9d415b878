"""Measure how realistic renders are: evaluate models trained only on the sample on Team 13's photographs.

Uses the models that `dvc repro` trained, without any fine-tuning, on Team 13's train and val photographs; its test
split is never read. Prints accuracies with 95 % intervals from a jackknife over items, and which classes are confused.

    python benchmarks/realism.py [--photos data/team13] [--models models]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from vitrine.data.catalog import DataParams, read_catalog
from vitrine.evaluation.scoring import accuracy_with_interval, number_items
from vitrine.inference.predictor import Predictor
from vitrine.inference.systems import load_systems
from vitrine.labels import CLASS_TASK, display_name
from vitrine.params import read_section
from vitrine.reporting.templating import with_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("data/team13"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    arguments = parser.parse_args()
    # Attributes known to the models, and one spelling of gray, as in the evaluation of the reference.
    params = read_section("data", DataParams)
    data = DataParams.model_validate(
        {
            **params.model_dump(),
            "path": str(arguments.photos),
            "aliases": {"color": {"grey": "gray"}},
            "masked_labels": {},
        }
    )
    table = read_catalog(arguments.photos, data)
    table = table[table["split"].isin(["train", "val"])].reset_index(drop=True)
    items = number_items(list(table["instance_id"]))
    print(f"{len(table)} photographs of {len(np.unique(items))} items, train and val of Team 13\n")
    print("| model | task | zero-shot accuracy | majority |\n| --- | --- | ---: | ---: |")
    confusions = {}
    for name in load_systems(arguments.models / "systems.json"):
        predictor = Predictor.load(name, arguments.models)
        found = predictor.predict_files([arguments.photos / path for path in table["image_path"]])
        for task in data.tasks:
            labels = np.array(predictor.label_space.labels[task])
            predicted = labels[found.probs[task].argmax(axis=1)]
            known = table[task].notna().to_numpy()
            truth = table[task].to_numpy()
            correct = accuracy_with_interval((predicted == truth)[known], items[known])
            majority = pd.Series(truth[known]).value_counts(normalize=True).iloc[0]
            print(f"| {name} | {task} | {with_interval(correct, 'accuracy')} | {majority:.1%} |")
            if task == CLASS_TASK:
                counts = confusion_matrix(truth, predicted, labels=labels)
                confusions[name] = pd.DataFrame(counts, [display_name(label) for label in labels], range(len(labels)))
    for name, counts in confusions.items():
        print(
            f"\n{name}: rows are the true classes, columns the predicted ones in the same order\n{counts.to_string()}"
        )


if __name__ == "__main__":
    main()
