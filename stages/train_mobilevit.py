"""Train the MobileViT model in one phase, drawing every class equally often.

Reads   data/splits/photos.csv, data/splits/photos.npy, data/splits/label_space.json
Writes  models/mobilevit/, metrics/train_mobilevit.json, plots/train_mobilevit/history.csv
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vitrine.artifacts import ArtifactError
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.training import BackboneParams, Phase, Rate, TrainingError, TrainingParams, run_training


class MobilevitParams(BackboneParams):
    """The one phase."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Rate


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    params = read_section("train_mobilevit", MobilevitParams)
    phases = [Phase("full", params.epochs, params.learning_rate, params.learning_rate)]
    run_training("mobilevit", phases, params, read_section("training", TrainingParams), balanced=True)


if __name__ == "__main__":
    main()
