"""Train one model without one fold and predict that fold: python crossval/train.py MODEL FOLD.

Reads   data/splits/, crossval/folds.csv
Writes  crossval/predictions/MODEL_FOLD.npz

The last average of the weights is taken, not the best epoch: nothing is picked on the fold that is judged.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import softmax

from vitrine.artifacts import ArtifactError, read_csv
from vitrine.labels import read_photos
from vitrine.model import WeightsError
from vitrine.params import ParamsError, Section, exit_on, read_section
from vitrine.predictions import Predictions
from vitrine.strategies import DeitParams, MobilevitParams, create
from vitrine.training import TrainingData, TrainingError, TrainingParams, fit


class EpochsParams(Section):
    """How long to train."""

    fraction: Annotated[float, Field(gt=0, le=1)]


SECTIONS: dict[str, type[DeitParams] | type[MobilevitParams]] = {"deit": DeitParams, "mobilevit": MobilevitParams}


def main(name: str, fold: int) -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    fraction = read_section("epochs", EpochsParams, Path("crossval/params.yaml")).fraction
    params = read_section("training", TrainingParams).model_copy(update={"checkpoint": "ema"})
    strategy = read_section(f"train_{name}", SECTIONS[name]).strategy()
    folder = Path("data/splits")
    held_out = (read_csv(Path("crossval/folds.csv"))["fold"] == fold).to_numpy()
    data = replace(TrainingData.read(folder), train=np.flatnonzero(~held_out), val=np.flatnonzero(held_out))
    phases = [
        replace(phase, epochs=min(phase.epochs, max(1, round(fraction * phase.epochs)))) for phase in strategy.phases
    ]
    resume = Path(".resume") / f"crossval_{name}_{fold}.safetensors"
    model = create(strategy, data, params)
    fitted = fit(
        model,
        data,
        phases,
        params,
        strategy.balanced,
        strategy.backbone.precision,
        resume,
        title=f"{name}, fold {fold}",
    )
    paths = list(read_photos(folder / "photos.csv")["image_path"][held_out])
    logits, embeddings = fitted.model.infer(data.photos[held_out])
    probs = {task: softmax(scores.astype(np.float64), axis=1).astype(np.float32) for task, scores in logits.items()}
    Predictions(data.label_space, tuple(paths), probs, embeddings).save(
        Path("crossval/predictions") / f"{name}_{fold}.npz"
    )
    resume.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
