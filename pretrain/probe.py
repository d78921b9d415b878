"""Judge backbones without fine-tuning: a linear probe on Team 13's train and val photographs, cross-validated by item.

Reads   pretrain/params.yaml, pretrain/backbones/, data/team13/
Writes  pretrain/probe.csv: accuracy with a 95 % interval over items for every backbone and task

The test photographs are never read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from vitrine.artifacts import ArtifactError, read_json, write_csv
from vitrine.catalog import CatalogError, DataParams, decode_photos, read_catalog
from vitrine.labels import LabelSpace
from vitrine.model import WeightsError, create_model
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.pretraining import linear_probe
from vitrine.scoring import number_items, rate
from vitrine.splits import FoldParams, assign_folds

PARAMS = Path("pretrain/params.yaml")


class ProbeParams(FoldParams):
    """How to probe."""

    inverse_penalty: Annotated[float, Field(gt=0)]
    photo_size_px: Annotated[int, Field(ge=16)]


def main() -> None:
    exit_on(ParamsError, ArtifactError, CatalogError, WeightsError)
    params, data = read_section("probe", ProbeParams, PARAMS), read_section("team13", DataParams, PARAMS)
    folder = Path(data.path)
    table = read_catalog(folder, data)
    table = table[table["split"] != "test"].reset_index(drop=True)
    photos = decode_photos(folder, table, params.photo_size_px, max_megapixels=50.0)
    space = LabelSpace({task: tuple(sorted(table[task].dropna().unique())) for task in data.tasks})
    codes, items = space.encode(table), number_items(list(table["instance_id"]))
    folds = assign_folds(table, params)
    rows = []
    for path in sorted(Path("pretrain/backbones").glob("*.safetensors")):
        arm = read_json(path.with_suffix(".json"))["arm"]
        size = arm["image_size_px"]
        model = create_model(arm["architecture"], str(path), space, params.photo_size_px, size, 0.0, 0.0)
        _, features = model.infer(photos)
        for task in space:
            correct = linear_probe(features, codes[task], folds, params.inverse_penalty)
            known = codes[task] >= 0
            rows.append({"backbone": path.stem, "task": task, "n": int(known.sum())})
            rows[-1] |= rate(correct[known], items[known])
    write_csv(Path("pretrain/probe.csv"), pd.DataFrame(rows))
    print(pd.DataFrame(rows).to_string())


if __name__ == "__main__":
    main()
