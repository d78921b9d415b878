"""Train one backbone from nothing on renders and formula pictures: python pretrain/backbone.py ARM.

Reads   pretrain/params.yaml, pretrain/shards/
Writes  pretrain/backbones/ARM.safetensors (16-bit), pretrain/backbones/ARM.json (how it was made)

A killed run goes on after its last finished epoch.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from vitrine.artifacts import ArtifactError, read_json, write_json, write_tensors
from vitrine.model import WeightsError, create_model, pick_device, tensors_of
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.preprocess import Decoding
from vitrine.pretraining import FORMULA_TASK, ArmParams, GuidedModel, mimetic_init, pretraining_data, unaugmented
from vitrine.scoring import rate
from vitrine.strategies import Strategy, create
from vitrine.training import Phase, TrainingError, TrainingParams, fit

NUM_VAL = 500
"""So many renders at the end of an arm's val shard are not for training; they only show that it goes well."""


def main(name: str) -> None:
    exit_on(ParamsError, ArtifactError, TrainingError, WeightsError)
    params = read_section("training", TrainingParams, Path("pretrain/params.yaml"))
    arm = read_section(name, ArmParams, Path("pretrain/params.yaml"))
    data = pretraining_data(Path("pretrain/shards"), arm, NUM_VAL)
    phases = [Phase("full", arm.epochs, arm.learning_rate, arm.learning_rate)]
    decoding = Decoding(int(data.photos.shape[1]), max_megapixels=1.0)
    model = create(Strategy(arm, phases, balanced=False), data.label_space, decoding, params)
    if arm.init == "mimetic":
        mimetic_init(model.backbone, torch.Generator().manual_seed(params.seed))
    if arm.teacher != "none":
        side = model.spec.preprocessing.image_size_px
        teacher = create_model("mobilevit_xxs", arm.teacher, data.label_space, decoding, side, 0.0, 0.0)
        model = GuidedModel(model, teacher.to(pick_device()), arm.guidance)

    resume, began = Path(".resume") / f"pretrain_{name}.safetensors", time.monotonic()
    augmented = params if arm.augmented else unaugmented(params)
    fitted = fit(model, data, phases, augmented, False, arm.precision, resume, title=name)
    halves = {
        tensor: values.astype(np.float16) if values.dtype == np.float32 else values
        for tensor, values in tensors_of(fitted.model.backbone).items()
    }
    write_tensors(Path("pretrain/backbones") / f"{name}.safetensors", halves, {"format": "pt"})
    logits, _ = fitted.model.infer(data.photos[data.val])
    codes = {task: values[data.val] for task, values in data.codes.items() if task != FORMULA_TASK}
    scores = {task: rate(logits[task].argmax(axis=1) == each, np.arange(NUM_VAL)) for task, each in codes.items()}
    columns = {f"val_{task}_accuracy": task for task in codes}
    card = {
        "arm": arm.model_dump(),
        "training": augmented.model_dump(),
        "preprocessing": model.spec.preprocessing.to_json(),
        "samples_seen": arm.epochs * len(data.train),
        "minutes_since_last_start": round((time.monotonic() - began) / 60, 1),
        "hardware": f"{torch.get_num_threads()} threads of {platform.machine()}, {pick_device().type}",
        "accuracy_on_renders": {
            task: {key: round(value, 4) for key, value in score.items()} for task, score in scores.items()
        },
        "accuracy_by_epoch": fitted.history[list(columns)].rename(columns=columns).round(4).to_dict("list"),
    }
    if arm.weights == "file":
        before = read_json(Path(arm.start).with_suffix(".json"))
        card["started_from"] = before
        earlier = before.get("samples_seen_altogether", before["samples_seen"])
        card["samples_seen_altogether"] = card["samples_seen"] + earlier
    write_json(Path("pretrain/backbones") / f"{name}.json", card)
    resume.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])
