"""Train one model without one fold and predict that fold: python crossval/train.py MODEL FOLD.

Reads   data/splits/, crossval/folds.csv; for all but efficientnet (the teacher) also crossval/teachers/FOLD/
Writes  crossval/predictions/MODEL_FOLD.npz; for efficientnet also crossval/teachers/FOLD/

The final average of the weights is used, not the best epoch: no epoch is chosen on the evaluated fold.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from vitrine.artifacts import read_csv, read_json, read_npy
from vitrine.errors import exit_on_error
from vitrine.inference.network import Network
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.learning.distillation import DistillationParams
from vitrine.learning.distributed import rank, run_processes
from vitrine.learning.model import save_model
from vitrine.learning.strategies import DeitParams, EfficientnetParams, MobilevitParams, train
from vitrine.learning.training import TrainingData, TrainingParams
from vitrine.params import Section, read_section
from vitrine.photos import Decoding


class EpochsParams(Section):
    """How long to train."""

    fraction: Annotated[float, Field(gt=0, le=1)]


TEACHER = "efficientnet"
SECTIONS: dict[str, type[EfficientnetParams] | type[DeitParams] | type[MobilevitParams]] = {
    TEACHER: EfficientnetParams,
    "deit": DeitParams,
    "mobilevit": MobilevitParams,
}


def main(name: str, fold: int) -> None:
    exit_on_error()
    params = read_section("training", TrainingParams).model_copy(update={"checkpoint": "ema"})
    run_processes(params.processes, train_and_predict, name, fold, params)


def train_and_predict(name: str, fold: int, params: TrainingParams) -> None:
    fraction = read_section("epochs", EpochsParams, Path("crossval/params.yaml")).fraction
    strategy = read_section(f"train_{name}", SECTIONS[name]).strategy().shortened(fraction)
    folder = Path("data/splits")
    table, photos = read_photo_table(folder / "photos.csv"), read_npy(folder / "photos.npy")
    label_space = LabelSpace.from_json(read_json(folder / "label_space.json"))
    held_out = (read_csv(Path("crossval/folds.csv"))["fold"] == fold).to_numpy()
    rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    data = TrainingData(label_space, photos, label_space.encode(table), *rows)
    resume = Path(".resume") / f"crossval_{name}_{fold}.safetensors"
    decoding, teacher = Decoding(**read_json(folder / "decoding.json")), Path("crossval/teachers") / str(fold)
    distillation = None if name == TEACHER else read_section("distillation", DistillationParams)
    model = train(strategy, data, decoding, params, resume, distillation, teacher).model
    if rank() > 0:
        return
    if name == TEACHER:
        save_model(model, teacher, {"held_out_fold": fold})
    predictions = Network(model).predict(photos[held_out], list(table["image_path"][held_out]))
    predictions.save(Path("crossval/predictions") / f"{name}_{fold}.npz")
    resume.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
