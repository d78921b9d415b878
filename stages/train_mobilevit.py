"""Train the MobileViT model in one phase, drawing every class equally often.

Reads   data/splits/, models/efficientnet/, which teaches
Writes  models/mobilevit/, metrics/train_mobilevit.json, plots/train_mobilevit/history.csv
"""

from __future__ import annotations

from vitrine.artifacts import ArtifactError
from vitrine.distillation import DistillationParams
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.strategies import MobilevitParams, run_training
from vitrine.training import TrainingError, TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    strategy = read_section("train_mobilevit", MobilevitParams).strategy()
    params = read_section("training", TrainingParams)
    run_training("mobilevit", strategy, params, read_section("distillation", DistillationParams))


if __name__ == "__main__":
    main()
