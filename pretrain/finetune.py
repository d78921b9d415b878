"""Fine-tune on Team 13's train and val photographs, cross-validated by item: python pretrain/finetune.py MODEL.

MODEL is deit or mobilevit, trained as params.yaml says; or svm, a support vector machine on the same folds.

Reads   params.yaml, pretrain/params.yaml, weights/, data/team13/
Writes  pretrain/finetuned/MODEL.csv: accuracy with a 95 % interval over items for every task

The test photographs are never read.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vitrine.artifacts import ArtifactError, write_csv
from vitrine.catalog import CatalogError, DataParams
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.strategies import DeitParams, MobilevitParams
from vitrine.training import TrainingError, TrainingParams
from vitrine.transfer import Photographs, TransferParams, fine_tune, support_vector_machine

PARAMS = Path("pretrain/params.yaml")
SECTIONS: dict[str, type[DeitParams] | type[MobilevitParams]] = {"deit": DeitParams, "mobilevit": MobilevitParams}


def main(name: str) -> None:
    exit_on(ParamsError, ArtifactError, CatalogError, WeightsError, TrainingError)
    params = read_section("transfer", TransferParams, PARAMS)
    data = Photographs.read(read_section("team13", DataParams, PARAMS), params)
    if name == "svm":
        predicted = support_vector_machine(data, params.svm_c)
    else:
        strategy = read_section(f"train_{name}", SECTIONS[name]).strategy()
        predicted = fine_tune(data, strategy, read_section("training", TrainingParams), f"finetune_{name}")
    table = data.rows(predicted, model=name)
    write_csv(Path("pretrain/finetuned") / f"{name}.csv", table)
    print(table.to_string())


if __name__ == "__main__":
    main(sys.argv[1])
