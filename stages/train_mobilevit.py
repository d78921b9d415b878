"""Train the MobileViT model in one phase, sampling every class equally often.

Reads   data/splits/, models/efficientnet/ (the teacher)
Writes  models/mobilevit/, metrics/train/mobilevit.json, plots/train_mobilevit/history.csv
"""

from __future__ import annotations

from vitrine.errors import exit_on_error
from vitrine.learning.distillation import DistillationParams
from vitrine.learning.strategies import MobilevitParams, run_training
from vitrine.learning.training import TrainingParams
from vitrine.params import read_section


def main() -> None:
    exit_on_error()
    strategy = read_section("train_mobilevit", MobilevitParams).strategy()
    params = read_section("training", TrainingParams)
    run_training("mobilevit", strategy, params, read_section("distillation", DistillationParams))


if __name__ == "__main__":
    main()
