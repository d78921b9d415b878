"""Build a text index of each model's predictions, and measure it on photographs that the models were not trained on.

Reads   predictions/, data/splits/
Writes  index/MODEL/, metrics/retrieval.json, plots/index/
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitrine.artifacts import ArtifactError, read_json, read_npy, write_csv, write_metrics
from vitrine.figures import photo_grid, search_rows
from vitrine.labels import LabelSpace, read_photos
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.predictions import Predictions
from vitrine.retrieval import IndexParams, TextIndex, example_queries, headline, measure, search_table, true_queries


def main() -> None:
    exit_on(ParamsError, ArtifactError)
    params = read_section("index", IndexParams)
    data, plots = Path("data/splits"), Path("plots/index")
    table, photos = read_photos(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    gallery = (table["split"] != "train").to_numpy()
    queries = true_queries(table[gallery], label_space, params)

    measured, searches = [], []
    for path in sorted(Path("predictions").glob("*.npz")):
        name = path.stem
        index = TextIndex.build(Predictions.load(path))
        index.save(Path("index") / name)
        measured.append(measure(name, index, queries, gallery, params.top_k))
        found = search_table(name, index, example_queries(queries), gallery, top_k=6)
        searches.append(found.drop(columns="row"))
        title = f"{name}: what a search finds among val and test"
        photo_grid(search_rows(found, photos), title, plots / f"searches_{name}.jpg")

    retrieval = pd.concat(measured)
    write_csv(plots / "retrieval.csv", retrieval)
    write_csv(plots / "searches.csv", pd.concat(searches))
    write_metrics(Path("metrics/retrieval.json"), headline(retrieval))


if __name__ == "__main__":
    main()
