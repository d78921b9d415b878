"""Train one backbone from random weights on renders: python pretrain/backbone.py SECTION.

Reads   pretrain/params.yaml, pretrain/shards/
Writes  pretrain/backbones/NAME.safetensors (16-bit), pretrain/backbones/NAME.json (how it was made)

SECTION is train_NAME. A killed run resumes after its last finished epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from vitrine.artifacts import ArtifactError, write_json, write_tensors
from vitrine.model import WeightsError, create_model, pick_device, tensors_of
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.preprocess import Decoding
from vitrine.pretraining import GuidedModel, PretrainingParams, mimetic_init, pretraining_data
from vitrine.strategies import Strategy, create
from vitrine.training import Phase, TrainingError, TrainingParams, fit


def main(section: str) -> None:
    exit_on(ParamsError, ArtifactError, TrainingError, WeightsError)
    training = read_section("training", TrainingParams, Path("pretrain/params.yaml"))
    params = read_section(section, PretrainingParams, Path("pretrain/params.yaml"))
    data = pretraining_data(Path("pretrain/shards"), params.train_shards, params.val_shard)
    phases = [Phase("full", params.epochs, params.learning_rate, params.learning_rate)]
    decoding = Decoding(int(data.photos.shape[1]), max_megapixels=1.0)
    model = create(Strategy(params, phases, balanced=False), data.label_space, decoding, training)
    if params.init == "mimetic":
        mimetic_init(model.backbone, torch.Generator().manual_seed(training.seed))
    if params.teacher != "none":
        side = model.spec.preprocessing.image_size_px
        teacher = create_model("mobilevit_xxs", params.teacher, data.label_space, decoding, side, 0.0, 0.0)
        model = GuidedModel(model, teacher.to(pick_device()), params.guidance)

    name = section.removeprefix("train_")
    resume = Path(".resume") / f"pretrain_{name}.safetensors"
    fitted = fit(model, data, phases, training, False, params.precision, resume, title=name)
    halves = {
        tensor: values.astype(np.float16) if values.dtype == np.float32 else values
        for tensor, values in tensors_of(fitted.model.backbone).items()
    }
    write_tensors(Path("pretrain/backbones") / f"{name}.safetensors", halves, {"format": "pt"})
    scores = fitted.history.iloc[fitted.epoch - 1]
    card = {
        "backbone": params.model_dump(),
        "training": training.model_dump(),
        "preprocessing": model.spec.preprocessing.to_json(),
        "pictures_seen": params.epochs * len(data.train),
        "accuracy_on_val_renders": {task: round(float(scores[f"val_{task}_accuracy"]), 4) for task in data.label_space},
    }
    write_json(Path("pretrain/backbones") / f"{name}.json", card)
    resume.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])
