"""How each model is trained: its params, its phases, whether classes are balanced; and the run that a stage makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from vitrine.artifacts import read_json, write_csv, write_metrics
from vitrine.labels import LabelSpace
from vitrine.learning.distillation import DistillationParams, distill
from vitrine.learning.model import MultiTaskModel, create_model, pick_device, save_model
from vitrine.learning.preprocess import Decoding
from vitrine.learning.training import BackboneParams, NetworkParams, Phase, Rate, TrainingData, TrainingParams, fit

TEACHER = Path("models/efficientnet")
"""What the stage train_efficientnet writes and the others learn from."""


@dataclass(frozen=True)
class Strategy:
    """A backbone and the phases of its training.

    balanced: draw photographs with replacement, every class equally often, instead of each once an epoch.
    """

    backbone: NetworkParams
    phases: Sequence[Phase]
    balanced: bool


class TwoPhaseParams(NetworkParams):
    """Two phases: the heads on a frozen backbone, then everything, the backbone more slowly."""

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
    """Two phases, from a file's weights or others."""


class EfficientnetParams(TwoPhaseParams):
    """Two phases; in the second the first blocks keep their weights, since they cost most to train."""

    weights: Literal["imagenet", "none"]
    frozen_blocks: Annotated[int, Field(ge=0)]

    def strategy(self) -> Strategy:
        heads, full = super().strategy().phases
        return Strategy(self, [heads, replace(full, frozen_blocks=self.frozen_blocks)], balanced=False)


class MobilevitParams(BackboneParams):
    """One phase, every class drawn equally often."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Rate

    def strategy(self) -> Strategy:
        return Strategy(self, [Phase("full", self.epochs, self.learning_rate, self.learning_rate)], balanced=True)


def create(strategy: Strategy, label_space: LabelSpace, decoding: Decoding, params: TrainingParams) -> MultiTaskModel:
    """Create an untrained model, its random weights drawn from the seed."""
    torch.manual_seed(params.seed)
    return create_model(
        strategy.backbone.architecture,
        strategy.backbone.start,
        label_space,
        decoding,
        strategy.backbone.image_size_px,
        params.feature_dropout,
        params.head_dropout,
    ).to(pick_device())


def run_training(
    name: str, strategy: Strategy, params: TrainingParams, distillation: DistillationParams | None = None
) -> None:
    """Train model `name` on data/splits and write models/NAME, metrics/train_NAME.json and plots/train_NAME.

    A killed run leaves its last finished epoch in .resume/; the next run resumes from there.

    Args:
        distillation: how much models/efficientnet teaches; None for a model without a teacher.
    """
    folder = Path("data/splits")
    data, decoding = TrainingData.read(folder), Decoding(**read_json(folder / "decoding.json"))
    resume = Path(".resume") / f"{name}.safetensors"
    model = trained = create(strategy, data.label_space, decoding, params)
    if distillation is not None:
        weights = params.class_loss_weight, params.attribute_loss_weight
        trained = distill(model, TEACHER, data.photos[data.train], distillation, *weights)
    precision = strategy.backbone.precision
    fitted = fit(trained, data, strategy.phases, params, strategy.balanced, precision, resume, title=name)

    row = fitted.history.loc[fitted.history["epoch"] == fitted.epoch].iloc[0]
    phases = [asdict(phase) for phase in strategy.phases]
    device = next(model.parameters()).device.type
    notes = {"epoch": fitted.epoch, "weights": strategy.backbone.start, "phases": phases, "device": device}
    notes |= {"distillation": distillation.model_dump() if distillation else None}
    save_model(model, Path("models") / name, notes)
    write_csv(Path("plots") / f"train_{name}" / "history.csv", fitted.history)
    scores = {key: row[key] for key in fitted.history.columns if key.startswith("val_")}
    write_metrics(Path("metrics") / f"train_{name}.json", {"epoch": fitted.epoch, **scores})
    resume.unlink(missing_ok=True)
