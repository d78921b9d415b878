"""Evaluate what the systems refuse on real photographs: of other things, and of the same classes by other people.

Reads   models/, predictions/, data/splits/, and the folder that VITRINE_PHOTOS_DIR names; if VITRINE_TEAM13_DIR is
        set, also Team 13's photographs of train and val
Writes  metrics/ood_photos.json, plots/ood/photos.csv

The score and its threshold are those of the stage `ood`; nothing is fitted here.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from vitrine.artifacts import ArtifactError, read_csv, read_json, write_csv, write_metrics
from vitrine.data.outliers import unnamed_kinds
from vitrine.errors import exit_on_error
from vitrine.evaluation.novelty import OodParams, auroc, fpr_at_tpr, refused_share, with_item_interval
from vitrine.evaluation.scoring import named_rows, number_items
from vitrine.inference.network import Network
from vitrine.inference.novelty import Novelty
from vitrine.inference.runtimes import checkpoint_digest
from vitrine.inference.systems import NETWORKS, load_systems, system_predictions
from vitrine.labels import CLASS_TASK, LabelSpace, read_photo_table
from vitrine.params import Section, read_section
from vitrine.photos import Decoding, decode_photo
from vitrine.predictions import Predictions
from vitrine.pretraining.sources import FetchParams

PHOTOS, TEAM13 = "VITRINE_PHOTOS_DIR", "VITRINE_TEAM13_DIR"
OTHER, SAME = "photographs of other things", "Team 13's photographs of the same classes"


class PhotosParams(Section):
    """Which photographs of other things to use.

    Attributes:
        sources: tars in the folder; manifest.csv lists the original paths of their photographs
        per_category: photographs per category, evenly sampled
    """

    sources: Annotated[list[str], Field(min_length=1)]
    per_category: Annotated[int, Field(ge=1)]


def other_things(params: PhotosParams, classes: list[str], folder: Path, decoding: Decoding) -> pd.DataFrame:
    """Decode photographs of every category that shares no name with a class. Columns: photo, item (the category)."""
    known = read_section("fetch", FetchParams, Path("pretrain/params.yaml")).sources
    manifest, rows = read_csv(folder / "manifest.csv", dtype=str), []
    for source in params.sources:
        table = manifest[manifest["source"] == source]
        categories = table["source_path"].str.split("/").str[-2].str.lower()
        words = categories.str.replace(r"[-_]", " ", regex=True).str.split()
        kept = [bool(unnamed_kinds(each, classes)) and len(unnamed_kinds(each, classes)) == len(each) for each in words]
        table = table.assign(category=categories)[kept]
        if source not in known or table.empty:
            raise ArtifactError(f"{folder / 'manifest.csv'}: names no photographs of {source}")
        picked = pd.concat([_evenly(each, params.per_category) for _, each in table.groupby("category")])
        with tarfile.open(folder / f"{source}.tar") as archive, tempfile.TemporaryDirectory() as temporary:
            for row in picked.itertuples():
                archive.extract(str(row.file), temporary, filter="data")
                photo = decode_photo(Path(temporary) / str(row.file), decoding.photo_size_px, decoding.max_megapixels)
                rows.append((photo, f"{source}/{row.category}"))
    return pd.DataFrame(rows, columns=["photo", "item"])


def _evenly(table: pd.DataFrame, num: int) -> pd.DataFrame:
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, min(num, len(table))).round().astype(int))]


def same_classes(folder: Path, decoding: Decoding) -> pd.DataFrame:
    """Decode Team 13's photographs of train and val. Columns: photo, item."""
    table = read_csv(folder / "labels.csv", dtype=str).query("split != 'test'")
    sizes = decoding.photo_size_px, decoding.max_megapixels
    photos = [decode_photo(folder / path, *sizes) for path in table["image_path"]]
    return pd.DataFrame({"photo": photos, "item": table["instance_id"].to_numpy()})


def main() -> None:
    exit_on_error()
    if not os.environ.get(PHOTOS):
        raise ArtifactError(f"{PHOTOS}: is not set. It must name the folder of tars that docs/pretraining.md describes")
    data, seed = Path("data/splits"), read_section("ood", OodParams).seed
    params = read_section("photos", PhotosParams, Path("ood/params.yaml"))
    table = read_photo_table(data / "photos.csv")
    test = (table["split"] == "test").to_numpy()
    items = np.unique(number_items(table["instance_id"])[test], return_inverse=True)[1].astype(np.int64)
    classes = LabelSpace.from_json(read_json(data / "label_space.json")).labels[CLASS_TASK]
    decoding = Decoding(**read_json(data / "decoding.json"))
    groups = {OTHER: other_things(params, list(classes), Path(os.environ[PHOTOS]), decoding)}
    if os.environ.get(TEAM13):
        groups[SAME] = same_classes(Path(os.environ[TEAM13]), decoding)

    systems = load_systems(Path("models/systems.json"))
    networks = {name: Network.load(Path("models") / name) for name in NETWORKS}
    raw = {
        group: {
            name: each.predict(np.stack(photos["photo"].to_list()), photos["item"]) for name, each in networks.items()
        }
        for group, photos in groups.items()
    }
    rows: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for system in systems:
        novelty = Novelty.load(Path("models"), system, checkpoint_digest(system, Path("models")))
        if novelty is None:
            raise ArtifactError("models/novelty: not found. Create it with: dvc repro ood")
        known = novelty.scores(Predictions.load(Path("predictions") / f"{system}.npz").select(test))
        for group, photos in groups.items():
            scores = novelty.scores(system_predictions(system, systems, raw[group]))
            numbers = number_items(photos["item"])
            found = {"refused": refused_share(scores > novelty.threshold, numbers)}
            if group == OTHER:
                for name, measure in (("auroc", auroc), ("fpr", fpr_at_tpr)):
                    found[name] = with_item_interval(measure, (known, items), (scores, numbers), seed)
            row: dict[str, Any] = {"system": system, "group": group, "score": novelty.detector.score}
            row |= {"n": len(scores), "num_items": int(numbers.max()) + 1}
            for name, (value, low, high) in found.items():
                row |= {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
                key = f"{system}_{name}" if group == OTHER else f"{system}_team13_wrongly_refused"
                metrics[key], intervals[key] = value, (low, high)
            rows.append(row)
    write_csv(Path("plots/ood/photos.csv"), named_rows(pd.DataFrame(rows), "system", "group"))
    write_metrics(Path("metrics/ood_photos.json"), metrics, intervals)


if __name__ == "__main__":
    main()
