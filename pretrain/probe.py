"""Probe the snapshots of a run by photographs with labels: python pretrain/probe.py NAME [FOLDER].

Reads   .resume/distill_NAME/*.safetensors, FOLDER (data/splits unless named): the photographs of train and val; those
        of test are never looked at
Writes  pretrain/curves/NAME.csv: accuracy of logistic regression on frozen features, by cross-validation over items,
        against the pictures seen; the first row is the weights that the run started from
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from vitrine.artifacts import read_json, read_npy, write_csv
from vitrine.errors import exit_on_error
from vitrine.labels import MISSING, LabelSpace, read_photos
from vitrine.learning.model import create_model
from vitrine.learning.preprocess import Decoding
from vitrine.params import read_section
from vitrine.pretraining.run import StudentParams

FOLDS = 5
TASKS = ("class", "color")


def accuracy(features: NDArray[np.float32], codes: NDArray[np.int64], items: NDArray[np.str_]) -> float:
    """Return the share of photographs that a probe names right which never saw their item."""
    labeled = codes != MISSING
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    folds = GroupKFold(FOLDS).split(features[labeled], groups=items[labeled])
    return float(np.mean(cross_val_predict(probe, features[labeled], codes[labeled], cv=list(folds)) == codes[labeled]))


def main(name: str, folder: Path) -> None:
    exit_on_error()
    params = read_section(f"distill_{name}", StudentParams, Path("pretrain/params.yaml"))
    table = read_photos(folder / "photos.csv")
    known = (table["split"] != "test").to_numpy()
    photos, table = read_npy(folder / "photos.npy")[known], table[known]
    decoding = Decoding(**read_json(folder / "decoding.json"))
    space = LabelSpace.from_json(read_json(folder / "label_space.json"))
    codes, items = space.encode(table), table["instance_id"].to_numpy(dtype=str)
    rows = []
    snapshots = sorted((Path(".resume") / f"distill_{name}").glob("0*.safetensors"))
    for seen, start in tqdm([(0, params.start), *((int(path.stem), str(path)) for path in snapshots)], disable=None):
        model = create_model(params.architecture, start, LabelSpace({}), decoding, params.image_size_px, 0.0, 0.0)
        _, features = model.infer(photos)
        rows.append({"pictures": seen, **{task: accuracy(features, codes[task], items) for task in TASKS}})
    write_csv(Path("pretrain/curves") / f"{name}.csv", pd.DataFrame(rows), digits=4)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "data/splits"))
