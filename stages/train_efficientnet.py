"""Train the EfficientNet model in two phases: its heads on ImageNet's features, then its last blocks, too.

Reads   data/splits/
Writes  models/efficientnet/, metrics/train_efficientnet.json, plots/train_efficientnet/history.csv
"""

from __future__ import annotations

from vitrine.artifacts import ArtifactError
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.strategies import EfficientnetParams, run_training
from vitrine.training import TrainingError, TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    strategy = read_section("train_efficientnet", EfficientnetParams).strategy()
    run_training("efficientnet", strategy, read_section("training", TrainingParams))


if __name__ == "__main__":
    main()
