"""Train the DeiT model in two phases: its heads on a frozen backbone, then all layers, the backbone more slowly.

Reads   data/splits/, models/efficientnet/ (the teacher)
Writes  models/deit/, metrics/train/deit.json, plots/train_deit/history.csv
"""

from __future__ import annotations

from vitrine.errors import exit_on_error
from vitrine.learning.distillation import DistillationParams
from vitrine.learning.strategies import DeitParams, run_training
from vitrine.learning.training import TrainingParams
from vitrine.params import read_section


def main() -> None:
    exit_on_error()
    strategy = read_section("train_deit", DeitParams).strategy()
    params = read_section("training", TrainingParams)
    run_training("deit", strategy, params, read_section("distillation", DistillationParams))


if __name__ == "__main__":
    main()
