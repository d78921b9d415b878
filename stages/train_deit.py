"""Train the DeiT model in two phases: its heads on a frozen backbone, then everything, the backbone more slowly.

Reads   data/splits/photos.csv, data/splits/photos.npy, data/splits/label_space.json
Writes  models/deit/, metrics/train_deit.json, plots/train_deit/history.csv
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vitrine.artifacts import ArtifactError
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.training import BackboneParams, Phase, Rate, TrainingError, TrainingParams, run_training


class DeitParams(BackboneParams):
    """The two phases."""

    head_epochs: Annotated[int, Field(ge=0)]
    head_phase_learning_rate: Rate
    full_epochs: Annotated[int, Field(ge=0)]
    backbone_learning_rate: Rate
    head_learning_rate: Rate


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    params = read_section("train_deit", DeitParams)
    phases = [
        Phase("heads", params.head_epochs, 0.0, params.head_phase_learning_rate),
        Phase("full", params.full_epochs, params.backbone_learning_rate, params.head_learning_rate),
    ]
    run_training("deit", phases, params, read_section("training", TrainingParams), balanced=False)


if __name__ == "__main__":
    main()
