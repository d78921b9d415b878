"""Judge backbones without fine-tuning: a linear probe on Team 13's train and val photographs, cross-validated by item.

Reads   pretrain/params.yaml, pretrain/backbones/, data/team13/
Writes  pretrain/probe.csv: accuracy with a 95 % interval over items for every backbone and task, on Team 13's
        photographs and on renders that none was trained on

The test photographs are never read.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitrine.artifacts import ArtifactError, read_json, write_csv
from vitrine.catalog import CatalogError, DataParams
from vitrine.model import WeightsError, create_model
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.transfer import Photographs, TransferParams, linear_probe

PARAMS = Path("pretrain/params.yaml")


def main() -> None:
    exit_on(ParamsError, ArtifactError, CatalogError, WeightsError)
    params = read_section("transfer", TransferParams, PARAMS)
    data = Photographs.read(read_section("team13", DataParams, PARAMS), params)
    tables = []
    for path in sorted(Path("pretrain/backbones").glob("*.safetensors")):
        card = read_json(path.with_suffix(".json"))
        size = card["arm"]["image_size_px"]
        model = create_model(card["arm"]["architecture"], str(path), data.label_space, data.decoding, size, 0.0, 0.0)
        _, features = model.infer(data.photos)
        predicted = linear_probe(data, features, params.inverse_penalty)
        tables.append(data.rows(predicted, backbone=path.stem, photographs="team13"))
        scores = pd.DataFrame(card["accuracy_on_renders"]).T.rename_axis("task").reset_index()
        tables.append(scores.assign(backbone=path.stem, photographs="renders"))
    table = pd.concat(tables, ignore_index=True)
    write_csv(Path("pretrain/probe.csv"), table.astype({"n": int}))
    print(table.to_string())


if __name__ == "__main__":
    main()
