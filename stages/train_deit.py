"""Train the DeiT model in two phases: its heads on a frozen backbone, then everything, the backbone more slowly.

Reads   data/splits/photos.csv, data/splits/photos.npy, data/splits/label_space.json
Writes  models/deit/, metrics/train_deit.json, plots/train_deit/history.csv
"""

from __future__ import annotations

from vitrine.artifacts import ArtifactError
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.strategies import DeitParams, run_training
from vitrine.training import TrainingError, TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    strategy = read_section("train_deit", DeitParams).strategy()
    run_training("deit", strategy, read_section("training", TrainingParams))


if __name__ == "__main__":
    main()
