"""Compare every export with the pipeline's predictions on val and test; decide which ones may be served.

Reads   exports/, models/, predictions/, data/splits/, data/synonyms.yaml
Writes  exports/gates.json, metrics/export.json, plots/export/parity.csv

Fails if a float32 export exceeds its limits; lower-precision exports that exceed theirs are not served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from vitrine.artifacts import read_json, read_npy, write_csv, write_json, write_metrics
from vitrine.errors import exit_on_error
from vitrine.evaluation.parity import TIE, cosine_loss, faults, novelty_differences, prediction_differences
from vitrine.evaluation.scoring import named_rows
from vitrine.inference.export import ExportError
from vitrine.inference.novelty import Novelty
from vitrine.inference.runtimes import (
    GATES,
    TORCH_BF16,
    ExportRuntime,
    available_variants,
    checkpoint_digest,
    open_variant,
)
from vitrine.inference.systems import load_systems
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index
from vitrine.retrieval.queries import read_synonyms
from vitrine.retrieval.relevance import IndexParams, mean_average_precision, true_queries

BATCH_SIZES = (1, 3, 32)


def main() -> None:
    exit_on_error()
    data = Path("data/splits")
    table, photos = read_photo_table(data / "photos.csv"), read_npy(data / "photos.npy")
    label_space = LabelSpace.from_json(read_json(data / "label_space.json"))
    held_out = (table["split"] != "train").to_numpy()
    gallery, photos = table[held_out].reset_index(drop=True), photos[held_out]
    queries = true_queries(gallery, label_space, read_section("index", IndexParams))
    codes, synonyms = label_space.encode(gallery), read_synonyms(Path("data/synonyms.yaml"))

    def average_precision(predictions: Predictions) -> float:
        return mean_average_precision(Index.build("", predictions, gallery["instance_id"], synonyms), queries)

    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    gates: dict[str, dict[str, bool]] = {}
    systems = load_systems(Path("models/systems.json"))
    ensembles = {name: len(system.networks) > 1 for name, system in systems.items()}
    for name in sorted(ensembles, key=lambda name: (ensembles[name], name)):  # they need their networks' gates
        folder = Path("exports") / name
        reference = Predictions.load(Path("predictions") / f"{name}.npz").select(held_out)
        expected = average_precision(reference)
        novelty = Novelty.load(Path("models"), name, checkpoint_digest(name, Path("models")))
        for variant in available_variants(ensembles[name]):
            runtime, precision = open_variant(folder, variant, Path("models")), variant.split()[1]
            measured = []
            for size in BATCH_SIZES:
                if isinstance(runtime, ExportRuntime):
                    probs, embeddings, graph = runtime.predict_all(photos, size)
                else:
                    (probs, embeddings), graph = runtime.predict(photos, size), None
                differences = prediction_differences(reference.probs, probs, codes, TIE if precision == "fp32" else 0.0)
                predictions = Predictions(label_space, reference.image_paths, probs, embeddings)
                differences["cosine_loss"] = cosine_loss(reference.embeddings, embeddings)
                differences["map_loss"] = expected - average_precision(predictions)
                if novelty is not None:
                    scores = novelty.scores(reference), novelty.scores(predictions), novelty.threshold
                    differences |= novelty_differences(*scores, graph if precision == "fp32" else None)
                measured.append(differences)
            worst = {key: max(each[key] for each in measured) for key in measured[0]}
            beyond = "; ".join(faults(precision, worst))
            rows.append({"model": name, "variant": variant, "passed": not beyond, **worst, "beyond": beyond})
            if precision == "fp32" and beyond:
                failed.append(f"{name}, {variant}: {beyond}")
            gates.setdefault(name, {})[variant] = not beyond
        write_json(Path("exports") / GATES, gates)
    parity = pd.DataFrame(rows)
    write_csv(Path("plots/export/parity.csv"), named_rows(parity, "model", "variant"))
    exact = parity["variant"].str.endswith("fp32")
    largest = ("logit_difference", "novelty_difference")
    metrics = {f"fp32_{name}": parity.loc[exact, name].max() for name in largest if name in parity}
    for row in parity[~exact & (parity["variant"] != TORCH_BF16)].itertuples():
        metrics[f"{row.model}_{str(row.variant).replace(' ', '_')}"] = row.changed
    write_metrics(Path("metrics/export.json"), metrics, digits=6)
    if failed:
        (Path("exports") / GATES).unlink()
        raise ExportError("\n".join(failed))


if __name__ == "__main__":
    main()
