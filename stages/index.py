"""Index the predictions of each system, and measure search on photographs that the models were not trained on.

Reads   predictions/, data/splits/, data/synonyms.yaml
Writes  index/SYSTEM/, metrics/retrieval/SYSTEM.json, plots/index/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vitrine.artifacts import read_json, read_npy, write_csv, write_metrics
from vitrine.errors import exit_on_error
from vitrine.evaluation.scoring import named_rows
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.predictions import Predictions
from vitrine.reporting.figures import photo_grid, search_rows
from vitrine.retrieval.index import Index
from vitrine.retrieval.matching import fit_match_rule, judge_matches
from vitrine.retrieval.queries import read_synonyms
from vitrine.retrieval.relevance import (
    IndexParams,
    example_queries,
    headline_retrieval_metrics,
    measure_text,
    measure_views,
    search_table,
    true_queries,
)


def main() -> None:
    exit_on_error()
    params = read_section("index", IndexParams)
    data, plots = Path("data/splits"), Path("plots/index")
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    synonyms = read_synonyms(Path("data/synonyms.yaml"))
    held_out = (table["split"] != "train").to_numpy()
    gallery = table[held_out].reset_index(drop=True)
    queries = true_queries(gallery, label_space, params)

    measured, matches, searches, gains, views = [], [], [], {}, {}
    for path in sorted(Path("predictions").glob("*.npz")):
        name, predictions = path.stem, Predictions.load(path)
        index = Index.build(name, predictions, table["instance_id"], synonyms)
        index.rule = fit_match_rule(index, table)
        index.save(Path("index") / name)
        matches.append({"model": name, **judge_matches(index, table)})
        unseen = predictions.select(held_out)
        index = Index.build(name, unseen, gallery["instance_id"], synonyms)
        scores, gains[name] = measure_text(name, unseen, index, gallery, queries, params.top_k)
        measured.append(scores)
        views[name] = measure_views(index, params.top_k)
        examples = [(query.text, query.relevant) for query in example_queries(queries)]
        shown = search_table(name, index, examples, np.ones(len(index), dtype=bool), top_k=6)
        searches.append(shown.drop(columns="row"))
        title = f"{name}: what a search finds among val and test"
        photo_grid(search_rows(shown, photos[held_out]), title, plots / f"searches_{name}.jpg")

    retrieval = pd.concat(measured)
    write_csv(plots / "retrieval.csv", named_rows(retrieval, "num_terms", "model", "method"))
    write_csv(plots / "views.csv", pd.DataFrame([{"model": name, **values} for name, values in views.items()]))
    write_csv(plots / "matches.csv", pd.DataFrame(matches))
    write_csv(plots / "searches.csv", pd.concat(searches))
    write_csv(plots / "gains.csv", pd.DataFrame([{"model": name, **values} for name, values in gains.items()]))
    for name in views:
        picked = headline_retrieval_metrics(
            retrieval[retrieval["model"] == name], gains[name], views[name], params.top_k
        )
        write_metrics(Path(f"metrics/retrieval/{name}.json"), *picked)


if __name__ == "__main__":
    main()
