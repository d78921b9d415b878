"""Train the DeiT model in two phases: its heads on a frozen backbone, then everything, the backbone more slowly.

Reads   data/splits/, models/efficientnet/, which teaches
Writes  models/deit/, metrics/train_deit.json, plots/train_deit/history.csv
"""

from __future__ import annotations

from vitrine.artifacts import ArtifactError
from vitrine.distillation import DistillationParams
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.strategies import DeitParams, run_training
from vitrine.training import TrainingError, TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    strategy = read_section("train_deit", DeitParams).strategy()
    params = read_section("training", TrainingParams)
    run_training("deit", strategy, params, read_section("distillation", DistillationParams))


if __name__ == "__main__":
    main()
