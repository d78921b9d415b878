"""Train the EfficientNet model in two phases: its heads on ImageNet features, then its last blocks as well.

Reads   data/splits/
Writes  models/efficientnet/, metrics/train/efficientnet.json, plots/train_efficientnet/history.csv
"""

from __future__ import annotations

from vitrine.errors import exit_on_error
from vitrine.learning.strategies import EfficientnetParams, run_training
from vitrine.learning.training import TrainingParams
from vitrine.params import read_section


def main() -> None:
    exit_on_error()
    strategy = read_section("train_efficientnet", EfficientnetParams).strategy()
    run_training("efficientnet", strategy, read_section("training", TrainingParams))


if __name__ == "__main__":
    main()
