"""Each network's params and training strategy; training a network, and the run of a training stage."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from vitrine.artifacts import read_json, write_csv, write_metrics
from vitrine.learning.distillation import DistillationParams, attach_teacher
from vitrine.learning.distributed import rank, run_processes
from vitrine.learning.model import create_model, pick_device, save_model
from vitrine.learning.training import (
    BackboneParams,
    Fitted,
    NetworkParams,
    Phase,
    Rate,
    Strategy,
    TrainingData,
    TrainingParams,
    fit,
)
from vitrine.photos import Decoding

TEACHER = Path("models/efficientnet")
"""The model that the stage train_efficientnet writes and the other stages distill from."""


class TwoPhaseParams(NetworkParams):
    """Two phases: first the heads on a frozen backbone, then everything, with a lower rate for the backbone."""

    head_epochs: Annotated[int, Field(ge=0)]
    head_phase_learning_rate: Rate
    full_epochs: Annotated[int, Field(ge=0)]
    backbone_learning_rate: Rate
    head_learning_rate: Rate

    def strategy(self) -> Strategy:
        phases = [
            Phase("heads", self.head_epochs, 0.0, self.head_phase_learning_rate),
            Phase("full", self.full_epochs, self.backbone_learning_rate, self.head_learning_rate),
        ]
        return Strategy(self, phases, balanced=False)


class DeitParams(TwoPhaseParams, BackboneParams):
    """Two phases; initial weights may come from a file."""


class EfficientnetParams(TwoPhaseParams):
    """Two phases; in the second, the first blocks stay frozen, since they are the most expensive to train."""

    weights: Literal["imagenet", "none"]
    frozen_blocks: Annotated[int, Field(ge=0)]

    def strategy(self) -> Strategy:
        heads, full = super().strategy().phases
        return Strategy(self, [heads, replace(full, frozen_blocks=self.frozen_blocks)], balanced=False)


class MobilevitParams(BackboneParams):
    """One phase with class-balanced sampling."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Rate

    def strategy(self) -> Strategy:
        return Strategy(self, [Phase("full", self.epochs, self.learning_rate, self.learning_rate)], balanced=True)


def train(
    strategy: Strategy,
    data: TrainingData,
    decoding: Decoding,
    params: TrainingParams,
    resume: Path,
    distillation: DistillationParams | None = None,
    teacher: Path = TEACHER,
) -> Fitted:
    """Create a network with random weights drawn from the seed, attach its teacher, and fit it.

    Args:
        resume: see `fit`.
        distillation: weight of the model in folder `teacher`; None for a network without a teacher.
    """
    torch.manual_seed(params.seed)
    network = strategy.network
    model = trained = create_model(
        network.architecture,
        network.initial_weights,
        data.label_space,
        decoding,
        network.image_size_px,
        params.feature_dropout,
        params.head_dropout,
    ).to(pick_device())
    if distillation is not None:
        photos = data.photos[data.train]
        trained = attach_teacher(model, teacher, photos, distillation, params.class_loss_weight)
    fitted = fit(trained, data, strategy, params, resume)
    average = {name: fitted.average[name] for name in model.state_dict()}  # without the wrapper's own tensors
    return replace(fitted, model=model, average=average)


def run_training(
    name: str, strategy: Strategy, params: TrainingParams, distillation: DistillationParams | None = None
) -> None:
    """Train model `name` on data/splits and write models/NAME, metrics/train/NAME.json and plots/train_NAME.

    A killed run leaves its last finished epoch in .resume/; the next run resumes from there.

    Args:
        params: also the number of processes to start.
        distillation: weight of the teacher models/efficientnet; None for a model without a teacher.
    """
    run_processes(params.processes, _train_and_write, name, strategy, params, distillation)


def _train_and_write(
    name: str, strategy: Strategy, params: TrainingParams, distillation: DistillationParams | None
) -> None:
    folder = Path("data/splits")
    data, decoding = TrainingData.read(folder), Decoding(**read_json(folder / "decoding.json"))
    resume = Path(".resume") / f"{name}.safetensors"
    fitted = train(strategy, data, decoding, params, resume, distillation)
    if rank() > 0:
        return
    notes = {
        "epoch": fitted.epoch,
        "weights": strategy.network.initial_weights,
        "phases": [asdict(phase) for phase in strategy.phases],
        "device": next(fitted.model.parameters()).device.type,
        "distillation": distillation.model_dump() if distillation else None,
    }
    save_model(fitted.model, Path("models") / name, notes)
    write_csv(Path("plots") / f"train_{name}" / "history.csv", fitted.history)
    row = fitted.history.loc[fitted.history["epoch"] == fitted.epoch].iloc[0]
    scores = {task: row[f"val_{task}_accuracy"] for task in data.label_space}
    scores |= {"epoch": fitted.epoch, "loss": row["val_loss"], "macro_f1": row["val_macro_f1"]}
    write_metrics(Path("metrics/train") / f"{name}.json", scores)
    resume.unlink(missing_ok=True)
