"""Cross-validate variants of the fine-tuning on train and val of the current dataset; its test split is left out.

Folds are those of crossval/folds.csv; all variants of a student learn from the same teacher. The weights are the final
moving average, as in crossval/train.py: no epoch is selected on the fold that is evaluated.

    python benchmarks/ablation.py efficientnet deit [--fraction 1.0]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vitrine.artifacts import read_csv, read_json, read_npy
from vitrine.evaluation.scoring import accuracy_with_interval, number_items
from vitrine.inference.network import Network
from vitrine.labels import MISSING, LabelSpace, read_photo_table
from vitrine.learning.distillation import DistillationParams
from vitrine.learning.model import save_model
from vitrine.learning.strategies import DeitParams, EfficientnetParams, MobilevitParams, train
from vitrine.learning.training import TrainingData, TrainingParams
from vitrine.params import read_section
from vitrine.photos import Decoding

SECTIONS: dict[str, Any] = {"efficientnet": EfficientnetParams, "deit": DeitParams, "mobilevit": MobilevitParams}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "efficientnet": {
        "as in params.yaml": {},
        "224 px": {"image_size_px": 224},
        "heads first: 15 epochs of them, then 8 at 1.0e-4": {
            "head_epochs": 15, "full_epochs": 8, "backbone_learning_rate": 1e-4,
        },
    },
    "deit": {"as in params.yaml": {}, "backbone at 5.0e-5": {"backbone_learning_rate": 5e-5}},
    "mobilevit": {"as in params.yaml": {}},
}  # fmt: skip
TEACHER = "efficientnet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=list(SECTIONS))
    parser.add_argument("--fraction", type=float, default=1.0, help="fraction of the epochs in params.yaml to train")
    arguments = parser.parse_args()
    folder = Path("data/splits")
    table, photos = read_photo_table(folder / "photos.csv"), read_npy(folder / "photos.npy")
    label_space = LabelSpace.from_json(read_json(folder / "label_space.json"))
    decoding = Decoding(**read_json(folder / "decoding.json"))
    folds = read_csv(Path("crossval/folds.csv"))["fold"].to_numpy()
    known, codes = (table["split"] != "test").to_numpy(), label_space.encode(table)
    items = number_items(table["instance_id"])
    params = read_section("training", TrainingParams).model_copy(update={"checkpoint": "ema"})
    distillation = read_section("distillation", DistillationParams)

    with tempfile.TemporaryDirectory() as temporary:

        def fit(name: str, changes: dict[str, Any], fold: int) -> Any:
            section = read_section(f"train_{name}", SECTIONS[name]).model_copy(update=changes)
            rows = np.flatnonzero(known & (folds != fold)), np.flatnonzero(known & (folds == fold))
            data, resume = TrainingData(label_space, photos, codes, *rows), Path(temporary) / f"{name}.safetensors"
            resume.unlink(missing_ok=True)
            teacher = Path(temporary) / f"teacher_{fold}"
            if name != TEACHER and not teacher.exists():
                save_model(fit(TEACHER, {}, fold), teacher, {})
            strategy = section.strategy().shortened(arguments.fraction)
            taught = None if name == TEACHER else distillation
            return train(strategy, data, decoding, params, resume, taught, teacher).model

        print(f"{known.sum()} photographs\n\n| network | variant | {' | '.join(label_space)} |")
        print(f"| --- | --- | {' | '.join('---:' for _ in label_space)} |", flush=True)
        for name in arguments.networks:
            for variant, changes in VARIANTS[name].items():
                predicted = {task: np.full(len(photos), MISSING) for task in label_space}
                for fold in sorted(set(folds)):
                    rows = np.flatnonzero(known & (folds == fold))
                    found = Network(fit(name, changes, int(fold))).predict(photos[rows], [""] * len(rows))
                    for task in label_space:
                        predicted[task][rows] = found.predicted(task)
                cells = []
                for task in label_space:
                    judged = known & (codes[task] != MISSING)
                    right = (predicted[task] == codes[task])[judged].astype(float)
                    score = accuracy_with_interval(right, items[judged])
                    low, high = (100 * score[f"accuracy_ci_{end}"] for end in ("low", "high"))
                    cells.append(f"{100 * score['accuracy']:.1f} % [{low:.0f}, {high:.0f}]")
                print(f"| {name} | {variant} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
