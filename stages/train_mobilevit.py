"""Train the MobileViT model in one phase, drawing every class equally often.

Reads   data/splits/photos.csv, data/splits/photos.npy, data/splits/label_space.json
Writes  models/mobilevit/, metrics/train_mobilevit.json, plots/train_mobilevit/history.csv
"""

from __future__ import annotations

from vitrine.artifacts import ArtifactError
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.strategies import MobilevitParams, run_training
from vitrine.training import TrainingError, TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError, TrainingError)
    strategy = read_section("train_mobilevit", MobilevitParams).strategy()
    run_training("mobilevit", strategy, read_section("training", TrainingParams))


if __name__ == "__main__":
    main()
